// SPDX-License-Identifier: Apache-2.0
#include "server/sample_text.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"

namespace farspan {

absl::StatusOr<SampleText> SampleText::Create(const TextStops* stops, const Tokenizer& tokenizer) {
  FARSPAN_ASSIGN_OR_RETURN(StopMatcher matcher, StopMatcher::Create(stops->strings, stops->include_string));
  return SampleText(stops, tokenizer, std::move(matcher));
}

bool SampleText::Push(TokenId token) {
  TakeHeldToken();
  if (matched_) return false;
  ++num_tokens_;
  held_token_ = token;
  const bool may_stop = std::binary_search(stops_->token_ids.begin(), stops_->token_ids.end(), token);
  if (!may_stop) TakeHeldToken();
  return true;
}

void SampleText::End(bool by_stop_token) {
  if (by_stop_token) held_token_.reset();
  TakeHeldToken();
  if (!matched_) Append(detokenizer_.Flush(), /*may_stop=*/false);
  if (!matched_) text_ += matcher_.Flush();
}

void SampleText::TakeHeldToken() {
  if (!held_token_ || matched_) return;
  Append(detokenizer_.Push(*std::exchange(held_token_, std::nullopt)), num_tokens_ >= stops_->min_tokens);
}

void SampleText::Append(const std::string& text, bool may_stop) {
  StopMatcher::Piece piece = matcher_.Push(text, may_stop);
  text_ += piece.text;
  matched_ = piece.matched;
}

}  // namespace farspan
