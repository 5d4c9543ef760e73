// SPDX-License-Identifier: Apache-2.0
// Checks and times prefill attention on the current device: random lists against float64 on the device, then shapes of
// real models. Prints a table; needs nothing but the CUDA runtime.
//   farspan-bench-cuda-prefill [check|time] [largest number of tokens]
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/prefill_attention.h"

namespace farspan::kernels::cuda {
namespace {

void Check(cudaError_t error, const char* what) {
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
__global__ void FillKernel(__nv_bfloat16* values, int64_t size, uint64_t seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const uint32_t bits = Hash(seed + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull);
    const float sum = static_cast<float>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24));
    values[i] = __float2bfloat16((sum - 510.0f) / 147.8f);
  }
}

void Fill(void* values, int64_t size, uint64_t seed) {
  FillKernel<<<1024, 256>>>(static_cast<__nv_bfloat16*>(values), size, seed);
  Check(cudaGetLastError(), "fill");
}

__global__ void FillRopeKernel(float* cos_sin, const int64_t* positions, const double* frequencies, int64_t rows,
                               int64_t pairs) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= rows * pairs) return;
  const double angle = static_cast<double>(positions[i / pairs]) * frequencies[i % pairs];
  cos_sin[2 * i] = static_cast<float>(cos(angle));
  cos_sin[2 * i + 1] = static_cast<float>(sin(angle));
}

// A query to check: one head of one query of a tile.
struct Sample {
  int64_t tile;
  int64_t query;
  int64_t head;
};

// Float64 attention of samples: out[sample][head_dim], then the log-sum-exp. `weights` is [samples][max_keys].
__global__ void ReferenceKernel(PrefillAttentionArgs args, const Sample* samples, double* weights, int64_t max_keys,
                                double* out) {
  __shared__ double q[256], turned[256], reduced[256];
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  const Sample sample = samples[blockIdx.x];
  const PrefillTile tile = args.tiles[sample.tile];
  const int64_t head_dim = cache.head_dim, group = common.num_heads / cache.num_kv_heads;
  const int64_t list_index = sample.tile * common.num_heads + sample.head, row = tile.row + sample.query;
  const int64_t position = tile.first_position + sample.query;
  const KvList list = args.lists[list_index];
  const BlockRange range = args.kept_ranges == nullptr ? BlockRange() : args.kept_ranges[list_index];
  const int64_t block_entries = MaskBlockEntries(cache.page_tokens);
  const auto* data = static_cast<const __nv_bfloat16*>(cache.data);
  double* mine = weights + blockIdx.x * max_keys;
  for (int64_t i = threadIdx.x; i < head_dim; i += blockDim.x) {
    q[i] = static_cast<double>(__bfloat162float(
        static_cast<const __nv_bfloat16*>(common.q)[(row * common.num_heads + sample.head) * head_dim + i]));
  }
  double* result = out + blockIdx.x * (head_dim + 1);
  int64_t num_keys = 0;
  for (int pass = 0; pass < 2; ++pass) {
    num_keys = 0;
    double sum = 0;
    if (pass == 1) {
      for (int64_t d = threadIdx.x; d < head_dim; d += blockDim.x) result[d] = 0;
    }
    for (int64_t e = 0; e < list.num_entries; ++e) {
      if (range.num_blocks != kAllBlocks) {
        bool kept = false;
        for (int64_t i = 0; i < range.num_blocks && !kept; ++i) {
          kept = args.kept_blocks[range.begin + i] == e / block_entries;
        }
        if (!kept) continue;
      }
      const KvEntry entry = common.entries[list.entries_begin + e];
      if ((entry.head_mask >> (sample.head % group) & 1) == 0) continue;
      const int64_t plane = ((entry.page * cache.num_kv_heads + sample.head / group) * 2) * cache.page_tokens;
      __syncthreads();
      if (pass == 0) {
        const int64_t turn = (position < entry.query_cap ? position : entry.query_cap) - position;
        for (int64_t i = threadIdx.x; i < head_dim / 2; i += blockDim.x) {
          const double angle = 2 * i < common.rope_dim ? static_cast<double>(turn) * common.inverse_frequencies[i] : 0;
          turned[2 * i] = q[2 * i] * cos(angle) - q[2 * i + 1] * sin(angle);
          turned[2 * i + 1] = q[2 * i] * sin(angle) + q[2 * i + 1] * cos(angle);
        }
      }
      __syncthreads();
      for (int64_t token = threadIdx.x; pass == 0 && token < entry.num_valid; token += blockDim.x) {
        const int64_t key = entry.position + token;
        double score = -INFINITY;
        if (key <= position && (entry.ignores_left_window || position - key < tile.left_window)) {
          score = 0;
          const __nv_bfloat16* k = data + (plane + entry.first_valid + token) * head_dim;
          for (int64_t d = 0; d < head_dim; ++d) score += turned[d] * static_cast<double>(__bfloat162float(k[d]));
          score *= static_cast<double>(common.scale);
        }
        mine[num_keys + token] = score;
      }
      if (pass == 1) {
        for (int64_t d = threadIdx.x; d < head_dim; d += blockDim.x) {
          double total = 0;
          const __nv_bfloat16* v = data + (plane + cache.page_tokens + entry.first_valid) * head_dim + d;
          for (int64_t token = 0; token < entry.num_valid; ++token) {
            const double weight = mine[num_keys + token];
            if (weight != 0) total += weight * static_cast<double>(__bfloat162float(v[token * head_dim]));
          }
          result[d] += total;
        }
      }
      num_keys += entry.num_valid;
    }
    __syncthreads();
    if (pass == 1) break;
    double most = -INFINITY;
    for (int64_t i = threadIdx.x; i < num_keys; i += blockDim.x) most = fmax(most, mine[i]);
    reduced[threadIdx.x] = most;
    __syncthreads();
    for (unsigned i = 0; i < blockDim.x; ++i) most = fmax(most, reduced[i]);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < num_keys; i += blockDim.x) {
      const double weight = mine[i] == -INFINITY ? 0 : exp(mine[i] - most);
      sum += weight;
    }
    reduced[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (unsigned i = 0; i < blockDim.x; ++i) sum += reduced[i];
    for (int64_t i = threadIdx.x; i < num_keys; i += blockDim.x) {
      mine[i] = mine[i] == -INFINITY ? 0 : exp(mine[i] - most) / sum;
    }
    if (threadIdx.x == 0) result[head_dim] = sum == 0 ? -INFINITY : most + log(sum);
    __syncthreads();
  }
}

