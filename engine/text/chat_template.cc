// SPDX-License-Identifier: Apache-2.0
#include "engine/text/chat_template.h"

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

constexpr char kStartMarker[] = "<|im_start|>";
constexpr char kEndMarker[] = "<|im_end|>";

struct KnownTemplate {
  const char* text;
  const char* default_system_prompt;
};

// ChatML in the spellings that model files hold; \n inside of a string literal may be escaped there or not.
constexpr KnownTemplate kKnownTemplates[] = {
    // SmolLM2-Instruct.
    {"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
     "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {kPlainChatTemplate, ""},
    {"{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
     "{% for message in messages %}"
     "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
     ""},
};

const char* RoleName(ChatRole role) {
  switch (role) {
    case ChatRole::kSystem:
      return "system";
    case ChatRole::kUser:
      return "user";
    case ChatRole::kAssistant:
      return "assistant";
  }
  return "";
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Create(std::string_view template_text, const Tokenizer& tokenizer) {
  if (template_text.empty()) {
    return absl::FailedPreconditionError("the model file has no chat template; send a raw prompt instead of a chat");
  }
  const std::string text = absl::StrReplaceAll(std::string(template_text), {{"\\n", "\n"}});
  for (const KnownTemplate& known : kKnownTemplates) {
    if (text != known.text) continue;
    const std::optional<TokenId> start_id = tokenizer.FindControl(kStartMarker);
    const std::optional<TokenId> end_id = tokenizer.FindControl(kEndMarker);
    if (!start_id.has_value() || !end_id.has_value()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the model's chat template needs the control token ", start_id.has_value() ? kEndMarker : kStartMarker,
          ", which its vocabulary lacks; send a raw prompt instead of a chat"));
    }
    return ChatTemplate(tokenizer, known.default_system_prompt, *start_id, *end_id);
  }
  return absl::FailedPreconditionError(
      "the model file's chat template is none that this server knows (ChatML, SmolLM2's ChatML), and templates of "
      "model files are never executed; send a raw prompt instead of a chat");
}

absl::Status ChatTemplate::AppendMessage(std::string_view role, std::string_view content,
                                         std::vector<TokenId>& ids) const {
  std::string text(role);
  text += '\n';
  text += content;
  const absl::StatusOr<std::vector<TokenId>> text_ids = tokenizer_->Encode(text);
  if (!text_ids.ok()) {
    const absl::Status status = tokenizer_->Encode(content).status();
    return status.ok() ? text_ids.status() : status;
  }
  FARSPAN_ASSIGN_OR_RETURN(const std::vector<TokenId> newline_ids, tokenizer_->Encode("\n"));
  ids.push_back(start_id_);
  ids.insert(ids.end(), text_ids->begin(), text_ids->end());
  ids.push_back(end_id_);
  ids.insert(ids.end(), newline_ids.begin(), newline_ids.end());
  return absl::OkStatus();
}

absl::StatusOr<RenderedChat> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                  bool add_generation_prompt) const {
  if (messages.empty()) return absl::InvalidArgumentError("messages: expected at least one; got none");
  RenderedChat chat;
  // The template of a model whose BOS is the marker of a message begins with it already.
  if (tokenizer_->adds_bos() && *tokenizer_->bos_id() != start_id_) {
    chat.token_ids.push_back(*tokenizer_->bos_id());
    chat.bos_added = true;
  }
  if (!default_system_prompt_.empty() && messages.front().role != ChatRole::kSystem) {
    FARSPAN_RETURN_IF_ERROR(AppendMessage("system", default_system_prompt_, chat.token_ids));
    chat.added_system_prompt = default_system_prompt_;
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const absl::Status status = AppendMessage(RoleName(messages[i].role), messages[i].content, chat.token_ids);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("messages[", i, "].content: ", status.message()));
    }
  }
  if (add_generation_prompt) {
    FARSPAN_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer_->Encode("assistant\n"));
    chat.token_ids.push_back(start_id_);
    chat.token_ids.insert(chat.token_ids.end(), ids.begin(), ids.end());
  }
  return chat;
}

}  // namespace farspan
