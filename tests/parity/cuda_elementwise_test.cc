// SPDX-License-Identifier: Apache-2.0
// The fused elementwise kernels of a step against the portable CPU ops that they stand for, on fresh random inputs with
// poisoned outputs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/kernel_table.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/kernels.h"
#include "tests/engine/kernels/kernel_test_support.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::Activation;
using kernels::kNan;
using kernels::KvElement;
using kernels::Random;

constexpr int kTrials = 30;
constexpr float kBf16Rounding = 1.0f / 128;  // one step

std::vector<uint16_t> ToBf16(const std::vector<float>& values) {
  std::vector<uint16_t> rounded;
  for (const float value : values) rounded.push_back(kernels::FloatToBf16(value));
  return rounded;
}

std::vector<float> FromBf16(const std::vector<uint16_t>& values) {
  std::vector<float> exact;
  for (const uint16_t value : values) exact.push_back(kernels::Bf16ToFloat(value));
  return exact;
}

// A step's projections and where their keys and values go.
struct AppendScene {
  explicit AppendScene(Random* random) {
    cache.element = kernels::kAllKvElements[random->Integer(0, 3)];
    cache.num_pages = 6;
    cache.num_kv_heads = random->Integer(1, 8);
    cache.page_tokens = 16 << random->Integer(0, 2);
    cache.head_dim = 8 * random->Integer(1, 32);
    num_heads = cache.num_kv_heads * random->Integer(1, 7);
    rope_dim = random->OneIn(2) ? cache.head_dim : 2 * random->Integer(1, cache.head_dim / 2);
    num_rows = random->OneIn(4) ? random->Integer(257, 6 * 16 * 3) : random->Integer(1, 40);
    num_rows = std::min(num_rows, cache.num_pages * cache.page_tokens);
    std::vector<int32_t> places(static_cast<size_t>(cache.num_pages * cache.page_tokens));
    for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i);
    random->Shuffle(&places);
    const auto page_tokens = static_cast<int32_t>(cache.page_tokens);
    for (int64_t row = 0; row < num_rows; ++row) {
      const int32_t place = places[static_cast<size_t>(row)];
      slots.push_back({.page = random->OneIn(8) ? -1 : place / page_tokens, .token = place % page_tokens});
      for (int64_t i = 0; i < rope_dim / 2; ++i) {
        const float angle = random->Real(-3, 3);
        cos_sin.insert(cos_sin.end(), {std::cos(angle), std::sin(angle)});
      }
    }
    qkv = random->Reals(num_rows * row_values(), -3, 3);
  }

  int64_t row_values() const { return (num_heads + 2 * cache.num_kv_heads) * cache.head_dim; }
  size_t cache_bytes() const {
    return static_cast<size_t>(cache.num_pages * cache.page_elements() * cache.element_bytes());
  }
  // The part of each row's projections that begins at head `first`.
  std::vector<float> Heads(int64_t first, int64_t count) const {
    std::vector<float> part;
    for (int64_t row = 0; row < num_rows; ++row) {
      const auto begin = qkv.begin() + row * row_values() + first * cache.head_dim;
      part.insert(part.end(), begin, begin + count * cache.head_dim);
    }
    return part;
  }

  kernels::KvLayerView cache;
  int64_t num_heads = 0, rope_dim = 0, num_rows = 0;
  std::vector<float> cos_sin, qkv;
  std::vector<kernels::KvSlot> slots;
};

class CudaElementwiseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
  }

  // Rope and KvAppend by the CPU; the queries of padding stay poisoned.
  struct Appended {
    std::vector<float> q;
    std::vector<uint8_t> cache;
  };
  Appended Reference(const AppendScene& scene) {
    const kernels::KvLayerView& shape = scene.cache;
    const int64_t q_size = scene.num_heads * shape.head_dim;
    Appended result = {.q = scene.Heads(0, scene.num_heads), .cache = std::vector<uint8_t>(scene.cache_bytes(), 0xff)};
    std::vector<float> k = scene.Heads(scene.num_heads, shape.num_kv_heads);
    const std::vector<float> v = scene.Heads(scene.num_heads + shape.num_kv_heads, shape.num_kv_heads);
    kernels::RopeArgs rope = {.cos_sin = scene.cos_sin.data(),
                              .num_rows = scene.num_rows,
                              .head_dim = shape.head_dim,
                              .rope_dim = scene.rope_dim};
    rope.x = result.q.data(), rope.num_heads = scene.num_heads;
    RunShuffled(cpu_.rope, rope, &random_);
    rope.x = k.data(), rope.num_heads = shape.num_kv_heads;
    RunShuffled(cpu_.rope, rope, &random_);
    kernels::KvLayerView cache = shape;
    cache.data = result.cache.data();
    const kernels::KvAppendArgs append = {
        .k = k.data(), .v = v.data(), .slots = scene.slots.data(), .cache = cache, .num_rows = scene.num_rows};
    RunShuffled(cpu_.kv_append, append, &random_);
    for (int64_t row = 0; row < scene.num_rows; ++row) {
      if (scene.slots[static_cast<size_t>(row)].page < 0) std::fill_n(result.q.begin() + row * q_size, q_size, kNan);
    }
    return result;
  }

  const kernels::KernelTable& cpu_ = kernels::PortableKernels();
  std::unique_ptr<Backend> cuda_;
  Random random_;
};

void ExpectClose(const std::vector<float>& cuda, const std::vector<float>& cpu, float tolerance,
                 float smallest_step = 2e-6f) {
  ASSERT_EQ(cuda.size(), cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    if (std::isnan(cpu[i])) {
      ASSERT_TRUE(std::isnan(cuda[i])) << "at " << i;
    } else {
      ASSERT_NEAR(cuda[i], cpu[i], tolerance * std::fabs(cpu[i]) + smallest_step) << "at " << i;
    }
  }
}

std::vector<float> AsFloats(const std::vector<uint8_t>& bytes, KvElement element) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(kernels::KvElementBytes(element)));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = kernels::LoadKvElement(element, bytes.data(), static_cast<int64_t>(i));
  }
  return values;
}

// One step of the element, relative to a value: device and CPU may round a sum of two products either way.
float Rounding(KvElement element) {
  switch (element) {
    case KvElement::kF32:
      return 1e-6f;
    case KvElement::kBf16:
      return kBf16Rounding;
    case KvElement::kF16:
      return 1.0f / 1024;
    case KvElement::kF8E4M3:
      return 1.0f / 8;
  }
  return 0;
}

TEST_F(CudaElementwiseTest, RopeAppendIsRopeThenAppend) {
  for (int trial = 0; trial < kTrials; ++trial) {
    AppendScene scene(&random_);
    const bool bf16 = trial % 2 == 0;
    if (bf16) scene.qkv = FromBf16(ToBf16(scene.qkv));
    const Appended expected = Reference(scene);
    DeviceArrays arrays(cuda_.get());
    const auto q_size = expected.q.size();
    kernels::RopeAppendArgs args = {.cos_sin = arrays.Put(scene.cos_sin),
                                    .slots = arrays.Put(scene.slots),
                                    .cache = scene.cache,
                                    .num_rows = scene.num_rows,
                                    .num_heads = scene.num_heads,
                                    .rope_dim = scene.rope_dim,
                                    .activation = bf16 ? Activation::kBf16 : Activation::kF32};
    args.qkv = bf16 ? static_cast<const void*>(arrays.Put(ToBf16(scene.qkv))) : arrays.Put(scene.qkv);
    const std::vector<uint8_t> poison(q_size * 4, 0xff);
    args.q = const_cast<uint8_t*>(arrays.Put(poison));
    args.cache.data = const_cast<uint8_t*>(arrays.Put(std::vector<uint8_t>(scene.cache_bytes(), 0xff)));
    ASSERT_EQ(kernels::cuda::LaunchRopeAppend(args, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<float> q = bf16 ? FromBf16(arrays.Get(static_cast<const uint16_t*>(args.q), q_size))
                                      : arrays.Get(static_cast<const float*>(args.q), q_size);
    ExpectClose(q, expected.q, bf16 ? kBf16Rounding : 1e-6f);
    const auto* pages = static_cast<const uint8_t*>(args.cache.data);
    ExpectClose(AsFloats(arrays.Get(pages, scene.cache_bytes()), scene.cache.element),
                AsFloats(expected.cache, scene.cache.element), Rounding(scene.cache.element),
                scene.cache.element == KvElement::kF8E4M3 ? 2e-3f : 2e-6f);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace farspan
