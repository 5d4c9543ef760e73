// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/decode_splits.h"

#include "engine/kernels/cpu/attention_walk.h"

namespace farspan::kernels {
namespace {

void AppendSplits(const DecodeAttentionArgs& args, int64_t row_index, int64_t kv_head,
                  std::vector<DecodeSplit>* splits) {
  const KvList list = args.lists[row_index * args.common.cache.num_kv_heads + kv_head];
  const KvEntry* entries = args.common.entries + list.entries_begin;
  int64_t begin = 0;
  while (begin < list.num_entries) {
    int64_t end = begin;
    for (int64_t page = 0; page < kDecodeSplitPages && end < list.num_entries; ++page) {
      end = PageRunEnd(entries, end, list.num_entries);
    }
    splits->push_back({row_index, kv_head, {list.entries_begin + begin, end - begin}});
    begin = end;
  }
}

}  // namespace

void PlanDecodeSplits(const DecodeAttentionArgs& args, DecodeSplits* splits) {
  splits->splits.clear();
  splits->first_split.assign(1, 0);
  for (int64_t row = 0; row < args.num_rows; ++row) {
    for (int64_t kv_head = 0; kv_head < args.common.cache.num_kv_heads; ++kv_head) {
      AppendSplits(args, row, kv_head, &splits->splits);
      splits->first_split.push_back(static_cast<int64_t>(splits->splits.size()));
    }
  }
}

}  // namespace farspan::kernels
