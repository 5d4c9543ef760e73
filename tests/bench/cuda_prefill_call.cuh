// SPDX-License-Identifier: Apache-2.0
// One call of prefill attention in device memory, and how far its results are from float64.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "engine/kernels/cuda/prefill_attention.h"
#include "tests/bench/cuda_prefill_reference.cuh"

namespace farspan::kernels::cuda {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::fflush(stdout);
  std::exit(1);
}

template <typename T>
T* Allocate(int64_t size) {
  void* data = nullptr;
  Check(cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(size, 1)) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(data);
}

template <typename T>
T* Put(const std::vector<T>& host) {
  T* device = Allocate<T>(static_cast<int64_t>(host.size()));
  Check(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  return device;
}

__device__ inline uint32_t Hash(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<uint32_t>(x >> 32);
}

// About normal, with unit variance.
template <typename Element>
__global__ void FillKernel(Element* values, int64_t size, uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const uint32_t bits = Hash(seed + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull);
    const float sum = static_cast<float>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24));
    values[i] = Element((sum - 510.0f) / 147.8f);
  }
}

// Allocates and fills.
template <typename Element>
Element* MakeRandom(int64_t size, uint64_t seed) {
  auto* values = Allocate<Element>(size);
  FillKernel<<<1024, 256>>>(values, size, seed);
  Check(cudaGetLastError(), "fill");
  return values;
}

inline void* MakeCache(KvElement element, int64_t size, uint64_t seed) {
  if (element == KvElement::kF16) return MakeRandom<__half>(size, seed);
  if (element == KvElement::kF8E4M3) return MakeRandom<__nv_fp8_e4m3>(size, seed);
  return MakeRandom<__nv_bfloat16>(size, seed);
}

__global__ void FillRopeKernel(float* cos_sin, const int64_t* positions, const double* frequencies, int64_t rows,
                               int64_t pairs) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= rows * pairs) return;
  const double angle = static_cast<double>(positions[i / pairs]) * frequencies[i % pairs];
  cos_sin[2 * i] = static_cast<float>(cos(angle));
  cos_sin[2 * i + 1] = static_cast<float>(sin(angle));
}

// One call of the op, all of it in device memory.
struct Scene {
  PrefillAttentionArgs args{};
  int64_t num_rows = 0;
  int64_t max_entries = 0;  // of a list
  int64_t num_pairs = 0;    // (query, key) pairs seen, all heads
  std::vector<PrefillTile> tiles;
  std::vector<void*> memory;

  template <typename T>
  T* Own(T* pointer) {
    memory.push_back(const_cast<std::remove_const_t<T>*>(pointer));
    return pointer;
  }
  void Free() {
    for (void* pointer : memory) Check(cudaFree(pointer), "cudaFree");
    memory.clear();
  }
};

struct SceneShape {
  int64_t num_heads = 32;
  int64_t num_kv_heads = 8;
  int64_t head_dim = 128;
  int64_t page_tokens = 64;
  int64_t num_pages = 0;
  KvElement element = KvElement::kBf16;
};

