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

// Weights of some distinct layers, used in turn, and activations for up to 64 rows.
struct Scene {
  static constexpr int64_t kMaxRows = 64;

  explicit Scene(const Model& of) : model(of) {
    const int64_t layer_values =
        (of.width + 2 * of.kv_width) * of.width + of.query_width * of.width + 3 * of.inner * of.width;
    num_layers = std::clamp<int64_t>(int64_t{1500} * (1 << 20) / (2 * layer_values), 3, of.layers);
    const float scale = 1.7f / std::sqrt(static_cast<float>(of.width));
    for (int64_t i = 0; i < num_layers; ++i) {
      qkv.push_back(RandomBf16((of.query_width + 2 * of.kv_width) * of.width, scale));
      o.push_back(RandomBf16(of.width * of.query_width, scale));
      gate_up.push_back(RandomBf16(2 * of.inner * of.width, scale));
      down.push_back(RandomBf16(of.width * of.inner, scale));
    }
    head = RandomBf16(of.vocab * of.width, scale);
    hidden = RandomFloat(kMaxRows * of.width, 2);
    norm = RandomFloat(of.width, 0.5f, 1);
    x = RandomBf16(kMaxRows * std::max(of.width, of.inner), 1);
    y = Allocate<uint16_t>(kMaxRows * std::max(2 * of.inner, of.query_width + 2 * of.kv_width));
    logits = Allocate<float>(kMaxRows * of.vocab);
    flush = Allocate<uint8_t>(kFlushBytes);
  }
  // Leaves the memory to the end of the process.

  WeightView View(const uint16_t* data, int64_t rows, int64_t columns) const {
    return {.data = data, .type = WeightType::kBf16, .rows = rows, .columns = columns};
  }
  kernels::cuda::NormedRows Normed() const { return {.hidden = hidden, .weight = norm, .epsilon = kEpsilon}; }

  kernels::cuda::NormLinearArgs Qkv(int64_t layer, int64_t rows) const {
    const uint16_t* w = qkv[static_cast<size_t>(layer % num_layers)];
    const int64_t width = model.width;
    return {.input = Normed(),
            .weights = {View(w, model.query_width, width), View(w + model.query_width * width, model.kv_width, width),
                        View(w + (model.query_width + model.kv_width) * width, model.kv_width, width)},
            .num_weights = 3,
            .y = y,
            .num_rows = rows};
  }
  kernels::AddLinearArgs O(int64_t layer, int64_t rows) const {
    return {.x = x,
            .weight = View(o[static_cast<size_t>(layer % num_layers)], model.width, model.query_width),
            .hidden = hidden,
            .num_rows = rows};
  }
  kernels::cuda::NormGateUpArgs GateUp(int64_t layer, int64_t rows) const {
    const uint16_t* w = gate_up[static_cast<size_t>(layer % num_layers)];
    return {.input = Normed(),
            .gate = View(w, model.inner, model.width),
            .up = View(w + model.inner * model.width, model.inner, model.width),
            .inner = y,
            .num_rows = rows};
  }
  kernels::AddLinearArgs Down(int64_t layer, int64_t rows) const {
    return {.x = x,
            .weight = View(down[static_cast<size_t>(layer % num_layers)], model.width, model.inner),
            .hidden = hidden,
            .num_rows = rows};
  }
  kernels::LogitsArgs Head(int64_t rows) const {
    return {.hidden = hidden,
            .rows = nullptr,
            .norm_weight = norm,
            .epsilon = kEpsilon,
            .weight = View(head, model.vocab, model.width),
            .normed = nullptr,
            .logits = logits,
            .num_rows = rows};
  }

  const Model model;
  int64_t num_layers;
  std::vector<uint16_t*> qkv, o, gate_up, down;
  uint16_t *head, *x, *y;
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