// One call of the op, all of it in device memory.
struct Scene {
  PrefillAttentionArgs args{};
  int64_t num_rows = 0;
  int64_t max_keys = 0;   // longest list, in tokens
  int64_t num_pairs = 0;  // (query, key) pairs seen, all heads
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
};

void FinishScene(const SceneShape& shape, const std::vector<KvEntry>& entries, const std::vector<KvList>& lists,
                 uint64_t seed, Scene* scene) {
  const int64_t rows = scene->num_rows, size = rows * shape.num_heads * shape.head_dim, pairs = shape.head_dim / 2;
  AttentionCommon& common = scene->args.common;
  common.cache = {.element = KvElement::kBf16,
                  .num_pages = shape.num_pages,
                  .num_kv_heads = shape.num_kv_heads,
                  .page_tokens = shape.page_tokens,
                  .head_dim = shape.head_dim};
  const int64_t cache_size = shape.num_pages * common.cache.page_elements();
  common.cache.data = scene->Own(Allocate<__nv_bfloat16>(cache_size));
  Fill(common.cache.data, cache_size, seed);
  auto* q = scene->Own(Allocate<__nv_bfloat16>(size));
  Fill(q, size, seed + 1);
  common.q = q;
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

Errors Compare(const Scene& scene, const std::vector<Sample>& samples) {
  const AttentionCommon& common = scene.args.common;
  const auto head_dim = static_cast<size_t>(common.cache.head_dim);
  const auto num_samples = static_cast<int64_t>(samples.size());
  Sample* device_samples = Put(samples);
  auto* weights = Allocate<double>(num_samples * scene.max_keys);
  auto* out = Allocate<double>(num_samples * (common.cache.head_dim + 1));
  ReferenceKernel<<<static_cast<unsigned>(num_samples), 256>>>(scene.args, device_samples, weights, scene.max_keys,
                                                               out);
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
    if (!(error <= errors.out)) errors.out = error;
    if (!(lse_error <= errors.lse)) errors.lse = lse_error;
  }
  Check(cudaFree(device_samples), "cudaFree");
  Check(cudaFree(weights), "cudaFree");
  Check(cudaFree(out), "cudaFree");
  return errors;
}

using Engine = std::mt19937_64;

int64_t Integer(Engine* engine, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(*engine);
}
bool OneIn(Engine* engine, int64_t n) { return Integer(engine, 1, n) == 1; }

