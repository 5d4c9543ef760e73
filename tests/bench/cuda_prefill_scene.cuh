// SPDX-License-Identifier: Apache-2.0
// One call of prefill attention for a benchmark: a shuffled cache, random queries, lists of a chosen kind, and the
// error of the outputs against float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/hopper_prefill_attention.h"
#include "engine/kernels/cuda/vectors.cuh"
#include "tests/bench/cuda_prefill_reference.cuh"

namespace farspan::kernels::cuda {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::fflush(stdout);
  std::exit(1);
}

template <typename T>
class Array {
 public:
  explicit Array(size_t size) : size_(size) { Check(cudaMalloc(&data_, (size + 1) * sizeof(T)), "malloc"); }
  explicit Array(const std::vector<T>& host) : Array(host.size()) {
    Check(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() const { return data_; }
  std::vector<T> Get() const {
    std::vector<T> host(size_);
    Check(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return host;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

__device__ inline uint32_t Mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return static_cast<uint32_t>(x >> 32);
}

// Roughly normal values.
template <typename Element>
__global__ void FillKernel(Element* values, int64_t size, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    for (uint64_t k = 0; k < 4; ++k)
      sum += static_cast<float>(Mix(seed + (static_cast<uint64_t>(i) << 2) + k)) * 0x1p-32f;
    values[i] = static_cast<Element>((sum - 2) * 1.7320508f);
  }
}

inline void Fill(KvElement element, void* values, int64_t size, uint64_t seed) {
  Check(WithKvElement(element,
                      [&]<typename Element>() {
                        FillKernel<<<1024, 256>>>(static_cast<Element*>(values), size, seed);
                        return cudaGetLastError();
                      }),
        "fill");
}

struct Shape {
  int64_t heads = 32, kv_heads = 8, head_dim = 128, page_tokens = 64;
  int64_t context = 0;        // keys
  int64_t queries = 0;        // the last ones
  int64_t early_queries = 0;  // the first ones, in the batch after the last
  KvElement element = KvElement::kBf16;
  double kept = 1;      // share of a block mask
  bool wild = false;    // random entries: partial pages, gaps, masks, caps, windows
  float steepness = 1;  // factor of the scores

  int64_t num_rows() const { return queries + early_queries; }
};

inline std::mt19937_64 generator(std::random_device{}());

inline int64_t Integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

struct Host {
  std::vector<KvEntry> entries;
  std::vector<PrefillTile> tiles;
  std::vector<KvList> lists;
  std::vector<BlockRange> ranges;
  std::vector<int32_t> blocks;
  double flops = 0;
};

inline void AddWildEntries(const Shape& shape, const std::vector<int32_t>& table, Host* host) {
  for (int64_t begin = 0; begin < shape.context;) {
    const int64_t end = std::min(shape.context, begin + Integer(1, Integer(0, 1) != 0 ? 400 : 40));
    KvEntry entry;
    if (Integer(0, 2) == 0) entry.head_mask = static_cast<uint32_t>(generator());
    if (Integer(0, 2) == 0) entry.query_cap = Integer(end - 1, shape.context + 5);
    entry.ignores_left_window = Integer(0, 2) == 0;
    const bool listed = Integer(0, 3) != 0;
    while (begin < end) {
      entry.page = table[static_cast<size_t>(begin / shape.page_tokens)];
      entry.first_valid = static_cast<int32_t>(begin % shape.page_tokens);
      entry.num_valid = static_cast<int32_t>(std::min(end - begin, shape.page_tokens - entry.first_valid));
      entry.position = begin;
      if (listed) host->entries.push_back(entry);
      begin += entry.num_valid;
    }
  }
}

// Tiles of the queries at positions [first, last), rows from `row`, with a list a head and, where it is wanted, a mask.
inline void AddTiles(const Shape& shape, int64_t first, int64_t last, int64_t row, Host* host) {
  const int64_t page = shape.page_tokens;
  const double block_flops = 4.0 * 128 * 128 * static_cast<double>(shape.head_dim);
  for (int64_t begin = first; begin < last;) {
    const int64_t limit = std::min(last, begin / kPrefillTileQueries * kPrefillTileQueries + kPrefillTileQueries);
    const int64_t end = shape.wild ? Integer(begin + 1, limit) : limit;
    PrefillTile tile = {row + begin - first, end - begin, begin, kNoLeftWindow};
    if (shape.wild && Integer(0, 1) != 0) tile.left_window = Integer(1, shape.context);
    host->tiles.push_back(tile);
    const int64_t entries = shape.wild ? static_cast<int64_t>(host->entries.size()) : (end + page - 1) / page;
    for (int64_t head = 0; head < shape.heads; ++head) {
      host->lists.push_back({0, entries});
      if (shape.kept >= 1) continue;
      BlockRange range{static_cast<int64_t>(host->blocks.size()), 0};
      const int64_t blocks = (entries + 128 / page - 1) / (128 / page);
      for (int64_t block = 0; block < blocks; ++block) {
        if (block == 0 || block == blocks - 1 || Integer(0, 9999) < 10000 * shape.kept) {
          host->blocks.push_back(static_cast<int32_t>(block));
        }
      }
      range.num_blocks = static_cast<int64_t>(host->blocks.size()) - range.begin;
      host->flops += block_flops * static_cast<double>(range.num_blocks);
      host->ranges.push_back(range);
    }
    begin = end;
  }
  const double dim = static_cast<double>(shape.head_dim * shape.heads), n = static_cast<double>(last - first);
  if (shape.kept >= 1) host->flops += 4 * dim * n * (static_cast<double>(last) - n / 2);
}

inline Host MakeHost(const Shape& shape, const std::vector<int32_t>& table) {
  Host host;
  const int64_t page = shape.page_tokens;
  if (shape.wild) {
    AddWildEntries(shape, table, &host);
  } else {
    for (int64_t begin = 0; begin < shape.context; begin += page) {
      host.entries.push_back({.page = table[static_cast<size_t>(begin / page)],
                              .num_valid = static_cast<int32_t>(std::min(page, shape.context - begin)),
                              .position = begin});
    }
  }
  AddTiles(shape, shape.context - shape.queries, shape.context, 0, &host);
  AddTiles(shape, 0, shape.early_queries, shape.queries, &host);
  return host;
}

// One call's arrays, and the call.
class Scene {
 public:
  explicit Scene(const Shape& shape)
      : shape_(shape),
        pages_((shape.context + shape.page_tokens - 1) / shape.page_tokens + 3),
        table_(MakeTable(pages_)),
        host_(MakeHost(shape, table_)),
        cache_(static_cast<size_t>(CacheElements() * KvElementBytes(shape.element))),
        q_(static_cast<size_t>(shape.num_rows() * shape.heads * shape.head_dim)),
        out_(static_cast<size_t>(shape.num_rows() * shape.heads * shape.head_dim)),
        lse_(static_cast<size_t>(shape.num_rows() * shape.heads)),
        entries_(host_.entries),
        tiles_(host_.tiles),
        lists_(host_.lists),
        ranges_(host_.ranges),
        blocks_(host_.blocks),
        cos_sin_(CosSin()),
        frequencies_(frequencies_host_),
        workspace_(static_cast<size_t>(HopperPrefillWorkspaceBytes())) {
    const uint64_t seed = generator();
    Fill(shape.element, cache_.data(), CacheElements(), seed);
    Fill(KvElement::kBf16, q_.data(), shape.num_rows() * shape.heads * shape.head_dim, ~seed);
    if (shape.wild) PoisonUnlisted();
    args_.common = {.q = q_.data(),
                    .out = out_.data(),
                    .lse = lse_.data(),
                    .cache = {cache_.data(), shape.element, pages_, shape.kv_heads, shape.page_tokens, shape.head_dim},
                    .entries = entries_.data(),
                    .rope_cos_sin = cos_sin_.data(),
                    .inverse_frequencies = frequencies_.data(),
                    .rope_dim = RopeDim(),
                    .num_heads = shape.heads,
                    .scale = shape.steepness / std::sqrt(static_cast<float>(shape.head_dim)),
                    .activation = Activation::kBf16};
    args_.tiles = tiles_.data();
    args_.lists = lists_.data();
    args_.num_tiles = static_cast<int64_t>(host_.tiles.size());
    if (!host_.ranges.empty()) {
      args_.kept_ranges = ranges_.data();
      args_.kept_blocks = blocks_.data();
    }
  }

  cudaError_t Launch() const {
    return LaunchHopperPrefillAttention(args_, {workspace_.data(), HopperPrefillWorkspaceBytes()}, nullptr);
  }
  double flops() const { return host_.flops; }

  // Relative error of the outputs by norm and greatest error of the log-sum-exps; negative where something is wrong.
  double Error(int64_t most_samples, double* lse_error) {
    const int64_t dim = shape_.head_dim, all = shape_.num_rows() * shape_.heads;
    Check(cudaMemset(out_.data(), 0xff, static_cast<size_t>(all * dim) * 2), "poison");
    Check(cudaMemset(lse_.data(), 0xff, static_cast<size_t>(all) * 4), "poison");
    Check(Launch(), "launch");
    Check(cudaDeviceSynchronize(), "run");
    std::vector<Sample> samples;
    for (int64_t tile = 0; tile < args_.num_tiles; ++tile) {
      for (int64_t i = 0; i < host_.tiles[static_cast<size_t>(tile)].num_queries * shape_.heads; ++i) {
        if (Integer(0, all - 1) < most_samples) samples.push_back({tile, i / shape_.heads, i % shape_.heads});
      }
    }
    const int64_t most_places = static_cast<int64_t>(host_.entries.size()) * shape_.page_tokens + kMaskBlockTokens;
    Array<double> scratch(samples.size() * static_cast<size_t>(most_places));
    Array<double> results_on_device(samples.size() * static_cast<size_t>(dim + 1));
    Array<Sample> samples_on_device(samples);
    PrefillReferenceKernel<<<static_cast<unsigned>(samples.size()), kReferenceThreads>>>(
        args_, samples_on_device.data(), scratch.data(), most_places, results_on_device.data());
    Check(cudaDeviceSynchronize(), "reference");
    const std::vector<double> results = results_on_device.Get();
    const std::vector<uint16_t> out = out_.Get();
    const std::vector<float> lse = lse_.Get();
    double difference = 0, norm = 0;
    *lse_error = 0;
    for (const uint16_t value : out) {
      if ((value & 0x7f80) == 0x7f80) return -1;
    }
    for (size_t i = 0; i < samples.size(); ++i) {
      const Sample& sample = samples[i];
      const int64_t row =
          (host_.tiles[static_cast<size_t>(sample.tile)].row + sample.query) * shape_.heads + sample.head;
      const double* expected = results.data() + i * static_cast<size_t>(dim + 1);
      for (int64_t d = 0; d < dim; ++d) {
        const uint32_t bits = static_cast<uint32_t>(out[static_cast<size_t>(row * dim + d)]) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        difference += (value - expected[d]) * (value - expected[d]);
        norm += expected[d] * expected[d];
      }
      const double found = lse[static_cast<size_t>(row)];
      if (std::isinf(expected[dim]) || !std::isfinite(found)) {
        if (found != expected[dim]) return -2;
        continue;
      }
      *lse_error = std::max(*lse_error, std::fabs(found - expected[dim]));
    }
    return norm == 0 ? 0 : std::sqrt(difference / norm);
  }

 private:
  int64_t CacheElements() const { return pages_ * shape_.kv_heads * 2 * shape_.page_tokens * shape_.head_dim; }
  int64_t RopeDim() const { return shape_.wild ? shape_.head_dim / 2 : shape_.head_dim; }

  static std::vector<int32_t> MakeTable(int64_t pages) {
    std::vector<int32_t> table(static_cast<size_t>(pages));
    for (int64_t i = 0; i < pages; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    std::shuffle(table.begin(), table.end(), generator);
    return table;
  }

  std::vector<float> CosSin() {
    std::vector<float> values;
    for (int64_t i = 0; i < RopeDim() / 2; ++i) {
      frequencies_host_.push_back(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(RopeDim())));
    }
    if (!shape_.wild) return values;
    for (int64_t t = shape_.context - shape_.queries; t < shape_.context; ++t) {
      for (const double frequency : frequencies_host_) {
        values.push_back(static_cast<float>(std::cos(static_cast<double>(t) * frequency)));
        values.push_back(static_cast<float>(std::sin(static_cast<double>(t) * frequency)));
      }
    }
    return values;
  }

  // Tokens that no entry names become NaN.
  void PoisonUnlisted() {
    const auto row_bytes = static_cast<size_t>(shape_.head_dim * KvElementBytes(shape_.element));
    const size_t page_tokens = static_cast<size_t>(shape_.page_tokens),
                 planes = static_cast<size_t>(2 * shape_.kv_heads);
    std::vector<uint8_t> bytes = cache_.Get();
    std::vector<bool> listed(static_cast<size_t>(pages_ * shape_.page_tokens));
    for (const KvEntry& entry : host_.entries) {
      for (int token = 0; token < entry.num_valid; ++token) {
        listed[static_cast<size_t>(entry.page * shape_.page_tokens + entry.first_valid + token)] = true;
      }
    }
    for (size_t row = 0; row < bytes.size() / row_bytes; ++row) {
      if (!listed[row / page_tokens / planes * page_tokens + row % page_tokens]) {
        std::memset(bytes.data() + row * row_bytes, 0xff, row_bytes);
      }
    }
    Check(cudaMemcpy(cache_.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload");
  }

  Shape shape_;
  int64_t pages_;
  std::vector<int32_t> table_;
  Host host_;
  std::vector<double> frequencies_host_;
  Array<uint8_t> cache_;
  Array<uint16_t> q_, out_;
  Array<float> lse_;
  Array<KvEntry> entries_;
  Array<PrefillTile> tiles_;
  Array<KvList> lists_;
  Array<BlockRange> ranges_;
  Array<int32_t> blocks_;
  Array<float> cos_sin_;
  Array<double> frequencies_;
  Array<uint8_t> workspace_;
  PrefillAttentionArgs args_{};
};

}  // namespace farspan::kernels::cuda
