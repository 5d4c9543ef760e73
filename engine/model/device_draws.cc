// SPDX-License-Identifier: Apache-2.0
#include "engine/model/device_draws.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

static_assert(kernels::kMaxDrawAlternatives == kMaxAlternatives);

kernels::DrawRow IdleRow() {
  kernels::DrawRow row{};
  row.idle = true;
  row.given_token = kernels::kNoToken;
  row.num_alternatives = kernels::kNoLogprobs;
  return row;
}

kernels::DrawRow RowOf(const DrawRequest& request) {
  const SamplingParams& sampling = request.sampling;
  return {.idle = false,
          .greedy = sampling.greedy(),
          .given_token = request.given_token.value_or(kernels::kNoToken),
          .num_alternatives = request.num_alternatives.value_or(kernels::kNoLogprobs),
          .top_k = sampling.top_k,
          .num_counts = 0,
          .counts_begin = 0,
          .seed = request.key.seed,
          .position = request.key.position,
          .sample_index = request.key.sample_index,
          .temperature = sampling.temperature,
          .top_p = sampling.top_p,
          .min_p = sampling.min_p,
          .frequency_penalty = sampling.frequency_penalty,
          .presence_penalty = sampling.presence_penalty,
          .repetition_penalty = sampling.repetition_penalty};
}

absl::Status StatusOf(kernels::LogitSoundness soundness) {
  switch (soundness) {
    case kernels::LogitSoundness::kSound:
      return absl::OkStatus();
    case kernels::LogitSoundness::kNan:
      return absl::InternalError("the model computed a logit that is not a number");
    case kernels::LogitSoundness::kInfinite:
      return absl::InternalError("the model computed inf as the largest of its logits");
    case kernels::LogitSoundness::kNoneFinite:
      return absl::InternalError("the model computed -inf as the largest of its logits");
  }
  return absl::InternalError(absl::StrCat("a draw left ", static_cast<int>(soundness), " as its row's soundness"));
}

}  // namespace

DeviceDraws MakeDeviceDraws(std::span<const DrawRequest> requests, int64_t first_row, int64_t num_rows) {
  DeviceDraws draws;
  draws.rows.assign(static_cast<size_t>(num_rows), IdleRow());
  int64_t next_row = first_row;
  for (const DrawRequest& request : requests) {
    FARSPAN_CHECK(request.logit_row >= next_row && request.logit_row < first_row + num_rows, "row=", request.logit_row);
    next_row = request.logit_row + 1;
    kernels::DrawRow& row = draws.rows[static_cast<size_t>(request.logit_row - first_row)];
    row = RowOf(request);
    if (request.given_token || !request.sampling.penalises()) continue;
    row.counts_begin = static_cast<int64_t>(draws.counts.size());
    request.counts->ForEach([&draws](TokenId token, int32_t in_output) { draws.counts.push_back({token, in_output}); });
    row.num_counts = static_cast<int32_t>(static_cast<int64_t>(draws.counts.size()) - row.counts_begin);
  }
  return draws;
}

DrawResult DeviceDrawResult(const DrawRequest& request, const kernels::DrawnRow& drawn) {
  if (drawn.soundness != kernels::LogitSoundness::kSound) return StatusOf(drawn.soundness);
  DrawnToken result = {.token = drawn.token, .logprobs = std::nullopt};
  if (!request.num_alternatives) return result;
  TokenLogprobs& logprobs = result.logprobs.emplace();
  logprobs.chosen = {.token = drawn.token, .logprob = drawn.logprob};
  for (int i = 0; i < drawn.num_alternatives; ++i) {
    logprobs.top.push_back({.token = drawn.alternative_tokens[i], .logprob = drawn.alternative_logprobs[i]});
  }
  return result;
}

}  // namespace farspan
