// SPDX-License-Identifier: Apache-2.0
// Every op of the CUDA backend against the portable CPU kernels, on fresh random inputs with poisoned outputs.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cpu_backend.h"
#include "engine/backend/cuda_backend.h"
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

  // Runs `body(backend, arrays)` on the CPU and on the device and compares what it returns.
  template <typename Body>
  void ExpectEqualWithin(double tolerance, const Body& body) {
    std::vector<std::vector<float>> results;
    for (const auto& backend : backends_) {
      DeviceArrays arrays(backend.get());
      results.push_back(body(*backend, arrays));
    }
    ASSERT_EQ(results[0].size(), results[1].size());
    for (size_t i = 0; i < results[0].size(); ++i) {
      const float cpu = results[0][i], cuda = results[1][i];
      if (std::isnan(cpu) || std::isinf(cpu)) {
        ASSERT_TRUE(std::isnan(cpu) ? std::isnan(cuda) : cpu == cuda) << "at " << i << ": " << cpu << " and " << cuda;
      } else {
        ASSERT_NEAR(cuda, cpu, tolerance * (1 + std::fabs(cpu))) << "at " << i;
      }
    }
  }

  static std::vector<float> Poison(int64_t size) { return std::vector<float>(static_cast<size_t>(size), kNan); }

  std::vector<std::unique_ptr<Backend>> backends_;
  Random random_;
};

