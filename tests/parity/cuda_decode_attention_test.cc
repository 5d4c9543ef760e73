// SPDX-License-Identifier: Apache-2.0
// Decode attention on CUDA with bf16 activations, as the model runs it, against the portable CPU kernel in float32.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/kernel_test_support.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::kNan;
using kernels::KvElement;
using kernels::KvEntry;
using kernels::Random;

struct Shape {
  int64_t num_kv_heads;
  int64_t group;
  int64_t head_dim;
  int64_t page_tokens;
  int64_t num_pages;
  KvElement element;

  int64_t num_heads() const { return num_kv_heads * group; }
  int64_t row_size() const { return num_heads() * head_dim; }
};

// Rows that read lists of one cache, whose unlisted tokens are NaN.
struct Batch {
  Shape shape;
  std::vector<uint8_t> cache;
  std::vector<uint16_t> q;
  std::vector<kernels::DecodeRow> rows;
  std::vector<kernels::KvList> lists;
  std::vector<KvEntry> entries;
  std::vector<double> inverse_frequencies;
  bool lists_are_settled = false;
};

struct Result {
  std::vector<float> out;
  std::vector<float> lse;
};

class CudaDecodeAttentionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cpu_ = *CpuBackend::Create({.isa = CpuIsa::kPortable});
    cuda_ = *std::move(cuda);
  }

  Shape RandomShape() {
    constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256}, kPages[] = {16, 32, 64};
    constexpr KvElement kElements[] = {KvElement::kBf16, KvElement::kF16, KvElement::kF8E4M3};
    return {.num_kv_heads = random_.Integer(1, 4),
            .group = random_.Integer(1, 16),
            .head_dim = kHeadDims[random_.Integer(0, 4)],
            .page_tokens = kPages[random_.Integer(0, 2)],
            .num_pages = 24,
            .element = kElements[random_.Integer(0, 2)]};
  }

  Batch EmptyBatch(const Shape& shape) {
    Batch batch = {.shape = shape};
    const int64_t size = shape.num_pages * shape.num_kv_heads * 2 * shape.page_tokens * shape.head_dim;
    batch.cache.assign(static_cast<size_t>(size * kernels::KvElementBytes(shape.element)), 0xff);
    for (int64_t i = 0; i < shape.head_dim; i += 2) {
      batch.inverse_frequencies.push_back(std::pow(1e4, -static_cast<double>(i) / static_cast<double>(shape.head_dim)));
    }
    return batch;
  }

  static void Store(int64_t index, float value, Batch* batch) {
    kernels::WithKvElement(batch->shape.element, [&]<typename T>() {
      kernels::Narrow(value, reinterpret_cast<T*>(batch->cache.data()) + index);
    });
  }

  void FillTokens(const KvEntry& entry, Batch* batch) {
    const Shape& shape = batch->shape;
    for (int64_t plane = 0; plane < 2 * shape.num_kv_heads; ++plane) {
      const int64_t first = (entry.page * 2 * shape.num_kv_heads + plane) * shape.page_tokens + entry.first_valid;
      for (int64_t i = first * shape.head_dim; i < (first + entry.num_valid) * shape.head_dim; ++i) {
        Store(i, random_.Real(-2, 2), batch);
      }
    }
  }

  // Entries over [0, tokens) with gaps, cut pages, masks, caps and sinks.
  std::vector<KvEntry> RandomEntries(int64_t tokens, Batch* batch) {
    std::vector<KvEntry> entries;
    const int64_t page_tokens = batch->shape.page_tokens;
    const int64_t first = random_.Integer(0, batch->shape.num_pages - 1);
    for (int64_t position = 0; position < tokens;) {
      const int64_t token = position % page_tokens;
      const auto page = static_cast<int32_t>((first + 5 * (position / page_tokens)) % batch->shape.num_pages);
      int64_t count = std::min(tokens - position, page_tokens - token);
      if (random_.OneIn(4)) count = random_.Integer(1, count);
      KvEntry entry = {.page = page,
                       .first_valid = static_cast<int32_t>(token),
                       .num_valid = static_cast<int32_t>(count),
                       .position = position,
                       .ignores_left_window = random_.OneIn(4)};
      if (random_.OneIn(4)) entry.head_mask = static_cast<uint32_t>(random_.Integer(0, 0xffffffff));
      if (random_.OneIn(4)) entry.query_cap = position + count + random_.Integer(-1, 60);
      position += count;
      if (random_.OneIn(8)) continue;
      FillTokens(entry, batch);
      entries.push_back(entry);
    }
    return entries;
  }

  void AddRow(int64_t position, int64_t left_window, Batch* batch) {
    const auto row = static_cast<int64_t>(batch->rows.size());
    batch->rows.push_back({.row = row, .position = position, .left_window = left_window});
    for (int64_t i = 0; i < batch->shape.row_size(); ++i) {
      batch->q.push_back(kernels::FloatToBf16(random_.Real(-2, 2)));
    }
  }

  void AddList(const std::vector<KvEntry>& entries, Batch* batch) {
    batch->lists.push_back({static_cast<int64_t>(batch->entries.size()), static_cast<int64_t>(entries.size())});
    batch->entries.insert(batch->entries.end(), entries.begin(), entries.end());
  }

  Batch RandomBatch(int64_t most_rows, int64_t most_tokens) {
    Batch batch = EmptyBatch(RandomShape());
    batch.lists_are_settled = random_.OneIn(2);
    const int64_t num_rows = random_.Integer(1, most_rows);
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t tokens = random_.OneIn(5) ? 0 : random_.Integer(1, most_tokens);
      AddRow(std::max<int64_t>(0, tokens + random_.Integer(-30, 30)),
             random_.OneIn(2) ? kernels::kNoLeftWindow : random_.Integer(1, most_tokens), &batch);
      for (int64_t head = 0; head < batch.shape.num_kv_heads; ++head) AddList(RandomEntries(tokens, &batch), &batch);
    }
    return batch;
  }

  static std::vector<float> Widen(const std::vector<uint16_t>& values) {
    std::vector<float> wide;
    for (const uint16_t value : values) wide.push_back(kernels::Bf16ToFloat(value));
    return wide;
  }

  // Runs rows [first, first + count) of the batch; the others' outputs stay NaN.
  static Result Run(Backend& backend, const Batch& batch, int64_t first, int64_t count) {
    DeviceArrays arrays(&backend);
    const Shape& shape = batch.shape;
    EXPECT_TRUE(
        backend
            .Prepare({.num_heads = shape.num_heads(), .num_kv_heads = shape.num_kv_heads, .head_dim = shape.head_dim},
                     {})
            .ok());
    const bool is_cpu = backend.activation() == kernels::Activation::kF32 && backend.name().starts_with("cpu");
    const auto num_rows = batch.rows.size();
    const auto num_out = num_rows * static_cast<size_t>(shape.row_size());
    const auto num_lse = num_rows * static_cast<size_t>(shape.num_heads());
    std::vector<float> cos_sin;
    for (const kernels::DecodeRow& row : batch.rows) {
      for (const double frequency : batch.inverse_frequencies) {
        cos_sin.push_back(static_cast<float>(std::cos(static_cast<double>(row.position) * frequency)));
        cos_sin.push_back(static_cast<float>(std::sin(static_cast<double>(row.position) * frequency)));
      }
    }
    const float* lse = arrays.Put(std::vector<float>(num_lse, kNan));
    const float* wide_out = arrays.Put(std::vector<float>(num_out, kNan));
    const auto* out = reinterpret_cast<const uint16_t*>(wide_out);
    kernels::AttentionCommon common = {
        .q = is_cpu ? static_cast<const void*>(arrays.Put(Widen(batch.q))) : arrays.Put(batch.q),
        .out = const_cast<float*>(wide_out),
        .lse = const_cast<float*>(lse),
        .cache = {.data = const_cast<uint8_t*>(arrays.Put(batch.cache)),
                  .element = shape.element,
                  .num_pages = shape.num_pages,
                  .num_kv_heads = shape.num_kv_heads,
                  .page_tokens = shape.page_tokens,
                  .head_dim = shape.head_dim},
        .entries = arrays.Put(batch.entries),
        .rope_cos_sin = arrays.Put(cos_sin),
        .inverse_frequencies = arrays.Put(batch.inverse_frequencies),
        .rope_dim = shape.head_dim,
        .num_heads = shape.num_heads(),
        .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
        .activation = is_cpu ? kernels::Activation::kF32 : kernels::Activation::kBf16};
    backend.DecodeAttention({.common = common,
                             .rows = arrays.Put(batch.rows) + first,
                             .lists = arrays.Put(batch.lists) + first * shape.num_kv_heads,
                             .num_rows = count,
                             .lists_are_settled = batch.lists_are_settled});
    return {.out = is_cpu ? arrays.Get(wide_out, num_out) : Widen(arrays.Get(out, num_out)),
            .lse = arrays.Get(lse, num_lse)};
  }

  static Result Run(Backend& backend, const Batch& batch) {
    return Run(backend, batch, 0, static_cast<int64_t>(batch.rows.size()));
  }

  // Rounding of queries' products apart, softmax weights and outputs are rounded to bf16: 2^-9 each.
  void ExpectMatchesCpu(const Batch& batch) {
    const Result want = Run(*cpu_, batch), got = Run(*cuda_, batch);
    for (size_t i = 0; i < want.out.size(); ++i) {
      if (std::isnan(want.out[i])) {
        ASSERT_TRUE(std::isnan(got.out[i])) << "at " << i;
      } else {
        ASSERT_NEAR(got.out[i], want.out[i], 0.012 * (1 + std::fabs(want.out[i]))) << "at " << i;
      }
    }
    for (size_t i = 0; i < want.lse.size(); ++i) {
      if (std::isinf(want.lse[i])) {
        ASSERT_EQ(got.lse[i], want.lse[i]) << "at " << i;
      } else {
        ASSERT_NEAR(got.lse[i], want.lse[i], 1e-4 * (1 + std::fabs(want.lse[i]))) << "at " << i;
      }
    }
  }

  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> cuda_;
  Random random_;
};

