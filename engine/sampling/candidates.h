// SPDX-License-Identifier: Apache-2.0
// The tokens that a draw chooses from, and the filters that narrow them. No filter sorts: each finds the last logit it
// keeps by radix selection, O(vocabulary) whatever the logits are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/base/ids.h"

namespace farspan {

struct Candidate {
  TokenId token = 0;
  uint32_t order = 0;  // orders as the logits do; equal for equal logits
  float logit = 0;
  double weight = 0;  // probability up to a common factor; the likeliest token has 1
};

// Ascending by token; every filter keeps that order and keeps at least one candidate of a set that is not empty.
using Candidates = std::vector<Candidate>;

// One for every logit above -inf, weights not yet set.
Candidates MakeCandidates(std::span<const float> logits);

// Keeps the `top_k` largest logits, ties to the lower id; 0 keeps all.
void KeepTopK(int64_t top_k, Candidates& candidates);

// Sets exp((logit - max_logit) / temperature), in float64.
void SetWeights(float max_logit, double temperature, Candidates& candidates);

// Keeps the fewest of the likeliest whose share of all weights reaches `top_p`, ties to the lower id; 1 keeps all.
void KeepTopP(double top_p, Candidates& candidates);

// Keeps those at least `min_p` times as likely as the likeliest.
void KeepMinP(double min_p, Candidates& candidates);

// The candidate at `uniform` in [0, 1) of the cumulated weights, in the order of tokens; never one of weight 0.
TokenId Draw(double uniform, const Candidates& candidates);

}  // namespace farspan
