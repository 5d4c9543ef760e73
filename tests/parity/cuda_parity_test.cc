// SPDX-License-Identifier: Apache-2.0
// Every op of the CUDA backend against the portable CPU kernels, on fresh random inputs with poisoned outputs.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/attention_scene.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::AttentionScene;
using kernels::kNan;
using kernels::Random;
using kernels::WeightType;

constexpr int kTrials = 20;
constexpr WeightType kAllTypes[] = {WeightType::kF32, WeightType::kBf16, WeightType::kQ4_0, WeightType::kQ4_1,
                                    WeightType::kQ8_0};

class CudaParityTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    backends_.push_back(*CpuBackend::Create({.isa = CpuIsa::kPortable}));
    backends_.push_back(*std::move(cuda));
  }

  // Runs `body(backend, arrays)` on the CPU and on the device and compares what it returns, relative to its size.
  template <typename Body>
  void ExpectEqualWithin(double tolerance, const Body& body) {
    std::vector<std::vector<float>> results;
    for (const auto& backend : backends_) {
      DeviceArrays arrays(backend.get());
      results.push_back(body(*backend, arrays));
    }
    ASSERT_EQ(results[0].size(), results[1].size());
    // Rounded terms add up to an error of the results' size even where a result is near zero.
    double squares = 0;
    for (const float cpu : results[0]) squares += std::isfinite(cpu) ? static_cast<double>(cpu) * cpu : 0;
    const double size = 1e-3 + std::sqrt(squares / static_cast<double>(results[0].size()));
    double squared_errors = 0;
    for (size_t i = 0; i < results[0].size(); ++i) {
      const float cpu = results[0][i], cuda = results[1][i];
      if (std::isnan(cpu) || std::isinf(cpu)) {
        ASSERT_TRUE(std::isnan(cpu) ? std::isnan(cuda) : cpu == cuda) << "at " << i << ": " << cpu << " and " << cuda;
      } else {
        ASSERT_NEAR(cuda, cpu, tolerance * (size + std::fabs(cpu))) << "at " << i;
        squared_errors += (static_cast<double>(cuda) - cpu) * (static_cast<double>(cuda) - cpu);
      }
    }
    ASSERT_LE(std::sqrt(squared_errors / static_cast<double>(results[0].size())), tolerance / 5 * size);
  }

  // Of one value whose terms were rounded; over all values a fifth of it.
  double tolerance() const { return backends_[1]->activation() == kernels::Activation::kF32 ? 1e-4 : 5e-2; }

  std::vector<kernels::KvSlot> RandomSlots(int64_t num_rows, const kernels::KvLayerView& cache) {
    std::vector<int64_t> places;
    for (int64_t i = 0; i < cache.num_pages * cache.page_tokens; ++i) places.push_back(i);
    random_.Shuffle(&places);
    std::vector<kernels::KvSlot> slots;
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t place = places[static_cast<size_t>(row)];
      slots.push_back(
          {static_cast<int32_t>(place / cache.page_tokens), static_cast<int32_t>(place % cache.page_tokens)});
    }
    return slots;
  }

  static std::vector<float> Poison(int64_t size) { return std::vector<float>(static_cast<size_t>(size), kNan); }

  std::vector<std::unique_ptr<Backend>> backends_;
  Random random_;
};

TEST_F(CudaParityTest, EmbedForEveryWeightType) {
  for (const WeightType type : kAllTypes) {
    for (int trial = 0; trial < kTrials; ++trial) {
      const int64_t columns = 32 * random_.Integer(1, 30), vocab = random_.Integer(1, 200),
                    rows = random_.Integer(1, 40);
      const kernels::RandomWeight weight = kernels::MakeWeight(type, vocab, columns, &random_);
      std::vector<int32_t> tokens, drawn;
      for (int64_t row = 0; row < rows; ++row) {
        tokens.push_back(static_cast<int32_t>(random_.Integer(0, vocab - 1)));
        drawn.push_back(static_cast<int32_t>(random_.Integer(0, vocab - 1)));
        if (random_.OneIn(3)) tokens.back() = kernels::DrawnTokenId(random_.Integer(0, row));
      }
      ExpectEqualWithin(1e-7, [&](Backend& backend, DeviceArrays& arrays) {
        auto* out = const_cast<float*>(arrays.Put(Poison(rows * columns)));
        backend.Embed({.token_ids = arrays.Put(tokens),
                       .table = arrays.Put(weight),
                       .out = out,
                       .num_rows = rows,
                       .drawn_token_ids = arrays.Put(drawn)});
        return arrays.Get(out, static_cast<size_t>(rows * columns));
      });
      if (HasFatalFailure()) return;
    }
  }
}