// Entries over [0, context) with random gaps, cuts, masks, caps and exemptions from the window.
std::vector<KvEntry> RandomEntries(const std::vector<int32_t>& pages, int64_t page_tokens, int64_t context,
                                   Engine* engine) {
  std::vector<KvEntry> entries;
  const bool plain = OneIn(engine, 3);
  for (int64_t begin = 0; begin < context;) {
    const int64_t end = std::min(context, begin + (plain ? context : Integer(engine, 1, 4 * page_tokens)));
    KvEntry entry;
    if (!plain && OneIn(engine, 4)) entry.head_mask = static_cast<uint32_t>(Integer(engine, 0, 0xffffffff));
    if (!plain && OneIn(engine, 4)) entry.query_cap = Integer(engine, end - 1, context);
    entry.ignores_left_window = !plain && OneIn(engine, 4);
    const bool gap = !plain && OneIn(engine, 5);
    while (begin < end) {
      const int64_t token = begin % page_tokens;
      int64_t num_valid = std::min(end - begin, page_tokens - token);
      if (!plain && OneIn(engine, 4)) num_valid = Integer(engine, 1, num_valid);
      entry.page = pages[static_cast<size_t>(begin / page_tokens)];
      entry.first_valid = static_cast<int32_t>(token);
      entry.num_valid = static_cast<int32_t>(num_valid);
      entry.position = begin;
      if (!gap) entries.push_back(entry);
      begin += num_valid;
    }
  }
  return entries;
}

void AddRandomMask(const std::vector<KvList>& lists, int64_t page_tokens, Engine* engine, Scene* scene) {
  std::vector<BlockRange> ranges;
  std::vector<int32_t> blocks;
  for (const KvList& list : lists) {
    const auto begin = static_cast<int64_t>(blocks.size());
    if (OneIn(engine, 4)) {
      ranges.push_back({.begin = 1 << 30, .num_blocks = kAllBlocks});
      continue;
    }
    for (int64_t block = 0; block * MaskBlockEntries(page_tokens) < list.num_entries; ++block) {
      if (OneIn(engine, 2)) blocks.push_back(static_cast<int32_t>(block));
    }
    ranges.push_back({begin, static_cast<int64_t>(blocks.size()) - begin});
  }
  scene->args.kept_ranges = scene->Own(Put(ranges));
  scene->args.kept_blocks = scene->Own(Put(blocks));
}

// A random scene: two sequences, ragged tiles, lists of their own or shared.
Scene RandomScene(Engine* engine, std::string* name) {
  constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256}, kPageTokens[] = {16, 32, 64};
  SceneShape shape;
  shape.num_kv_heads = Integer(engine, 1, 3);
  shape.num_heads = shape.num_kv_heads * Integer(engine, 1, 6);
  shape.head_dim = kHeadDims[Integer(engine, 0, 4)];
  shape.page_tokens = kPageTokens[Integer(engine, 0, 2)];
  Scene scene;
  std::vector<KvEntry> entries;
  std::vector<KvList> lists;
  const bool masked = OneIn(engine, 3);
  const int64_t longest = OneIn(engine, 3) ? 4000 : 700;
  for (int sequence = 0; sequence < 2; ++sequence) {
    const int64_t context = Integer(engine, 1, longest), first_query = Integer(engine, 0, context - 1);
    const int64_t num_pages = (context + shape.page_tokens - 1) / shape.page_tokens;
    std::vector<int32_t> pages;
    for (int64_t i = 0; i < num_pages; ++i) pages.push_back(static_cast<int32_t>(shape.num_pages + i));
    std::shuffle(pages.begin(), pages.end(), *engine);
    shape.num_pages += num_pages;
    scene.max_keys = std::max(scene.max_keys, context);
    const int64_t left_window = OneIn(engine, 2) ? kNoLeftWindow : Integer(engine, 1, context);
    const int64_t mean = OneIn(engine, 2) ? 8 : kPrefillTileQueries;
    for (int64_t query = first_query; query < context;) {
      const int64_t tile_end = std::min(context, (query / kPrefillTileQueries + 1) * kPrefillTileQueries);
      const int64_t num = OneIn(engine, 2) ? tile_end - query : std::min(tile_end - query, Integer(engine, 1, mean));
      scene.tiles.push_back(
          {.row = scene.num_rows, .num_queries = num, .first_position = query, .left_window = left_window});
      scene.num_rows += num;
      query += num;
      KvList list;
      const bool by_head = OneIn(engine, 3);
      for (int64_t head = 0; head < shape.num_heads; ++head) {
        if (head == 0 || by_head) {
          const std::vector<KvEntry> mine = RandomEntries(pages, shape.page_tokens, context, engine);
          list = {static_cast<int64_t>(entries.size()), static_cast<int64_t>(mine.size())};
          entries.insert(entries.end(), mine.begin(), mine.end());
        }
        lists.push_back(list);
      }
      if (lists.size() > 400) break;
    }
  }
  if (masked) AddRandomMask(lists, shape.page_tokens, engine, &scene);
  FinishScene(shape, entries, lists, (*engine)(), &scene);
  char text[160];
  std::snprintf(text, sizeof(text), "d %ld heads %ld/%ld page %ld tiles %zu rows %ld keys %ld%s", shape.head_dim,
                shape.num_heads, shape.num_kv_heads, shape.page_tokens, scene.tiles.size(), scene.num_rows,
                scene.max_keys, masked ? " masked" : "");
  *name = text;
  return scene;
}