TEST_F(CudaParityTest, LinearAndEmbedForEveryWeightType) {
  for (const WeightType type : kAllTypes) {
    for (int trial = 0; trial < kTrials; ++trial) {
      const bool quantised = type != WeightType::kF32 && type != WeightType::kBf16;
      const int64_t columns = quantised ? 32 * random_.Integer(1, 30) : random_.Integer(1, 700);
      const int64_t outputs = random_.Integer(1, 200), rows = random_.Integer(1, 40);
      const kernels::RandomWeight weight = kernels::MakeWeight(type, outputs, columns, &random_);
      const std::vector<float> x = random_.Reals(rows * columns, -2, 2), old_y = random_.Reals(rows * outputs, -1, 1);
      const bool accumulate = random_.OneIn(2);
      SCOPED_TRACE(testing::Message() << "type " << static_cast<int>(type) << " " << rows << " x " << outputs << " x "
                                      << columns);
      std::vector<int32_t> tokens;
      for (int64_t row = 0; row < rows; ++row) tokens.push_back(static_cast<int32_t>(random_.Integer(0, outputs - 1)));
      const auto on_device = [&](DeviceArrays& arrays) {
        kernels::WeightView view = weight.view;
        view.data = arrays.Put(weight.bytes);
        return view;
      };
      ExpectEqualWithin(3e-5, [&](Backend& backend, DeviceArrays& arrays) {
        auto* y = const_cast<float*>(arrays.Put(accumulate ? old_y : Poison(rows * outputs)));
        backend.Linear(
            {.x = arrays.Put(x), .weight = on_device(arrays), .y = y, .num_rows = rows, .accumulate = accumulate});
        return arrays.Get(y, old_y.size());
      });
      ExpectEqualWithin(1e-7, [&](Backend& backend, DeviceArrays& arrays) {
        auto* out = const_cast<float*>(arrays.Put(Poison(rows * columns)));
        backend.Embed({.token_ids = arrays.Put(tokens), .table = on_device(arrays), .out = out, .num_rows = rows});
        return arrays.Get(out, x.size());
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CudaParityTest, ElementwiseOps) {
  for (int trial = 0; trial < kTrials; ++trial) {
    const int64_t rows = random_.Integer(1, 20), heads = random_.Integer(1, 6), head_dim = 8 * random_.Integer(1, 32);
    const int64_t width = heads * head_dim, rope_dim = 2 * random_.Integer(1, head_dim / 2);
    const std::vector<float> x = random_.Reals(rows * width, -3, 3), up = random_.Reals(rows * width, -3, 3);
    const std::vector<float> weight = random_.Reals(width, -1, 1);
    std::vector<int64_t> positions;
    for (int64_t row = 0; row < rows; ++row) positions.push_back(random_.Integer(0, 100000));
    std::vector<double> frequencies;
    for (int64_t i = 0; i < rope_dim / 2; ++i)
      frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim)));
    const auto changed = [](DeviceArrays& arrays, const std::vector<float>& values) {
      return const_cast<float*>(arrays.Put(values));
    };
    ExpectEqualWithin(2e-6, [&](Backend& backend, DeviceArrays& arrays) {
      float* out = changed(arrays, Poison(rows * width));
      backend.RmsNorm({.x = arrays.Put(x),
                       .weight = arrays.Put(weight),
                       .out = out,
                       .num_rows = rows,
                       .width = width,
                       .epsilon = 1e-5f});
      return arrays.Get(out, x.size());
    });
    ExpectEqualWithin(2e-6, [&](Backend& backend, DeviceArrays& arrays) {
      float* gate = changed(arrays, x);
      backend.SiluMul({.gate = gate, .up = arrays.Put(up), .num_rows = rows, .width = width});
      return arrays.Get(gate, x.size());
    });
    ExpectEqualWithin(2e-6, [&](Backend& backend, DeviceArrays& arrays) {
      float* cos_sin = changed(arrays, Poison(rows * rope_dim));
      float* rotated = changed(arrays, x);
      backend.RopeTable({.positions = arrays.Put(positions),
                         .inverse_frequencies = arrays.Put(frequencies),
                         .cos_sin = cos_sin,
                         .num_rows = rows,
                         .rope_dim = rope_dim});
      backend.Rope({.x = rotated,
                    .cos_sin = cos_sin,
                    .num_rows = rows,
                    .num_heads = heads,
                    .head_dim = head_dim,
                    .rope_dim = rope_dim});
      return arrays.Get(rotated, x.size());
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaParityTest, KvAppendWritesTheSameBits) {
  for (const kernels::KvElement element : {kernels::KvElement::kBf16, kernels::KvElement::kF32}) {
    for (int trial = 0; trial < kTrials; ++trial) {
      kernels::KvLayerView cache = {.element = element,
                                    .num_pages = 5,
                                    .num_kv_heads = random_.Integer(1, 3),
                                    .page_tokens = 16,
                                    .head_dim = 8 * random_.Integer(1, 16)};
      const int64_t rows = random_.Integer(1, 60), row_size = cache.num_kv_heads * cache.head_dim;
      std::vector<int32_t> places(80);
      for (int32_t i = 0; i < 80; ++i) places[static_cast<size_t>(i)] = i;
      random_.Shuffle(&places);
      std::vector<kernels::KvSlot> slots;
      for (int64_t row = 0; row < rows; ++row) {
        slots.push_back({places[static_cast<size_t>(row)] / 16, places[static_cast<size_t>(row)] % 16});
      }
      const std::vector<float> k = random_.Reals(rows * row_size, -9, 9), v = random_.Reals(rows * row_size, -9, 9);
      const auto size = static_cast<size_t>(cache.num_pages * cache.page_elements() * cache.element_bytes());
      std::vector<std::vector<uint8_t>> results;
      for (const auto& backend : backends_) {
        DeviceArrays arrays(backend.get());
        kernels::KvLayerView mine = cache;
        mine.data = const_cast<uint8_t*>(arrays.Put(std::vector<uint8_t>(size, 0xff)));
        backend->KvAppend(
            {.k = arrays.Put(k), .v = arrays.Put(v), .slots = arrays.Put(slots), .cache = mine, .num_rows = rows});
        results.push_back(arrays.Get(static_cast<const uint8_t*>(mine.data), size));
      }
      ASSERT_EQ(results[0], results[1]);
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
  common.q = arrays.PutBytes(bytes(common.q_f32(), num_out));
  common.out = const_cast<float*>(arrays.Put(std::vector<float>(static_cast<size_t>(num_out), kNan)));
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
  std::vector<float> results = arrays.Get(common.out_f32(), num_lse * static_cast<size_t>(common.cache.head_dim));
  const std::vector<float> lse = arrays.Get(common.lse, num_lse);
  results.insert(results.end(), lse.begin(), lse.end());
  return results;
}

TEST_F(CudaParityTest, AttentionOnRandomLists) {
  for (int trial = 0; trial < 2 * kTrials; ++trial) {
    const AttentionScene scene(kernels::RandomShape(&random_), &random_);
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
    ExpectEqualWithin(3e-5, [&](Backend& backend, DeviceArrays& arrays) {
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
    ExpectEqualWithin(3e-5, [&](Backend& backend, DeviceArrays& arrays) {
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
