// SPDX-License-Identifier: Apache-2.0
// What the benchmark of products on CUDA measures with: random weights and rows in device memory, and two ways to time
// launches. Every failure ends the process.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace farspan {

using kernels::WeightType;
using kernels::WeightView;

inline constexpr float kEpsilon = 1e-5f;
inline constexpr int64_t kFlushBytes = int64_t{256} << 20;

inline void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
inline void Require(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::printf("%s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

__device__ inline float UniformAt(uint64_t seed, uint64_t index) {
  uint64_t z = index * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-23f - 1.0f;
}

static __global__ void FillBf16(uint16_t* out, int64_t size, uint64_t seed, float scale) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    out[i] = kernels::cuda::ToBf16(UniformAt(seed, i) * scale);
  }
}
// Tiles of random levels whose weights are about as large as FillBf16's of `scale`.
static __global__ void FillTiles(uint16_t* out, int64_t tiles, kernels::TileTraits traits, uint64_t seed, float scale) {
  const int64_t tile_halves = traits.tile_bytes() / 2, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const float levels = traits.low_bits == 8 ? 128 : static_cast<float>(8 << traits.high_bits);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < tiles * tile_halves; i += step) {
    const int64_t at = i % tile_halves * 2;
    const float unit = UniformAt(seed, i);
    if (at < traits.scales_at()) {
      out[i] = static_cast<uint16_t>(static_cast<int>((unit + 1) * 32767));
    } else {
      const bool is_min = traits.has_min && (at - traits.scales_at()) % 4 == 2;
      out[i] = __half_as_ushort(__float2half(is_min ? -scale : scale / levels * (1 + unit / 4)));
    }
  }
}
static __global__ void FillFloat(float* out, int64_t size, uint64_t seed, float scale, float offset) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    out[i] = UniformAt(seed, i) * scale + offset;
  }
}
template <typename T>
T* Allocate(int64_t size) {
  void* data = nullptr;
  Require(cudaMalloc(&data, static_cast<size_t>(size) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(data);
}

inline uint64_t next_seed = 1;

inline uint16_t* RandomBf16(int64_t size, float scale) {
  auto* data = Allocate<uint16_t>(size);
  FillBf16<<<2048, 256>>>(data, size, ++next_seed, scale);
  Require(cudaGetLastError(), "fill");
  return data;
}
inline float* RandomFloat(int64_t size, float scale, float offset = 0) {
  auto* data = Allocate<float>(size);
  FillFloat<<<256, 256>>>(data, size, ++next_seed, scale, offset);
  Require(cudaGetLastError(), "fill");
  return data;
}

struct Model {
  const char* name;
  int64_t width, query_width, kv_width, inner, vocab, layers;
};
inline constexpr Model kLlama8B = {"8B", 4096, 4096, 1024, 14336, 128256, 32};
inline constexpr Model kSmolLm2 = {"SmolLM2", 576, 576, 192, 1536, 49152, 30};

inline void* RandomWeights(WeightType type, int64_t rows, int64_t columns, float scale) {
  if (type == WeightType::kBf16) return RandomBf16(rows * columns, scale);
  const int64_t bytes = rows * WeightRowBytes(type, columns);
  auto* data = Allocate<uint16_t>(bytes / 2);
  const kernels::TileTraits traits = kernels::TraitsOfTiles(type);
  FillTiles<<<2048, 256>>>(data, bytes / traits.tile_bytes(), traits, ++next_seed, scale);
  Require(cudaGetLastError(), "fill");
  return data;
}

// Weights of some distinct layers, used in turn, and activations for up to 64 rows. Leaves its memory to the end of the
// process.
struct Scene {
  static constexpr int64_t kMaxRows = 64;

  Scene(const Model& of, WeightType of_type) : model(of), type(of_type) {
    const int64_t qkv_width = of.query_width + 2 * of.kv_width;
    const int64_t layer_columns = qkv_width + of.query_width + 3 * of.inner;
    const int64_t layer_bytes = layer_columns * kernels::WeightRowBytes(type, of.width);
    num_layers = std::clamp<int64_t>((int64_t{1} << 30) / layer_bytes, 3, of.layers);
    const float scale = 1.7f / std::sqrt(static_cast<float>(of.width));
    for (int64_t i = 0; i < num_layers; ++i) {
      qkv.push_back(RandomWeights(type, qkv_width, of.width, scale));
      o.push_back(RandomWeights(type, of.width, of.query_width, scale));
      gate_up.push_back(RandomWeights(type, 2 * of.inner, of.width, scale));
      down.push_back(RandomWeights(type, of.width, of.inner, scale));
    }
    head = RandomWeights(type, of.vocab, of.width, scale);
    hidden = RandomFloat(kMaxRows * of.width, 2);
    norm = RandomFloat(of.width, 0.5f, 1);
    x = RandomBf16(kMaxRows * std::max(of.width, of.inner), 1);
    y = Allocate<uint16_t>(kMaxRows * std::max(2 * of.inner, qkv_width));
    logits = Allocate<float>(kMaxRows * of.vocab);
    normed = Allocate<uint16_t>(kMaxRows * of.width);
    flush = Allocate<uint8_t>(kFlushBytes);
  }

  WeightView View(const void* data, int64_t first_row, int64_t rows, int64_t columns) const {
    return {.data = static_cast<const uint8_t*>(data) + first_row * kernels::WeightRowBytes(type, columns),
            .type = type,
            .rows = rows,
            .columns = columns};
  }
  const void* Of(const std::vector<void*>& weights, int64_t layer) const {
    return weights[static_cast<size_t>(layer % num_layers)];
  }
  kernels::cuda::NormedRows Normed(int64_t rows) const {
    return {.hidden = hidden, .weight = norm, .epsilon = kEpsilon, .normed = rows > kSelfNormedRows ? normed : nullptr};
  }
  // More rows than this are normed by a kernel of their own.
  static constexpr int64_t kSelfNormedRows = 4;
  void Norm(int64_t rows, cudaStream_t stream) const {
    if (rows <= kSelfNormedRows) return;
    const kernels::cuda::NormRowsArgs args = {.input = {.hidden = hidden, .weight = norm, .epsilon = kEpsilon},
                                              .out = normed,
                                              .num_rows = rows,
                                              .width = model.width};
    Require(kernels::cuda::LaunchNormRows(args, stream), "norm");
  }

  kernels::cuda::NormLinearArgs Qkv(int64_t layer, int64_t rows) const {
    const void* w = Of(qkv, layer);
    return {
        .input = Normed(rows),
        .weights = {View(w, 0, model.query_width, model.width), View(w, model.query_width, model.kv_width, model.width),
                    View(w, model.query_width + model.kv_width, model.kv_width, model.width)},
        .num_weights = 3,
        .y = y,
        .num_rows = rows};
  }
  kernels::AddLinearArgs O(int64_t layer, int64_t rows) const {
    return {
        .x = x, .weight = View(Of(o, layer), 0, model.width, model.query_width), .hidden = hidden, .num_rows = rows};
  }
  kernels::cuda::NormGateUpArgs GateUp(int64_t layer, int64_t rows) const {
    return {.input = Normed(rows),
            .gate = View(Of(gate_up, layer), 0, model.inner, model.width),
            .up = View(Of(gate_up, layer), model.inner, model.inner, model.width),
            .inner = y,
            .num_rows = rows};
  }
  kernels::AddLinearArgs Down(int64_t layer, int64_t rows) const {
    return {.x = x, .weight = View(Of(down, layer), 0, model.width, model.inner), .hidden = hidden, .num_rows = rows};
  }
  kernels::LogitsArgs Head(int64_t rows) const {
    return {.hidden = hidden,
            .rows = nullptr,
            .norm_weight = norm,
            .epsilon = kEpsilon,
            .weight = View(head, 0, model.vocab, model.width),
            .normed = nullptr,
            .logits = logits,
            .num_rows = rows};
  }

  const Model model;
  const WeightType type;
  int64_t num_layers;
  std::vector<void*> qkv, o, gate_up, down;
  void* head;
  uint16_t *x, *y, *normed;
  float *hidden, *norm, *logits;
  uint8_t* flush;
};

using Work = std::function<void(int64_t iteration, cudaStream_t stream)>;

inline float ColdMicroseconds(const Scene& scene, cudaStream_t stream, const Work& work) {
  constexpr int kSamples = 11;
  cudaEvent_t begin, end;
  Require(cudaEventCreate(&begin), "event");
  Require(cudaEventCreate(&end), "event");
  std::vector<float> samples;
  for (int i = 0; i < kSamples; ++i) {
    Require(cudaMemsetAsync(scene.flush, i, kFlushBytes, stream), "flush");
    Require(cudaEventRecord(begin, stream), "record");
    work(i, stream);
    Require(cudaEventRecord(end, stream), "record");
    Require(cudaStreamSynchronize(stream), "synchronize");
    float milliseconds = 0;
    Require(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    samples.push_back(milliseconds * 1000);
  }
  std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
  return samples[kSamples / 2];
}

// Mean over `iterations` calls of one graph, the best of some replays.
inline float GraphMicroseconds(cudaStream_t stream, int iterations, const Work& work) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  Require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < iterations; ++i) work(i, stream);
  Require(cudaStreamEndCapture(stream, &graph), "capture");
  Require(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  Require(cudaEventCreate(&begin), "event");
  Require(cudaEventCreate(&end), "event");
  std::vector<float> samples;
  for (int i = 0; i < 7; ++i) {
    Require(cudaEventRecord(begin, stream), "record");
    Require(cudaGraphLaunch(exec, stream), "launch");
    Require(cudaEventRecord(end, stream), "record");
    Require(cudaStreamSynchronize(stream), "synchronize");
    float milliseconds = 0;
    Require(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    samples.push_back(milliseconds * 1000);
  }
  Require(cudaGraphExecDestroy(exec), "destroy");
  Require(cudaGraphDestroy(graph), "destroy");
  std::nth_element(samples.begin(), samples.begin() + 3, samples.end());
  return samples[3] / static_cast<float>(iterations);
}

}  // namespace farspan
