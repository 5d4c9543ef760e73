// SPDX-License-Identifier: Apache-2.0
// One generation between engine and API: turns each sample's tokens into text, ends it at a stop string, and spells
// statistics.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/output.h"
#include "engine/request_handle.h"
#include "server/generation_listener.h"
#include "server/request_parser.h"
#include "server/sample_text.h"
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
  GenerationStream(Presentation presentation, const ServedModel& model, std::shared_ptr<GenerationListener> listener);

  void OnStarted(const StartedEvent& event);
  void OnProgress(const PrefillProgressEvent& event);
  void OnTokens(const NewTokensEvent& event, const StopSample& stop_sample);
  void OnFinished(const FinishedEvent& event);

  void SendText(size_t sample, v1::GenerationDelta delta);
  v1::GenerationFinished Finished(const FinishedEvent& event) const;
  v1::SampleFinish Finish(size_t sample, const FinishedEvent& event) const;
  v1::TokenLogprobs SpellLogprobs(const TokenLogprobs& logprobs) const;
  void SpellLogprob(const TokenLogprob& logprob, v1::TokenLogprob* out) const;

  const Presentation presentation_;
  const ServedModel& model_;
  std::shared_ptr<GenerationListener> listener_;  // until the request has ended
  std::vector<SampleText> samples_;
  bool sent_first_prompt_token_ = false;
};

}  // namespace farspan