// The shape of a network's layer.
struct LayerShape {
  int64_t num_kv_heads, group, head_dim, inner_width;
  int64_t width() const { return num_kv_heads * group * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
};

// A value near the middle of two bf16 may be stored as either.
constexpr double kBf16Step = 1.0 / 128;

TEST_F(CudaParityTest, AttentionInputRotatesAndAppends) {
  for (int trial = 0; trial < 2 * kTrials; ++trial) {
    const LayerShape shape = {random_.Integer(1, 4), random_.Integer(1, 4), 32 * random_.Integer(1, 4), 0};
    const int64_t rows = random_.OneIn(2) ? random_.Integer(1, 15) : random_.Integer(16, 80);
    const int64_t rope_dim = random_.OneIn(2) ? shape.head_dim : 16, num_heads = shape.num_kv_heads * shape.group;
    const WeightType type = kAllTypes[static_cast<size_t>(random_.Integer(0, 4))];
    const auto matrix = [&](int64_t outputs) { return kernels::MakeWeight(type, outputs, shape.width(), &random_); };
    const kernels::RandomWeight query = matrix(shape.width()), key = matrix(shape.kv_width()),
                                value = matrix(shape.kv_width());
    const std::vector<float> hidden = random_.Reals(rows * shape.width(), -3, 3);
    const std::vector<float> norm = random_.Reals(shape.width(), 0, 0.1f);
    const std::vector<float> cos_sin = random_.Reals(rows * rope_dim, -1, 1);
    kernels::KvLayerView cache = {.element = kernels::KvElement::kBf16,
                                  .num_pages = 6,
                                  .num_kv_heads = shape.num_kv_heads,
                                  .page_tokens = 16,
                                  .head_dim = shape.head_dim};
    const std::vector<kernels::KvSlot> slots = RandomSlots(rows, cache);
    ExpectEqualWithin(std::max(tolerance(), kBf16Step), [&](Backend& backend, DeviceArrays& arrays) {
      const auto cache_size = static_cast<size_t>(cache.num_pages * cache.page_elements());
      kernels::KvLayerView mine = cache;
      mine.data = const_cast<uint16_t*>(arrays.Put(std::vector<uint16_t>(cache_size, 0)));
      void* const q = arrays.PutActivations(Poison(rows * shape.width()));
      backend.AttentionInput({.hidden = arrays.Put(hidden),
                              .norm_weight = arrays.Put(norm),
                              .epsilon = 1e-5f,
                              .query = arrays.Put(query),
                              .key = arrays.Put(key),
                              .value = arrays.Put(value),
                              .cos_sin = arrays.Put(cos_sin),
                              .slots = arrays.Put(slots),
                              .cache = mine,
                              .q = q,
                              .normed = arrays.PutActivations(Poison(rows * shape.width())),
                              .projected = arrays.PutActivations(Poison(rows * (shape.width() + 2 * shape.kv_width()))),
                              .num_rows = rows,
                              .num_heads = num_heads,
                              .rope_dim = rope_dim});
      std::vector<float> results = arrays.GetActivations(q, static_cast<size_t>(rows * shape.width()));
      for (const uint16_t bits : arrays.Get(static_cast<const uint16_t*>(mine.data), cache_size)) {
        results.push_back(kernels::Bf16ToFloat(bits));
      }
      return results;
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaParityTest, FeedForwardAndAttentionOutputAddToTheResidualStream) {
  for (int trial = 0; trial < 2 * kTrials; ++trial) {
    const int64_t width = 32 * random_.Integer(1, 20), inner = 32 * random_.Integer(1, 20);
    const int64_t rows = random_.OneIn(2) ? random_.Integer(1, 15) : random_.Integer(16, 80);
    const WeightType type = kAllTypes[static_cast<size_t>(random_.Integer(0, 4))];
    const kernels::RandomWeight gate = kernels::MakeWeight(type, inner, width, &random_),
                                up = kernels::MakeWeight(type, inner, width, &random_),
                                down = kernels::MakeWeight(type, width, inner, &random_);
    const std::vector<float> hidden = random_.Reals(rows * width, -3, 3), x = random_.Reals(rows * inner, -0.1f, 0.1f);
    const std::vector<float> norm = random_.Reals(width, 0, 0.05f);
    ExpectEqualWithin(tolerance(), [&](Backend& backend, DeviceArrays& arrays) {
      auto* const stream = const_cast<float*>(arrays.Put(hidden));
      backend.FeedForward({.hidden = stream,
                           .norm_weight = arrays.Put(norm),
                           .epsilon = 1e-5f,
                           .gate = arrays.Put(gate),
                           .up = arrays.Put(up),
                           .down = arrays.Put(down),
                           .normed = arrays.PutActivations(Poison(rows * width)),
                           .inner = arrays.PutActivations(Poison(rows * 3 * inner)),
                           .num_rows = rows});
      return arrays.Get(stream, hidden.size());
    });
    ExpectEqualWithin(tolerance(), [&](Backend& backend, DeviceArrays& arrays) {
      auto* const stream = const_cast<float*>(arrays.Put(hidden));
      backend.AttentionOutput(
          {.x = arrays.PutActivations(x), .weight = arrays.Put(down), .hidden = stream, .num_rows = rows});
      return arrays.Get(stream, hidden.size());
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaParityTest, LogitsOfChosenRows) {
  for (const WeightType type : kAllTypes) {
    for (int trial = 0; trial < 5; ++trial) {
      const int64_t width = 32 * random_.Integer(1, 20), vocab = random_.Integer(1, 300);
      const kernels::RandomWeight weight = kernels::MakeWeight(type, vocab, width, &random_);
      const std::vector<float> hidden = random_.Reals(70 * width, -3, 3), norm = random_.Reals(width, 0, 0.1f);
      std::vector<int64_t> rows;
      const int64_t step = random_.OneIn(2) ? 3 : 20;  // more rows than are streamed, or fewer
      for (int64_t row = random_.Integer(0, 3); row < 70; row += random_.Integer(1, step)) rows.push_back(row);
      const auto num_rows = static_cast<int64_t>(rows.size());
      ExpectEqualWithin(tolerance(), [&](Backend& backend, DeviceArrays& arrays) {
        auto* const logits = const_cast<float*>(arrays.Put(Poison(num_rows * vocab)));
        backend.Logits({.hidden = arrays.Put(hidden),
                        .rows = arrays.Put(rows),
                        .norm_weight = arrays.Put(norm),
                        .epsilon = 1e-5f,
                        .weight = arrays.Put(weight),
                        .normed = arrays.PutActivations(Poison(num_rows * width)),
                        .logits = logits,
                        .num_rows = num_rows});
        return arrays.Get(logits, static_cast<size_t>(num_rows * vocab));
      });
      if (HasFatalFailure()) return;
    }
  }
}

// The scene's arrays in the backend's memory.
kernels::AttentionCommon ToDevice(const AttentionScene& scene, const std::vector<kernels::KvEntry>& entries,
                                  DeviceArrays& arrays) {
  const auto bytes = [](const auto* data, int64_t size) {
    return std::as_bytes(std::span(data, static_cast<size_t>(size)));
  };
  const int64_t context = scene.shape().context_tokens;
  kernels::AttentionCommon common = scene.Common(entries, nullptr, nullptr);
  const int64_t num_out = context * common.num_heads * common.cache.head_dim;
  common.q = arrays.PutActivations({common.q_f32(), common.q_f32() + num_out});
  common.out = arrays.PutActivations(std::vector<float>(static_cast<size_t>(num_out), kNan));
  common.activation = arrays.activation();
  common.lse =
      const_cast<float*>(arrays.Put(std::vector<float>(static_cast<size_t>(context * common.num_heads), kNan)));
  const int64_t cache_bytes = common.cache.num_pages * common.cache.page_elements() * common.cache.element_bytes();
  common.cache.data = arrays.PutBytes(bytes(static_cast<const std::byte*>(common.cache.data), cache_bytes));
  common.entries = arrays.Put(entries);
  common.rope_cos_sin =
      static_cast<const float*>(arrays.PutBytes(bytes(common.rope_cos_sin, context * common.rope_dim)));
  common.inverse_frequencies =
      static_cast<const double*>(arrays.PutBytes(bytes(common.inverse_frequencies, common.rope_dim / 2)));
  return common;
}

// Outputs, then log-sum-exps.
std::vector<float> Results(const AttentionScene& scene, const kernels::AttentionCommon& common, DeviceArrays& arrays) {
  const auto num_lse = static_cast<size_t>(scene.shape().context_tokens * common.num_heads);
  std::vector<float> results = arrays.GetActivations(common.out, num_lse * static_cast<size_t>(common.cache.head_dim));
  const std::vector<float> lse = arrays.Get(common.lse, num_lse);
  results.insert(results.end(), lse.begin(), lse.end());
  return results;
}

TEST_F(CudaParityTest, AttentionOnRandomLists) {
  for (int trial = 0; trial < 2 * kTrials; ++trial) {
    const AttentionScene scene(kernels::RandomShape(&random_), &random_);
    for (const auto& backend : backends_) {
      ASSERT_TRUE(backend
                      ->Prepare({.num_heads = scene.num_heads(),
                                 .num_kv_heads = scene.shape().num_kv_heads,
                                 .head_dim = scene.shape().head_dim},
                                {})
                      .ok());
    }
    const int64_t context = scene.shape().context_tokens;
    const std::vector<kernels::KvEntry> entries = scene.RandomEntries(context, &random_);
    const int64_t left_window = random_.OneIn(2) ? kernels::kNoLeftWindow : random_.Integer(1, context);
    const kernels::KvList list = {.entries_begin = 0, .num_entries = static_cast<int64_t>(entries.size())};
    std::vector<kernels::DecodeRow> rows;
    for (int64_t row = 0; row < context; row += random_.Integer(1, 30)) {
      rows.push_back({.row = row, .position = row, .left_window = left_window});
    }
    const std::vector<kernels::KvList> decode_lists(rows.size() * static_cast<size_t>(scene.shape().num_kv_heads),
                                                    list);
    ExpectEqualWithin(tolerance(), [&](Backend& backend, DeviceArrays& arrays) {
      const kernels::AttentionCommon common = ToDevice(scene, entries, arrays);
      backend.DecodeAttention({.common = common,
                               .rows = arrays.Put(rows),
                               .lists = arrays.Put(decode_lists),
                               .num_rows = static_cast<int64_t>(rows.size())});
      return Results(scene, common, arrays);
    });
    const std::vector<kernels::PrefillTile> tiles =
        kernels::RandomTiles(random_.Integer(0, context - 1), context, left_window, &random_);
    const std::vector<kernels::KvList> prefill_lists(tiles.size() * static_cast<size_t>(scene.num_heads()), list);
    ExpectEqualWithin(tolerance(), [&](Backend& backend, DeviceArrays& arrays) {
      const kernels::AttentionCommon common = ToDevice(scene, entries, arrays);
      backend.PrefillAttention({.common = common,
                                .tiles = arrays.Put(tiles),
                                .lists = arrays.Put(prefill_lists),
                                .num_tiles = static_cast<int64_t>(tiles.size())});
      return Results(scene, common, arrays);
    });
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace farspan