std::vector<Sample> RandomSamples(const Scene& scene, int64_t count, Engine* engine) {
  std::vector<Sample> samples;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = Integer(engine, 0, scene.args.num_tiles - 1);
    samples.push_back({.tile = tile,
                       .query = Integer(engine, 0, scene.tiles[static_cast<size_t>(tile)].num_queries - 1),
                       .head = Integer(engine, 0, scene.args.common.num_heads - 1)});
  }
  return samples;
}

// Every output is written, and no other.
bool AllWritten(const Scene& scene) {
  const AttentionCommon& common = scene.args.common;
  std::vector<uint16_t> out(static_cast<size_t>(scene.num_rows * common.num_heads * common.cache.head_dim));
  Check(cudaMemcpy(out.data(), common.out, out.size() * 2, cudaMemcpyDeviceToHost), "download");
  return std::find(out.begin(), out.end(), 0xffff) == out.end();
}

int CheckRandomScenes(int count, uint64_t seed) {
  Engine engine(seed);
  int failures = 0;
  Errors worst;
  for (int i = 0; i < count; ++i) {
    std::string name;
    Scene scene = RandomScene(&engine, &name);
    Check(LaunchPortablePrefillAttention(scene.args, nullptr), name.c_str());
    Check(cudaDeviceSynchronize(), name.c_str());
    const Errors errors = Compare(scene, RandomSamples(scene, 200, &engine));
    const bool written = AllWritten(scene);
    if (!(errors.out < 2e-2) || !(errors.lse < 2e-2) || !written) {
      ++failures;
      std::printf("WRONG %s: out %.2e lse %.2e%s\n", name.c_str(), errors.out, errors.lse, written ? "" : " unwritten");
    }
    worst.out = std::max(worst.out, errors.out);
    worst.lse = std::max(worst.lse, errors.lse);
    scene.Free();
  }
  std::printf("%d random scenes, seed %lu: %d wrong, largest error out %.2e lse %.2e\n", count, seed, failures,
              worst.out, worst.lse);
  std::fflush(stdout);
  return failures;
}

struct Timing {
  const char* name;
  SceneShape shape;
  int64_t context;
  int64_t num_queries;
  double kept = 1;  // share of the causal blocks of 128 x 128, besides the first and the diagonal
};

Scene TimedScene(const Timing& timing, Engine* engine) {
  SceneShape shape = timing.shape;
  shape.num_pages = (timing.context + shape.page_tokens - 1) / shape.page_tokens;
  std::vector<int32_t> pages;
  for (int64_t i = 0; i < shape.num_pages; ++i) pages.push_back(static_cast<int32_t>(i));
  std::shuffle(pages.begin(), pages.end(), *engine);
  std::vector<KvEntry> entries;
  for (int64_t position = 0; position < timing.context; position += shape.page_tokens) {
    entries.push_back({.page = pages[static_cast<size_t>(position / shape.page_tokens)],
                       .num_valid = static_cast<int32_t>(std::min(shape.page_tokens, timing.context - position)),
                       .position = position});
  }
  Scene scene;
  scene.num_rows = timing.num_queries;
  scene.max_keys = timing.context;
  std::vector<KvList> lists;
  std::vector<BlockRange> ranges;
  std::vector<int32_t> blocks;
  for (int64_t row = 0; row < timing.num_queries; row += kPrefillTileQueries) {
    const int64_t position = timing.context - timing.num_queries + row;
    const int64_t num = std::min(kPrefillTileQueries, timing.num_queries - row);
    scene.tiles.push_back({.row = row, .num_queries = num, .first_position = position, .left_window = kNoLeftWindow});
    for (int64_t head = 0; head < shape.num_heads; ++head) {
      lists.push_back({0, (position + num + shape.page_tokens - 1) / shape.page_tokens});
      const int64_t diagonal = position / kMaskBlockTokens;
      if (timing.kept >= 1) {
        scene.num_pairs += num * position + num * (num + 1) / 2;
        continue;
      }
      const auto begin = static_cast<int64_t>(blocks.size());
      for (int64_t block = 0; block < diagonal; ++block) {
        if (block == 0 || std::uniform_real_distribution<double>()(*engine) < timing.kept) {
          blocks.push_back(static_cast<int32_t>(block));
        }
      }
      scene.num_pairs += (static_cast<int64_t>(blocks.size()) - begin) * kMaskBlockTokens * num + num * (num + 1) / 2;
      blocks.push_back(static_cast<int32_t>(diagonal));
      ranges.push_back({begin, static_cast<int64_t>(blocks.size()) - begin});
    }
  }
  if (timing.kept < 1) {
    scene.args.kept_ranges = scene.Own(Put(ranges));
    scene.args.kept_blocks = scene.Own(Put(blocks));
  }
  FinishScene(shape, entries, lists, (*engine)(), &scene);
  return scene;
}

