// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/prompt_flags.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "clients/cli/json.h"

namespace farspan::cli {
namespace {

constexpr size_t kLimitBytes = size_t{64} << 20;  // what a message may hold

absl::StatusOr<std::string> ReadAll(std::istream& stream, const std::string& name) {
  std::string content;
  std::vector<char> block(size_t{1} << 16);
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())), stream.gcount() > 0) {
    content.append(block.data(), static_cast<size_t>(stream.gcount()));
    if (content.size() > kLimitBytes) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": is larger than the 64 MiB that one request may hold"));
    }
  }
  if (stream.bad()) return absl::NotFoundError(absl::StrCat("cannot read ", name, ": ", std::strerror(errno)));
  return content;
}

absl::StatusOr<std::string> ReadFile(const std::string& path, Console* console) {
  if (path == "-") return ReadAll(console->in, "standard input");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (file) file.peek();  // a directory opens but does not read
  if (file.bad() || !file.is_open()) {
    return absl::NotFoundError(absl::StrCat("cannot read ", Quoted(path), ": ", std::strerror(errno)));
  }
  file.clear();
  return ReadAll(file, Quoted(path));
}

absl::StatusOr<Json> ReadJson(const std::string& path, Console* console) {
  absl::StatusOr<std::string> content = ReadFile(path, console);
  if (!content.ok()) return content.status();
  Json json = Json::parse(*content, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": is not valid JSON"));
  return json;
}

absl::StatusOr<v1::TokenList> ReadTokens(const std::string& path, Console* console) {
  absl::StatusOr<Json> json = ReadJson(path, console);
  if (!json.ok()) return json.status();
  if (json->is_object() && json->contains("token_ids")) *json = Json((*json)["token_ids"]);
  if (!json->is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(path), ": must hold an array of token ids, or an object with one under \"token_ids\""));
  }
  v1::TokenList tokens;
  for (size_t i = 0; i < json->size(); ++i) {
    const Json& id = (*json)[i];
    const bool fits = id.is_number_integer() && !(id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX) &&
                      id.get<int64_t>() >= 0 && id.get<int64_t>() <= std::numeric_limits<int32_t>::max();
    if (!fits) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": element ", i, " must be a token id, got ",
                                                     Quoted(id.dump(-1, ' ', true, Json::error_handler_t::replace))));
    }
    tokens.add_ids(id.get<int32_t>());
  }
  return tokens;
}

absl::StatusOr<v1::Chat> ReadChat(const std::string& path, Console* console) {
  absl::StatusOr<Json> json = ReadJson(path, console);
  if (!json.ok()) return json.status();
  if (json->is_object() && json->contains("messages")) *json = Json((*json)["messages"]);
  const auto malformed = [&](const std::string& where) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(path), ": ", where, R"( must be {"role": "system", "user" or "assistant", "content": "..."})"));
  };
  if (!json->is_array()) return malformed("each element of an array");
  v1::Chat chat;
  for (size_t i = 0; i < json->size(); ++i) {
    const Json& entry = (*json)[i];
    const bool shaped = entry.is_object() && entry.contains("role") && entry["role"].is_string() &&
                        entry.contains("content") && entry["content"].is_string();
    if (!shaped) return malformed(absl::StrCat("element ", i));
    const auto role = entry["role"].get<std::string>();
    v1::ChatMessage::Role value = v1::ChatMessage::ROLE_UNSPECIFIED;
    if (role == "system") value = v1::ChatMessage::ROLE_SYSTEM;
    if (role == "user") value = v1::ChatMessage::ROLE_USER;
    if (role == "assistant") value = v1::ChatMessage::ROLE_ASSISTANT;
    if (value == v1::ChatMessage::ROLE_UNSPECIFIED) return malformed(absl::StrCat("element ", i));
    *chat.add_messages() = Message(value, entry["content"].get<std::string>());
  }
  return chat;
}

}  // namespace

v1::ChatMessage Message(v1::ChatMessage::Role role, const std::string& content) {
  v1::ChatMessage message;
  message.set_role(role);
  message.set_content(content);
  return message;
}

void PromptFlags::AddTo(FlagSet* flags) {
  flags->AddText("prompt", "TEXT", "The prompt.", &text_);
  flags->AddText("prompt-file", "FILE", "The prompt is this file's whole content; - is standard input.", &file_);
  flags->AddText(
      "prompt-tokens-file", "FILE.json",
      "The prompt is a JSON array of token ids, or an object with one under \"token_ids\" as tokenize --json "
      "prints; - is standard input.",
      &tokens_file_);
  flags->AddText("chat-file", "FILE.json",
                 R"(The prompt is a chat: a JSON array of {"role", "content"}, roles system, user and assistant; - is )"
                 "standard input.",
                 &chat_file_);
  flags->AddSwitch("chat", "Wraps the prompt as one user message in the model's chat template.", &chat_);
  flags->AddText("system", "TEXT", "System message before the prompt; needs --chat.", &system_);
}

absl::Status PromptFlags::Check() const {
  const int sources = text_.has_value() + file_.has_value() + tokens_file_.has_value() + chat_file_.has_value();
  if (sources != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("exactly one of --prompt, --prompt-file, --prompt-tokens-file and --chat-file must be given, got ",
                     sources == 0 ? "none" : absl::StrCat(sources)));
  }
  const bool is_text = text_.has_value() || file_.has_value();
  if (chat_ && !is_text) return absl::InvalidArgumentError("--chat: needs --prompt or --prompt-file");
  if (system_ && !chat_) return absl::InvalidArgumentError("--system: needs --chat");
  return absl::OkStatus();
}

absl::StatusOr<v1::Prompt> PromptFlags::Read(Console* console) const {
  v1::Prompt prompt;
  if (tokens_file_) {
    absl::StatusOr<v1::TokenList> tokens = ReadTokens(*tokens_file_, console);
    if (!tokens.ok()) return tokens.status();
    *prompt.mutable_tokens() = *std::move(tokens);
    return prompt;
  }
  if (chat_file_) {
    absl::StatusOr<v1::Chat> chat = ReadChat(*chat_file_, console);
    if (!chat.ok()) return chat.status();
    *prompt.mutable_chat() = *std::move(chat);
    return prompt;
  }
  absl::StatusOr<std::string> text = file_ ? ReadFile(*file_, console) : *text_;
  if (!text.ok()) return text.status();
  if (!chat_) {
    prompt.set_text(*std::move(text));
    return prompt;
  }
  if (system_) *prompt.mutable_chat()->add_messages() = Message(v1::ChatMessage::ROLE_SYSTEM, *system_);
  *prompt.mutable_chat()->add_messages() = Message(v1::ChatMessage::ROLE_USER, *text);
  return prompt;
}

}  // namespace farspan::cli
