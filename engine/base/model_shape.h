// SPDX-License-Identifier: Apache-2.0
// The numbers of a model that policies, the KV cache and kernels need without knowing the model.
#pragma once

#include <cstdint>

namespace farspan {

// Element type of the KV cache; one per server.
enum class KvDtype : uint8_t { kBf16, kF32, kF16, kF8E4M3 };

constexpr int64_t KvElementBytes(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF32:
      return 4;
    case KvDtype::kBf16:
    case KvDtype::kF16:
      return 2;
    case KvDtype::kF8E4M3:
      return 1;
  }
  return 0;
}

// As flags and labels spell it.
constexpr const char* KvDtypeName(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF32:
      return "f32";
    case KvDtype::kBf16:
      return "bf16";
    case KvDtype::kF16:
      return "fp16";
    case KvDtype::kF8E4M3:
      return "fp8";
  }
  return "";
}

struct ModelShape {
  int64_t num_layers = 0;
  int64_t num_heads = 0;     // query heads
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;      // of queries, keys and values alike
  int64_t max_context_tokens = 0;
  int64_t vocab_size = 0;
  int64_t page_tokens = 32;  // tokens of a KV page
  KvDtype kv_dtype = KvDtype::kBf16;

  int64_t group_size() const { return num_heads / num_kv_heads; }
  // K and V of one token in one layer and one KV head.
  int64_t kv_bytes_per_token_head() const { return 2 * head_dim * KvElementBytes(kv_dtype); }
  // K and V of one token over all layers and KV heads.
  int64_t kv_bytes_per_token() const { return num_layers * num_kv_heads * kv_bytes_per_token_head(); }
  int64_t kv_bytes_per_page() const { return page_tokens * kv_bytes_per_token(); }
};

}  // namespace farspan