inline void FinishScene(const SceneShape& shape, const std::vector<KvEntry>& entries, const std::vector<KvList>& lists,
                        uint64_t seed, Scene* scene) {
  const int64_t rows = scene->num_rows, size = rows * shape.num_heads * shape.head_dim, pairs = shape.head_dim / 2;
  AttentionCommon& common = scene->args.common;
  common.cache = {.element = shape.element,
                  .num_pages = shape.num_pages,
                  .num_kv_heads = shape.num_kv_heads,
                  .page_tokens = shape.page_tokens,
                  .head_dim = shape.head_dim};
  common.cache.data = scene->Own(MakeCache(shape.element, shape.num_pages * common.cache.page_elements(), seed));
  common.q = scene->Own(MakeRandom<__nv_bfloat16>(size, seed + 1));
  common.out = scene->Own(Allocate<__nv_bfloat16>(size));
  common.lse = scene->Own(Allocate<float>(rows * shape.num_heads));
  Check(cudaMemset(common.out, 0xff, static_cast<size_t>(size) * 2), "poison");
  Check(cudaMemset(common.lse, 0xff, static_cast<size_t>(rows * shape.num_heads) * 4), "poison");
  std::vector<int64_t> positions(static_cast<size_t>(rows));
  for (const PrefillTile& tile : scene->tiles) {
    for (int64_t i = 0; i < tile.num_queries; ++i)
      positions[static_cast<size_t>(tile.row + i)] = tile.first_position + i;
  }
  std::vector<double> frequencies;
  for (int64_t i = 0; i < pairs; ++i) {
    frequencies.push_back(std::pow(5e5, -static_cast<double>(i) / static_cast<double>(pairs)));
  }
  common.inverse_frequencies = scene->Own(Put(frequencies));
  auto* cos_sin = scene->Own(Allocate<float>(rows * shape.head_dim));
  const int64_t* device_positions = scene->Own(Put(positions));
  FillRopeKernel<<<static_cast<unsigned>((rows * pairs + 255) / 256), 256>>>(cos_sin, device_positions,
                                                                             common.inverse_frequencies, rows, pairs);
  common.rope_cos_sin = cos_sin;
  common.rope_dim = shape.head_dim;
  common.num_heads = shape.num_heads;
  common.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  common.activation = Activation::kBf16;
  common.entries = scene->Own(Put(entries));
  scene->args.tiles = scene->Own(Put(scene->tiles));
  scene->args.lists = scene->Own(Put(lists));
  scene->args.num_tiles = static_cast<int64_t>(scene->tiles.size());
  Check(cudaDeviceSynchronize(), "scene");
}

// Largest relative error ||out - reference|| / ||reference|| of a sample's vector, and largest error of its LSE.
struct Errors {
  double out = 0;
  double lse = 0;
};

inline Errors Compare(const Scene& scene, const std::vector<Sample>& samples) {
  const AttentionCommon& common = scene.args.common;
  const auto head_dim = static_cast<size_t>(common.cache.head_dim);
  const auto num_samples = static_cast<int64_t>(samples.size());
  Sample* device_samples = Put(samples);
  const int64_t most_places = scene.max_entries * common.cache.page_tokens + kMaskBlockTokens;
  auto* scratch = Allocate<double>(num_samples * most_places);
  auto* out = Allocate<double>(num_samples * (common.cache.head_dim + 1));
  PrefillReferenceKernel<<<static_cast<unsigned>(num_samples), kReferenceThreads>>>(scene.args, device_samples, scratch,
                                                                                    most_places, out);
  Check(cudaGetLastError(), "reference");
  Check(cudaDeviceSynchronize(), "reference");
  std::vector<double> expected(samples.size() * (head_dim + 1));
  Check(cudaMemcpy(expected.data(), out, expected.size() * 8, cudaMemcpyDeviceToHost), "download");
  Errors errors;
  std::vector<uint16_t> got(head_dim);
  for (size_t s = 0; s < samples.size(); ++s) {
    const Sample& sample = samples[s];
    const PrefillTile& tile = scene.tiles[static_cast<size_t>(sample.tile)];
    const int64_t index = (tile.row + sample.query) * common.num_heads + sample.head;
    float lse = 0;
    Check(cudaMemcpy(got.data(), static_cast<const uint16_t*>(common.out) + index * common.cache.head_dim, head_dim * 2,
                     cudaMemcpyDeviceToHost),
          "download");
    Check(cudaMemcpy(&lse, common.lse + index, 4, cudaMemcpyDeviceToHost), "download");
    const double* reference = expected.data() + s * (head_dim + 1);
    double difference = 0, norm = 0;
    for (size_t d = 0; d < head_dim; ++d) {
      const uint32_t bits = static_cast<uint32_t>(got[d]) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      difference += (value - reference[d]) * (value - reference[d]);
      norm += reference[d] * reference[d];
    }
    const double error = norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
    const double lse_error =
        std::isinf(reference[head_dim]) ? (lse == reference[head_dim] ? 0 : 1) : std::fabs(lse - reference[head_dim]);
    // A NaN stays.
    if (!(error <= errors.out) && !std::isnan(errors.out)) errors.out = error;
    if (!(lse_error <= errors.lse) && !std::isnan(errors.lse)) errors.lse = lse_error;
  }
  Check(cudaFree(device_samples), "cudaFree");
  Check(cudaFree(scratch), "cudaFree");
  Check(cudaFree(out), "cudaFree");
  return errors;
}

}  // namespace farspan::kernels::cuda