void Time(const Timing& timing, double limit_ms) {
  Engine engine(7);
  Scene scene = TimedScene(timing, &engine);
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  double total = 0;
  for (int i = 0; i < 12 && (i < 3 || total < limit_ms); ++i) {
    Check(cudaEventRecord(begin), "record");
    Check(LaunchPortablePrefillAttention(scene.args, nullptr), timing.name);
    Check(cudaEventRecord(end), "record");
    Check(cudaEventSynchronize(end), timing.name);
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    total += ms;
    if (i > 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  const double ms = times[times.size() / 2];
  const Errors errors = Compare(scene, RandomSamples(scene, 24, &engine));
  const double flops = 4.0 * static_cast<double>(timing.shape.head_dim) * static_cast<double>(scene.num_pairs) *
                       (timing.kept >= 1 ? 1.0 : 1.0);
  std::printf("%-28s %9.3f ms %7.1f TFLOP/s  best %9.3f ms  error %.1e lse %.1e%s\n", timing.name, ms, flops / ms / 1e9,
              static_cast<double>(times[0]), errors.out, errors.lse,
              errors.out < 2e-2 && errors.lse < 2e-2 ? "" : "  WRONG");
  std::fflush(stdout);
  Check(cudaEventDestroy(begin), "event");
  Check(cudaEventDestroy(end), "event");
  scene.Free();
}

void TimeShapes(int64_t most_tokens) {
  const SceneShape llama, small = {.num_heads = 9, .num_kv_heads = 3, .head_dim = 64};
  const SceneShape short_pages = {.page_tokens = 16};
  const Timing timings[] = {
      {"d128 32/8 8k", llama, 8192, 8192},
      {"d128 32/8 32k", llama, 32768, 32768},
      {"d128 32/8 128k", llama, 131072, 131072},
      {"d128 2048 at 128k", llama, 131072, 2048},
      {"d128 512 at 32k", llama, 32768, 512},
      {"d128 16 at 32k", llama, 32768, 16},
      {"d128 32/8 8k pages of 16", short_pages, 8192, 8192},
      {"d64 9/3 8k", small, 8192, 8192},
      {"d64 9/3 32k", small, 32768, 32768},
      {"d128 10 % of 32k kept", llama, 32768, 32768, 0.1},
      {"d128 10 % of 128k kept", llama, 131072, 131072, 0.1},
      {"d96 32/8 8k", {.head_dim = 96}, 8192, 8192},
      {"d256 16/8 8k", {.num_heads = 16, .head_dim = 256}, 8192, 8192},
  };
  for (const Timing& timing : timings) {
    if (timing.context <= most_tokens) Time(timing, 400);
  }
}

}  // namespace
}  // namespace farspan::kernels::cuda

int main(int argc, char** argv) {
  using namespace farspan::kernels::cuda;
  const std::string what = argc > 1 ? argv[1] : "";
  const int64_t most_tokens = argc > 2 ? std::atoll(argv[2]) : 131072;
  int failures = 0;
  if (what != "time") failures = CheckRandomScenes(argc > 3 ? std::atoi(argv[3]) : 60, std::random_device()());
  if (what != "check") TimeShapes(most_tokens);
  return failures == 0 ? 0 : 1;
}
