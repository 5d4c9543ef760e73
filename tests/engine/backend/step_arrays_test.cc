// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/step_arrays.h"

#include <gtest/gtest.h>

#include "engine/kernels/args.h"

namespace farspan {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

ModelShape Shape(int64_t context_tokens, int64_t page_tokens) {
  return {.num_layers = 32,
          .num_heads = 32,
          .num_kv_heads = 8,
          .head_dim = 128,
          .max_context_tokens = context_tokens,
          .vocab_size = 128256,
          .page_tokens = page_tokens};
}

TEST(StepArrayBytesTest, FollowTheLimits) {
  const int64_t small = StepArrayBytes(Shape(8192, 64), {.max_rows = 512, .max_sequences = 64});
  EXPECT_LT(small, 32 * kMiB);
  EXPECT_GT(StepArrayBytes(Shape(8192, 64), {.max_rows = 8192, .max_sequences = 64}), small);
  EXPECT_GT(StepArrayBytes(Shape(8192, 64), {.max_rows = 512, .max_sequences = 256}), small);
  EXPECT_GT(StepArrayBytes(Shape(32768, 64), {.max_rows = 512, .max_sequences = 64}), small);
  EXPECT_GT(StepArrayBytes(Shape(8192, 16), {.max_rows = 512, .max_sequences = 64}), small);
}

TEST(StepArrayBytesTest, HoldEveryContextWhole) {
  for (const int64_t context_tokens : {int64_t{4096}, int64_t{131072}}) {
    const int64_t entries = 256 * context_tokens / 64 * static_cast<int64_t>(sizeof(kernels::KvEntry));
    EXPECT_GT(StepArrayBytes(Shape(context_tokens, 64), {.max_rows = 256, .max_sequences = 256}), entries);
  }
}

TEST(StepArrayBytesTest, AreBounded) {
  EXPECT_LE(StepArrayBytes(Shape(int64_t{1} << 24, 16), {.max_rows = 8192, .max_sequences = 8192}), 256 * kMiB);
  EXPECT_GT(StepArrayBytes(Shape(1, 64), {}), 0);
}

}  // namespace
}  // namespace farspan
