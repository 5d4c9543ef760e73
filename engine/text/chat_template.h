// SPDX-License-Identifier: Apache-2.0
// Renders chat messages to token ids. The template in a model file is a program of a stranger: it is compared with the
// templates that we know and never executed. Markers come from here alone; what people wrote is encoded as plain text.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/ids.h"
#include "engine/text/tokenizer.h"

namespace farspan {

// The source text of ChatML without a default system prompt, as model files hold it.
inline constexpr char kPlainChatTemplate[] =
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

enum class ChatRole { kSystem, kUser, kAssistant };

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;  // UTF-8
};

struct RenderedChat {
  std::vector<TokenId> token_ids;
  std::string added_system_prompt;  // what the template put before the first message; empty if nothing
  bool bos_added = false;           // token_ids begins with a BOS that is no part of the template
};

// Immutable. Thread-safe.
class ChatTemplate {
 public:
  // `template_text` is the model file's own; `tokenizer` outlives the result. FAILED_PRECONDITION if the file has no
  // template, one that we do not know, or lacks its control tokens: raw prompts still work then.
  static absl::StatusOr<ChatTemplate> Create(std::string_view template_text, const Tokenizer& tokenizer);

  // The ids that the model file's template renders. With `add_generation_prompt` they end where the assistant's answer
  // begins. INVALID_ARGUMENT names the message whose content cannot be encoded, or says that there is none.
  absl::StatusOr<RenderedChat> Render(std::span<const ChatMessage> messages, bool add_generation_prompt) const;

 private:
  ChatTemplate(const Tokenizer& tokenizer, std::string_view default_system_prompt, TokenId start_id, TokenId end_id)
      : tokenizer_(&tokenizer), default_system_prompt_(default_system_prompt), start_id_(start_id), end_id_(end_id) {}

  absl::Status AppendMessage(std::string_view role, std::string_view content, std::vector<TokenId>& ids) const;

  const Tokenizer* tokenizer_;
  std::string default_system_prompt_;  // empty: none
  TokenId start_id_;                   // <|im_start|>
  TokenId end_id_;                     // <|im_end|>
};

}  // namespace farspan
