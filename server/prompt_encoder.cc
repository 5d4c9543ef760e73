// SPDX-License-Identifier: Apache-2.0
#include "server/prompt_encoder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "server/error.h"

namespace farspan {
namespace {

absl::Status Violation(std::string field, std::string description) {
  return InvalidFields({{std::move(field), std::move(description)}});
}

absl::StatusOr<EncodedPrompt> EncodeText(const std::string& text, absl::string_view path, const Tokenizer& tokenizer) {
  absl::StatusOr<std::vector<TokenId>> tokens = tokenizer.Encode(text);
  if (!tokens.ok()) return Violation(absl::StrCat(path, ".text"), std::string(tokens.status().message()));
  EncodedPrompt encoded;
  encoded.tokens = *std::move(tokens);
  encoded.bos_added = tokenizer.adds_bos();
  if (encoded.bos_added) encoded.tokens.insert(encoded.tokens.begin(), *tokenizer.bos_id());
  return encoded;
}

ChatRole RoleOf(v1::ChatMessage::Role role) {
  if (role == v1::ChatMessage::ROLE_SYSTEM) return ChatRole::kSystem;
  return role == v1::ChatMessage::ROLE_ASSISTANT ? ChatRole::kAssistant : ChatRole::kUser;
}

absl::StatusOr<EncodedPrompt> EncodeChat(const v1::Chat& chat, absl::string_view path, const ServedModel& model) {
  if (!model.chat_template) {
    return InvalidFields({{absl::StrCat(path, ".chat"), "the model has no chat template that this server knows"}},
                         reason::kChatUnsupported);
  }
  if (chat.messages().empty()) return Violation(absl::StrCat(path, ".chat.messages"), "must have at least one element");
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    if (message.role() == v1::ChatMessage::ROLE_UNSPECIFIED) {
      return Violation(absl::StrCat(path, ".chat.messages[", i, "].role"),
                       "must be one of ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, got none");
    }
    messages.push_back({RoleOf(message.role()), message.content()});
  }
  absl::StatusOr<RenderedChat> rendered = model.chat_template->Render(messages, /*add_generation_prompt=*/true);
  if (!rendered.ok()) return Violation(absl::StrCat(path, ".chat"), std::string(rendered.status().message()));
  return EncodedPrompt{std::move(rendered->token_ids), std::move(rendered->added_system_prompt), rendered->bos_added};
}

}  // namespace

absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, const std::string& path,
                           int64_t vocab_size) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return Violation(absl::StrCat(path, "[", i, "]"),
                       absl::StrCat("must be from 0 to ", vocab_size - 1, ", got ", ids[i]));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EncodedPrompt> EncodePrompt(const v1::Prompt& prompt, absl::string_view path, const ServedModel& model) {
  switch (prompt.content_case()) {
    case v1::Prompt::kText:
      return EncodeText(prompt.text(), path, *model.tokenizer);
    case v1::Prompt::kTokens: {
      const std::string ids_path = absl::StrCat(path, ".tokens.ids");
      if (prompt.tokens().ids().empty()) return Violation(ids_path, "must have at least one element");
      FARSPAN_RETURN_IF_ERROR(CheckTokenIds(prompt.tokens().ids(), ids_path, model.shape.vocab_size));
      return EncodedPrompt{{prompt.tokens().ids().begin(), prompt.tokens().ids().end()}, "", false};
    }
    case v1::Prompt::kChat:
      return EncodeChat(prompt.chat(), path, model);
    case v1::Prompt::CONTENT_NOT_SET:
      break;
  }
  return Violation(std::string(path), "must hold one of text, tokens, chat");
}

}  // namespace farspan
