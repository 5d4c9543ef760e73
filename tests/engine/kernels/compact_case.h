// SPDX-License-Identifier: Apache-2.0
// Tokens that KV heads chose of one layer's cache, the pages that they go to, and what must lie there afterwards.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {

class CompactCase {
 public:
  explicit CompactCase(Random* random) {
    constexpr int64_t kHeadDims[] = {8, 64, 80, 96, 128, 256}, kPageTokens[] = {16, 32, 64};
    cache_ = {.element = random->OneOf<KvElement>(kAllKvElements),
              .num_kv_heads = random->Integer(1, 4),
              .page_tokens = random->OneOf<int64_t>(kPageTokens),
              .head_dim = random->OneOf<int64_t>(kHeadDims)};
    num_tokens_ = random->Integer(1, 5 * cache_.page_tokens);
    const int64_t num_targets = (num_tokens_ + cache_.page_tokens - 1) / cache_.page_tokens, num_sources = 6;
    cache_.num_pages = num_targets + num_sources + 2;
    std::vector<int32_t> pages;
    for (int32_t page = 0; page < cache_.num_pages; ++page) pages.push_back(page);
    random->Shuffle(&pages);
    pages_.assign(pages.begin(), pages.begin() + num_targets);
    const std::vector<int32_t> from(pages.begin() + num_targets, pages.begin() + num_targets + num_sources);
    bytes_.resize(static_cast<size_t>(cache_.num_pages * cache_.page_elements() * cache_.element_bytes()));
    for (int64_t i = 0; i < cache_.num_pages * cache_.page_elements(); ++i) {
      StoreKvElement(cache_.element, bytes_.data(), i, random->OneIn(4000) ? kNan : random->Real(-3, 3));
    }
    for (int64_t i = 0; i < cache_.num_kv_heads * num_tokens_; ++i) {
      sources_.push_back({.page = random->OneOf<int32_t>(from),
                          .token = static_cast<int32_t>(random->Integer(0, cache_.page_tokens - 1))});
    }
  }

  const std::vector<uint8_t>& bytes() const { return bytes_; }
  const std::vector<KvSlot>& sources() const { return sources_; }
  const std::vector<int32_t>& pages() const { return pages_; }
  std::vector<uint8_t> PoisonedBounds() const {
    const int64_t pairs = cache_.num_pages * cache_.num_kv_heads * KeyBoundsPairs(cache_.page_tokens);
    return std::vector<uint8_t>(static_cast<size_t>(pairs * 2 * cache_.head_dim * cache_.element_bytes()), 0xff);
  }
  // Over the caller's copies of the arrays above.
  CompactTokensArgs Args(void* cache, void* bounds, const KvSlot* sources, const int32_t* pages) const {
    CompactTokensArgs args = {
        .cache = cache_, .bounds = {.data = bounds}, .sources = sources, .pages = pages, .num_tokens = num_tokens_};
    args.cache.data = cache;
    return args;
  }

  std::vector<uint8_t> ExpectedBytes() const {
    std::vector<uint8_t> bytes = bytes_;
    const int64_t row_bytes = cache_.head_dim * cache_.element_bytes();
    for (int64_t i = 0; i < cache_.num_kv_heads * num_tokens_; ++i) {
      const int64_t kv_head = i / num_tokens_, token = i % num_tokens_;
      const KvSlot source = sources_[static_cast<size_t>(i)];
      for (int64_t plane = 0; plane < 2; ++plane) {
        const int64_t from = Row(source.page, kv_head, plane, source.token);
        const int64_t to = Row(Page(token), kv_head, plane, token % cache_.page_tokens);
        std::copy_n(bytes_.begin() + from * row_bytes, row_bytes, bytes.begin() + to * row_bytes);
      }
    }
    return bytes;
  }

  // Of filled runs and pages; poison elsewhere.
  std::vector<uint8_t> ExpectedBounds() const {
    const std::vector<uint8_t> bytes = ExpectedBytes();
    std::vector<uint8_t> bounds = PoisonedBounds();
    const int64_t run_tokens = KeyBoundsTokens(cache_.page_tokens);
    for (int64_t kv_head = 0; kv_head < cache_.num_kv_heads; ++kv_head) {
      for (int64_t token = 0; token + run_tokens <= num_tokens_; token += run_tokens) {
        const int64_t run = token % cache_.page_tokens / run_tokens;
        Bound(bytes, kv_head, token, run_tokens, RunBoundsOffset(cache_, Page(token), kv_head, run), &bounds);
      }
      for (int64_t token = 0; token + cache_.page_tokens <= num_tokens_; token += cache_.page_tokens) {
        Bound(bytes, kv_head, token, cache_.page_tokens, PageBoundsOffset(cache_, Page(token), kv_head), &bounds);
      }
    }
    return bounds;
  }

  // Equal numbers, or both NaN, whose bits no bound promises.
  bool SameValues(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) const {
    const auto size = static_cast<int64_t>(a.size()) / cache_.element_bytes();
    for (int64_t i = 0; i < size; ++i) {
      const float left = LoadKvElement(cache_.element, a.data(), i), right = LoadKvElement(cache_.element, b.data(), i);
      if (std::isnan(left) ? !std::isnan(right) : left != right) return false;
    }
    return a.size() == b.size();
  }

 private:
  int64_t Page(int64_t token) const { return pages_[static_cast<size_t>(token / cache_.page_tokens)]; }
  int64_t Row(int64_t page, int64_t kv_head, int64_t plane, int64_t token) const {
    return ((page * cache_.num_kv_heads + kv_head) * 2 + plane) * cache_.page_tokens + token;
  }

  void Bound(const std::vector<uint8_t>& bytes, int64_t kv_head, int64_t token, int64_t num_tokens, int64_t offset,
             std::vector<uint8_t>* bounds) const {
    for (int64_t channel = 0; channel < cache_.head_dim; ++channel) {
      float smallest = INFINITY, largest = -INFINITY;
      for (int64_t i = 0; i < num_tokens; ++i) {
        const int64_t row = Row(Page(token), kv_head, 0, token % cache_.page_tokens + i);
        const float key = LoadKvElement(cache_.element, bytes.data(), row * cache_.head_dim + channel);
        if (std::isnan(key) || std::isnan(smallest)) {
          smallest = largest = kNan;
        } else {
          smallest = std::min(smallest, key), largest = std::max(largest, key);
        }
      }
      StoreKvElement(cache_.element, bounds->data(), offset + channel, smallest);
      StoreKvElement(cache_.element, bounds->data(), offset + cache_.head_dim + channel, largest);
    }
  }

  KvLayerView cache_;
  int64_t num_tokens_ = 0;
  std::vector<uint8_t> bytes_;
  std::vector<KvSlot> sources_;
  std::vector<int32_t> pages_;
};

}  // namespace farspan::kernels
