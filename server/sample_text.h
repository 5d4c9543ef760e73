// SPDX-License-Identifier: Apache-2.0
// The tokens of one sample on their way to text: whole characters, ended by a stop token or a stop string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/ids.h"
#include "engine/text/detokenizer.h"
#include "engine/text/stop_matcher.h"

namespace farspan {

// What ends the text of every sample of a request.
struct TextStops {
  std::vector<std::string> strings;
  bool include_string = false;     // leaves the stop string that matched in the text
  int64_t min_tokens = 0;          // stop strings that are complete before are passed over
  std::vector<TokenId> token_ids;  // ascending; may end the sample, and are no text where they do
};

// Delivery thread only.
class SampleText {
 public:
  // INVALID_ARGUMENT when a stop string cannot be matched. Stops and tokenizer outlive it.
  static absl::StatusOr<SampleText> Create(const TextStops* stops, const Tokenizer& tokenizer);

  // The sample's next token. False once a stop string has matched: the token is none of the answer's.
  bool Push(TokenId token);
  // No token follows; `by_stop_token` says that the last one ended the sample and is no text.
  void End(bool by_stop_token);

  // What was completed since the last call.
  std::string TakeText() { return std::exchange(text_, {}); }
  // Tokens taken, up to and including the one that completed a stop string.
  int64_t num_tokens() const { return num_tokens_; }
  // The stop string that ended the text; null while there is none.
  const std::string* matched() const { return matched_ ? &stops_->strings[*matched_] : nullptr; }

 private:
  SampleText(const TextStops* stops, const Tokenizer& tokenizer, StopMatcher matcher)
      : stops_(stops), detokenizer_(tokenizer), matcher_(std::move(matcher)) {}

  void TakeHeldToken();
  void Append(const std::string& text, bool may_stop);

  const TextStops* stops_;
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  std::string text_;
  std::optional<TokenId> held_token_;  // may turn out to be the stop token; its text is not yet taken
  int64_t num_tokens_ = 0;
  std::optional<size_t> matched_;  // index of the stop string
};

}  // namespace farspan
