// SPDX-License-Identifier: Apache-2.0
// What the hash model answers to one request that runs alone, without pages, batches, chunks or a scheduler.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/request.h"
#include "engine/sampling/token_counts.h"

namespace farspan {

// One sample of one request. Each query reads what the request's policy says of that query alone.
class HashOracle {
 public:
  HashOracle(const Request& request, int sample, int64_t num_layers);

  // The next token of the sample: drawn, or forced where the request forces it. Not after done().
  TokenId Next();
  // True once the last token ended the sample by a stop id, by max_tokens or by the last forced token.
  bool done() const { return done_; }
  bool stopped() const { return stopped_; }

 private:
  void Append(TokenId token);
  // What the query adds up in a layer whose running sums are `sums`.
  static uint64_t SumRead(const AttentionPlan& plan, int64_t query, const std::vector<uint64_t>& sums);
  // The same of the blocks that its selector picks.
  static uint64_t SumPicked(const Selector& selector, uint64_t state, const std::vector<uint64_t>& sums);
  TokenId Draw();

  const Request& request_;
  const int sample_;
  int64_t num_tokens_ = 0;
  int64_t num_generated_ = 0;
  // [layer][i]: the sum over the first i keys of what a query adds up for them.
  std::vector<std::vector<uint64_t>> sums_;
  uint64_t top_state_ = 0;
  TokenCounts counts_;
  std::vector<float> logits_;
  bool done_ = false;
  bool stopped_ = false;
};

}  // namespace farspan
