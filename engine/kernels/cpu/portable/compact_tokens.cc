// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t NumPages(const CompactTokensArgs& args) {
  return (args.num_tokens + args.cache.page_tokens - 1) / args.cache.page_tokens;
}

int64_t NumTasks(const CompactTokensArgs& args) { return NumPages(args) * args.cache.num_kv_heads; }

// A page of one KV head.
void Run(const CompactTokensArgs& args, int64_t task, void*) {
  const KvLayerView& cache = args.cache;
  const int64_t page = task / cache.num_kv_heads, kv_head = task % cache.num_kv_heads;
  const int64_t first = page * cache.page_tokens, end = std::min(args.num_tokens, first + cache.page_tokens);
  auto* const bytes = static_cast<std::byte*>(cache.data);
  const auto row_bytes = static_cast<size_t>(cache.head_dim * cache.element_bytes());
  for (int64_t token = first; token < end; ++token) {
    const KvSlot source = args.sources[kv_head * args.num_tokens + token];
    const int64_t from = KeyOffset(cache, source.page, kv_head) + source.token * cache.head_dim;
    const int64_t to = KeyOffset(cache, args.pages[page], kv_head) + (token - first) * cache.head_dim;
    for (const int64_t plane : {int64_t{0}, cache.plane_elements()}) {
      std::memcpy(bytes + (to + plane) * cache.element_bytes(), bytes + (from + plane) * cache.element_bytes(),
                  row_bytes);
    }
  }
}

}  // namespace

constinit const KernelOp<CompactTokensArgs> kCompactTokens = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