TEST_F(CudaDecodeAttentionTest, RandomListsMatchTheCpu) {
  for (int trial = 0; trial < 40; ++trial) {
    const Batch batch = RandomBatch(6, 800);
    SCOPED_TRACE(testing::Message() << "heads " << batch.shape.num_heads() << "/" << batch.shape.num_kv_heads << " dim "
                                    << batch.shape.head_dim << " page " << batch.shape.page_tokens);
    ExpectMatchesCpu(batch);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaDecodeAttentionTest, ListsOfManySplitsMatchTheCpu) {
  for (int trial = 0; trial < 4; ++trial) {
    ExpectMatchesCpu(RandomBatch(3, 40000));
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaDecodeAttentionTest, ManyRowsMatchTheCpu) {
  for (int trial = 0; trial < 3; ++trial) {
    ExpectMatchesCpu(RandomBatch(300, 60));
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaDecodeAttentionTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  for (int trial = 0; trial < 10; ++trial) {
    const Batch batch = RandomBatch(12, 6000);
    const Result together = Run(*cuda_, batch);
    for (size_t row = 0; row < batch.rows.size(); ++row) {
      const Result alone = Run(*cuda_, batch, static_cast<int64_t>(row), 1);
      const auto begin = static_cast<std::ptrdiff_t>(row) * batch.shape.row_size();
      ASSERT_TRUE(std::equal(alone.out.begin() + begin, alone.out.begin() + begin + batch.shape.row_size(),
                             together.out.begin() + begin));
    }
  }
}

TEST_F(CudaDecodeAttentionTest, RepeatedLaunchesGiveTheSameBits) {
  const Batch batch = RandomBatch(9, 9000);
  const Result first = Run(*cuda_, batch);
  for (int i = 0; i < 5; ++i) {
    const Result again = Run(*cuda_, batch);
    ASSERT_TRUE(kernels::SameBits(first.out, again.out));
    ASSERT_TRUE(kernels::SameBits(first.lse, again.lse));
  }
}

TEST_F(CudaDecodeAttentionTest, ANanThatARowReadsShows) {
  Shape shape = RandomShape();
  Batch batch = EmptyBatch(shape);
  const KvEntry entry = {.page = 1, .first_valid = 0, .num_valid = 9};
  FillTokens(entry, &batch);
  const int64_t plane = random_.Integer(0, 1), token = random_.Integer(0, 8);
  const int64_t at = ((2 * shape.num_kv_heads + plane) * shape.page_tokens + token) * shape.head_dim;
  for (int64_t i = 0; i < shape.head_dim; ++i) Store(at + i, kNan, &batch);
  AddRow(8, kernels::kNoLeftWindow, &batch);
  for (int64_t head = 0; head < shape.num_kv_heads; ++head) AddList({entry}, &batch);
  const Result result = Run(*cuda_, batch);
  for (int64_t i = 0; i < shape.group * shape.head_dim; ++i)
    ASSERT_TRUE(std::isnan(result.out[static_cast<size_t>(i)]));
}

}  // namespace
}  // namespace farspan
