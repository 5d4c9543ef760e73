// SPDX-License-Identifier: Apache-2.0
// The flags that say what the model continues.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/cli/console.h"
#include "clients/cli/flag_set.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

class PromptFlags {
 public:
  void AddTo(FlagSet* flags);

  // Whether the flags make sense together: exactly one source, chat options with a text.
  absl::Status Check() const;

  // Reads the files named; "-" is standard input. NOT_FOUND where one cannot be read, INVALID_ARGUMENT where it does
  // not hold what it should. After Check.
  absl::StatusOr<v1::Prompt> Read(Console* console) const;

 private:
  std::optional<std::string> text_;
  std::optional<std::string> file_;
  std::optional<std::string> tokens_file_;
  std::optional<std::string> chat_file_;
  std::optional<std::string> system_;
  bool chat_ = false;
};

// A message of a chat.
v1::ChatMessage Message(v1::ChatMessage::Role role, const std::string& content);

}  // namespace farspan::cli
