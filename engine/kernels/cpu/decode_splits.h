// SPDX-License-Identifier: Apache-2.0
// How a decode row is cut into partial softmax states. The cuts follow from the row's own list alone, so they are the
// same for every ISA level, thread count and batch.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/args.h"

namespace farspan::kernels {

// One partial state per query head of a group, over at most kDecodeSplitPages distinct pages of one (row, KV head).
struct DecodeSplit {
  int64_t row_index = 0;  // into DecodeAttentionArgs::rows
  int64_t kv_head = 0;
  KvList list;
};

// What the two phases of decode attention see. Partials are [num_splits][group][head_dim + 2] floats: the unnormalised
// output, then its running maximum and denominator.
struct DecodePass {
  const DecodeAttentionArgs* args = nullptr;
  const DecodeSplit* splits = nullptr;
  int64_t num_splits = 0;
  const int64_t* first_split = nullptr;  // [num_rows * num_kv_heads + 1], ascending
  float* partials = nullptr;
  SoftmaxStates states = {};  // of decode_states
};

struct DecodeSplits {
  std::vector<DecodeSplit> splits;
  std::vector<int64_t> first_split;  // as in DecodePass
};

// Replaces the contents of `*splits`, keeping its memory.
void PlanDecodeSplits(const DecodeAttentionArgs& args, DecodeSplits* splits);

inline int64_t DecodePartialFloats(const AttentionCommon& common) { return common.cache.head_dim + 2; }

inline int64_t DecodeGroup(const AttentionCommon& common) { return common.num_heads / common.cache.num_kv_heads; }

}  // namespace farspan::kernels
