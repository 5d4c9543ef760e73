// SPDX-License-Identifier: Apache-2.0
// One generation between engine and API: turns tokens into text, ends it at a stop string, and spells statistics.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/output.h"
#include "engine/request_handle.h"
#include "engine/text/detokenizer.h"
#include "engine/text/stop_matcher.h"
#include "server/generation_listener.h"
#include "server/request_parser.h"
#include "server/served_model.h"

namespace farspan {

// Delivery thread only, except construction. The model outlives it; the listener is let go after OnEnd.
class GenerationStream {
 public:
  // INVALID_ARGUMENT when a stop string cannot be matched (the parser has refused those already).
  static absl::StatusOr<std::unique_ptr<GenerationStream>> Create(Presentation presentation, const ServedModel& model,
                                                                  std::shared_ptr<GenerationListener> listener);

  // Ends a sample in the engine once a stop string has matched in it; called at most once a sample.
  using StopSample = std::function<void(int sample)>;
  void OnEvent(const OutputEvent& event, const StopSample& stop_sample);

 private:
  GenerationStream(Presentation presentation, const ServedModel& model, StopMatcher matcher,
                   std::shared_ptr<GenerationListener> listener);

  void OnStarted(const StartedEvent& event);
  void OnProgress(const PrefillProgressEvent& event);
  void OnTokens(const NewTokensEvent& event, const StopSample& stop_sample);
  void OnFinished(const FinishedEvent& event);

  // Text of a token held back because it may turn out to be the stop token.
  void TakeHeldToken(bool is_stop);
  void TakeText(const std::string& text, bool may_stop);
  void SendDelta();
  bool MayBeStopToken(TokenId token) const;
  v1::GenerationFinished Finished(const FinishedEvent& event) const;
  v1::TokenLogprobs SpellLogprobs(const TokenLogprobs& logprobs) const;
  void SpellLogprob(const TokenLogprob& logprob, v1::TokenLogprob* out) const;

  Presentation presentation_;
  const ServedModel& model_;
  std::shared_ptr<GenerationListener> listener_;  // until the request has ended
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  v1::GenerationDelta delta_;          // what the next response will hold
  std::optional<TokenId> held_token_;  // reported, its text not yet taken
  int64_t num_tokens_ = 0;             // taken, up to and including the one that completed a stop string
  std::optional<size_t> matched_;      // index of the stop string
  bool sent_first_prompt_token_ = false;
};

}  // namespace farspan
