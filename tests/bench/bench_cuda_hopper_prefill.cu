// SPDX-License-Identifier: Apache-2.0
// Checks Hopper's prefill attention against float64 on the device, on fresh random lists with poisoned outputs, then
// times it with a cold L2 cache: dense causal prompts, chunks at depth and block masks.
//   farspan-bench-cuda-hopper-prefill [check|time|once]    checks and times without an argument; `once` is for a
//   profiler
// Exits with 1 when a check fails.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/hopper_prefill_attention.h"

namespace farspan::kernels::cuda {
namespace {

void Check(cudaError_t error, const char* what) {
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

__device__ uint32_t Mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return static_cast<uint32_t>(x >> 32);
}

// Roughly normal values.
__global__ void FillKernel(uint16_t* values, int64_t size, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    for (uint64_t k = 0; k < 4; ++k)
      sum += static_cast<float>(Mix(seed + (static_cast<uint64_t>(i) << 2) + k)) * 0x1p-32f;
    values[i] = ToBf16((sum - 2) * 1.7320508f);
  }
}

struct Sample {
  int64_t tile;
  int64_t query;
  int64_t head;
};

struct Place {
  int64_t row;       // of the cache, of the key
  int64_t position;  // -1: unseen
  int64_t cap;
};

// One sample a block: outputs and the log-sum-exp in float64, out[sample][head_dim + 1].
__global__ void __launch_bounds__(1024) ReferenceKernel(PrefillAttentionArgs args, const Sample* samples,
                                                        double* scratch, int64_t most_keys, double* results) {
  const AttentionCommon& common = args.common;
  const KvLayerView& cache = common.cache;
  const Sample sample = samples[blockIdx.x];
  const PrefillTile tile = args.tiles[sample.tile];
  const int64_t index = sample.tile * common.num_heads + sample.head, dim = cache.head_dim, page = cache.page_tokens;
  const int64_t group = common.num_heads / cache.num_kv_heads;
  const KvList list = args.lists[index];
  const BlockRange range = args.kept_ranges == nullptr ? BlockRange() : args.kept_ranges[index];
  const int64_t block_entries = MaskBlockEntries(page), t = tile.first_position + sample.query;
  const int64_t places = range.num_blocks == kAllBlocks ? list.num_entries : range.num_blocks * block_entries;
  const int64_t row = tile.row + sample.query;
  const auto* q = static_cast<const uint16_t*>(common.q) + (row * common.num_heads + sample.head) * dim;
  const auto* kv = static_cast<const uint16_t*>(cache.data);
  double* scores = scratch + blockIdx.x * most_keys;
  __shared__ double maximum_of[1024], sums[1024];
  const auto place_of = [&](int64_t i) {
    int64_t at = i / page;
    if (range.num_blocks != kAllBlocks)
      at = args.kept_blocks[range.begin + at / block_entries] * block_entries + at % block_entries;
    if (at >= list.num_entries) return Place{0, -1, 0};
    const KvEntry entry = common.entries[list.entries_begin + at];
    const int64_t token = i % page, position = entry.position + token;
    if (token >= entry.num_valid || (entry.head_mask >> (sample.head % group) & 1u) == 0 || position > t ||
        (!entry.ignores_left_window && position <= t - tile.left_window)) {
      return Place{0, -1, 0};
    }
    return Place{((entry.page * cache.num_kv_heads + sample.head / group) * 2) * page + entry.first_valid + token,
                 position, entry.query_cap};
  };
  double maximum = -INFINITY;
  for (int64_t i = threadIdx.x; i < places * page; i += blockDim.x) {
    const Place place = place_of(i);
    scores[i] = -INFINITY;
    if (place.position < 0) continue;
    double dot = 0;
    for (int64_t d = 0; d < dim; d += 2) {
      double even = LoadBf16(q, d), odd = LoadBf16(q, d + 1);
      if (t > place.cap && d < common.rope_dim) {
        const double angle = static_cast<double>(place.cap - t) * common.inverse_frequencies[d / 2];
        const double x = even * cos(angle) - odd * sin(angle), y = even * sin(angle) + odd * cos(angle);
        even = x;
        odd = y;
      }
      dot += even * LoadBf16(kv, place.row * dim + d) + odd * LoadBf16(kv, place.row * dim + d + 1);
    }
    scores[i] = dot * common.scale;
    maximum = fmax(maximum, scores[i]);
  }
  maximum_of[threadIdx.x] = maximum;
  __syncthreads();
  for (int i = 0; i < 1024; ++i) maximum = fmax(maximum, maximum_of[i]);
  const int64_t d = threadIdx.x % dim;
  double sum = 0, denominator = 0;
  for (int64_t i = threadIdx.x / dim; i < places * page; i += blockDim.x / dim) {
    if (scores[i] == -INFINITY) continue;
    const double weight = exp(scores[i] - maximum);
    denominator += weight;
    sum += weight * LoadBf16(kv, (place_of(i).row + page) * dim + d);
  }
  __syncthreads();
  maximum_of[threadIdx.x] = denominator;
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= dim) return;
  sum = denominator = 0;
  for (int64_t i = d; i < 1024; i += dim) {
    sum += sums[i];
    denominator += maximum_of[i];
  }
  results[blockIdx.x * (dim + 1) + d] = denominator == 0 ? 0 : sum / denominator;
  if (d == 0) results[blockIdx.x * (dim + 1) + dim] = denominator == 0 ? -INFINITY : maximum + log(denominator);
}

struct Shape {
  int64_t heads = 32, kv_heads = 8, head_dim = 128, page_tokens = 64;
  int64_t context = 0;  // keys
  int64_t queries = 0;  // the last ones
  double kept = 1;      // share of a block mask
  bool wild = false;    // random entries: partial pages, gaps, masks, caps, windows
};

std::mt19937_64 generator(std::random_device{}());

int64_t Integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

struct Host {
  std::vector<KvEntry> entries;
  std::vector<PrefillTile> tiles;
  std::vector<KvList> lists;
  std::vector<BlockRange> ranges;
  std::vector<int32_t> blocks;
  double flops = 0;
};

void AddWildEntries(const Shape& shape, const std::vector<int32_t>& table, Host* host) {
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

Host MakeHost(const Shape& shape, const std::vector<int32_t>& table) {
  Host host;
  const int64_t page = shape.page_tokens, first = shape.context - shape.queries;
  if (shape.wild) {
    AddWildEntries(shape, table, &host);
  } else {
    for (int64_t begin = 0; begin < shape.context; begin += page) {
      host.entries.push_back({.page = table[static_cast<size_t>(begin / page)],
                              .num_valid = static_cast<int32_t>(std::min(page, shape.context - begin)),
                              .position = begin});
    }
  }
  const double block_flops = 4.0 * 128 * 128 * static_cast<double>(shape.head_dim);
  for (int64_t begin = first; begin < shape.context;) {
    const int64_t limit =
        std::min(shape.context, begin / kPrefillTileQueries * kPrefillTileQueries + kPrefillTileQueries);
    const int64_t end = shape.wild ? Integer(begin + 1, limit) : limit;
    PrefillTile tile = {begin - first, end - begin, begin, kNoLeftWindow};
    if (shape.wild && Integer(0, 1) != 0) tile.left_window = Integer(1, shape.context);
    host.tiles.push_back(tile);
    const int64_t entries = shape.wild ? static_cast<int64_t>(host.entries.size()) : (end + page - 1) / page;
    for (int64_t head = 0; head < shape.heads; ++head) {
      host.lists.push_back({0, entries});
      if (shape.kept >= 1) continue;
      BlockRange range{static_cast<int64_t>(host.blocks.size()), 0};
      const int64_t blocks = (entries + 128 / page - 1) / (128 / page);
      for (int64_t block = 0; block < blocks; ++block) {
        if (block == 0 || block == blocks - 1 || Integer(0, 9999) < 10000 * shape.kept) {
          host.blocks.push_back(static_cast<int32_t>(block));
        }
      }
      range.num_blocks = static_cast<int64_t>(host.blocks.size()) - range.begin;
      host.flops += block_flops * static_cast<double>(range.num_blocks);
      host.ranges.push_back(range);
    }
    begin = end;
  }
  const double dim = static_cast<double>(shape.head_dim * shape.heads), n = static_cast<double>(shape.queries);
  if (shape.kept >= 1) host.flops = 4 * dim * n * (static_cast<double>(shape.context) - n / 2);
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
        cache_(static_cast<size_t>(pages_ * shape.kv_heads * 2 * shape.page_tokens * shape.head_dim)),
        q_(static_cast<size_t>(shape.queries * shape.heads * shape.head_dim)),
        out_(static_cast<size_t>(shape.queries * shape.heads * shape.head_dim)),
        lse_(static_cast<size_t>(shape.queries * shape.heads)),
        entries_(host_.entries),
        tiles_(host_.tiles),
        lists_(host_.lists),
        ranges_(host_.ranges),
        blocks_(host_.blocks),
        cos_sin_(CosSin()),
        frequencies_(frequencies_host_),
        workspace_(static_cast<size_t>(HopperPrefillWorkspaceBytes())) {
    const uint64_t seed = generator();
    FillKernel<<<1024, 256>>>(cache_.data(), pages_ * shape.kv_heads * 2 * shape.page_tokens * shape.head_dim, seed);
    FillKernel<<<1024, 256>>>(q_.data(), shape.queries * shape.heads * shape.head_dim, ~seed);
    Check(cudaGetLastError(), "fill");
    if (shape.wild) PoisonUnlisted();
    args_.common = {
        .q = q_.data(),
        .out = out_.data(),
        .lse = lse_.data(),
        .cache = {cache_.data(), KvElement::kBf16, pages_, shape.kv_heads, shape.page_tokens, shape.head_dim},
        .entries = entries_.data(),
        .rope_cos_sin = cos_sin_.data(),
        .inverse_frequencies = frequencies_.data(),
        .rope_dim = RopeDim(),
        .num_heads = shape.heads,
        .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
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
    const int64_t dim = shape_.head_dim, all = shape_.queries * shape_.heads;
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
    const int64_t most_keys = static_cast<int64_t>(host_.entries.size()) * shape_.page_tokens + kMaskBlockTokens;
    Array<double> scratch(samples.size() * static_cast<size_t>(most_keys));
    Array<double> results_on_device(samples.size() * static_cast<size_t>(dim + 1));
    Array<Sample> samples_on_device(samples);
    ReferenceKernel<<<static_cast<unsigned>(samples.size()), 1024>>>(args_, samples_on_device.data(), scratch.data(),
                                                                     most_keys, results_on_device.data());
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
    const size_t plane = static_cast<size_t>(shape_.page_tokens * shape_.head_dim);
    std::vector<uint16_t> values = cache_.Get();
    std::vector<bool> listed(static_cast<size_t>(pages_ * shape_.page_tokens));
    for (const KvEntry& entry : host_.entries) {
      for (int token = 0; token < entry.num_valid; ++token) {
        listed[static_cast<size_t>(entry.page * shape_.page_tokens + entry.first_valid + token)] = true;
      }
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t page = i / (plane * 2 * static_cast<size_t>(shape_.kv_heads));
      const size_t token = i % plane / static_cast<size_t>(shape_.head_dim);
      if (!listed[page * static_cast<size_t>(shape_.page_tokens) + token]) values[i] = 0x7fff;
    }
    Check(cudaMemcpy(cache_.data(), values.data(), values.size() * 2, cudaMemcpyHostToDevice), "upload");
  }

  Shape shape_;
  int64_t pages_;
  std::vector<int32_t> table_;
  Host host_;
  std::vector<double> frequencies_host_;
  Array<uint16_t> cache_, q_, out_;
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

bool CheckShape(const char* name, const Shape& shape, int64_t samples) {
  double worst = 0, worst_lse = 0, lse = 0;
  for (int trial = 0; trial < (shape.wild ? 12 : 1); ++trial) {
    const double error = Scene(shape).Error(samples, &lse);
    worst = error < 0 || worst < 0 ? std::min(error, worst) : std::max(error, worst);
    worst_lse = std::max(worst_lse, lse);
  }
  // Turned queries are rounded to bf16 once more, which a list of few keys shows in full.
  const bool right = worst >= 0 && worst < 6e-3 && worst_lse < (shape.wild ? 1e-2 : 1e-4);
  std::printf("check %-28s d%lld page %lld: error %.2e lse %.1e %s\n", name, static_cast<long long>(shape.head_dim),
              static_cast<long long>(shape.page_tokens), worst, worst_lse, right ? "" : "WRONG");
  std::fflush(stdout);
  return right;
}

bool CheckAll() {
  bool right = CheckShape("one tile", {.heads = 1, .kv_heads = 1, .context = 128, .queries = 128}, 1 << 20);
  right &= CheckShape("two tiles", {.heads = 2, .kv_heads = 1, .context = 256, .queries = 256}, 1 << 20);
  for (const int64_t head_dim : {128, 64}) {
    for (const int64_t page : {64, 32, 16}) {
      const Shape base = {.heads = 8, .kv_heads = 2, .head_dim = head_dim, .page_tokens = page};
      Shape shape = base;
      shape.context = shape.queries = 2048;
      right &= CheckShape("dense", shape, 1024);
      shape.context = 1000;
      shape.queries = 617;
      right &= CheckShape("ragged chunk", shape, 1024);
      shape.wild = true;
      right &= CheckShape("wild lists", shape, 512);
      shape.kept = 0.5;
      right &= CheckShape("wild lists, block mask", shape, 512);
      shape = base;
      shape.context = 8192;
      shape.queries = 1024;
      shape.kept = 0.3;
      right &= CheckShape("block mask", shape, 256);
    }
  }
  return right;
}

void Time(const char* name, const Shape& shape, int repeats) {
  const Scene scene(shape);
  constexpr size_t kFlushBytes = size_t{256} << 20;
  static Array<uint8_t>* flush = new Array<uint8_t>(kFlushBytes);
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < repeats + 1; ++i) {
    Check(cudaMemsetAsync(flush->data(), i, kFlushBytes), "flush");
    Check(cudaEventRecord(begin), "record");
    Check(scene.Launch(), "launch");
    Check(cudaEventRecord(end), "record");
    Check(cudaEventSynchronize(end), "run");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    if (i > 0) times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("time %-28s d%lld page %lld: %9.3f ms (best %9.3f) %6.1f TFLOP/s\n", name,
              static_cast<long long>(shape.head_dim), static_cast<long long>(shape.page_tokens), median, times[0],
              scene.flops() / median / 1e9);
  std::fflush(stdout);
}

void TimeAll() {
  constexpr int64_t k = 1024;
  Time("causal 8k", {.context = 8 * k, .queries = 8 * k}, 21);
  Time("causal 8k", {.page_tokens = 16, .context = 8 * k, .queries = 8 * k}, 21);
  Time("causal 32k", {.context = 32 * k, .queries = 32 * k}, 9);
  Time("causal 128k", {.context = 128 * k, .queries = 128 * k}, 3);
  Time("2k at 126k", {.context = 128 * k, .queries = 2 * k}, 11);
  Time("block mask 10 % 128k", {.context = 128 * k, .queries = 128 * k, .kept = 0.1}, 7);
  Time("block mask 10 % 128k", {.page_tokens = 16, .context = 128 * k, .queries = 128 * k, .kept = 0.1}, 5);
  Time("causal 32k", {.head_dim = 64, .context = 32 * k, .queries = 32 * k}, 9);
}

}  // namespace
}  // namespace farspan::kernels::cuda

int main(int argc, char** argv) {
  using namespace farspan::kernels::cuda;
  const bool checks = argc < 2 || std::strcmp(argv[1], "check") == 0;
  const bool times = argc < 2 || std::strcmp(argv[1], "time") == 0;
  if (checks && !CheckAll()) return 1;
  if (times) TimeAll();
  if (argc > 1 && std::strcmp(argv[1], "quick") == 0) {
    Time("causal 8k", {.context = 8192, .queries = 8192}, 21);
    Time("causal 32k", {.context = 32768, .queries = 32768}, 9);
  }
  if (argc > 1 && std::strcmp(argv[1], "once") == 0) Time("causal 8k", {.context = 8192, .queries = 8192}, 1);
  return 0;
}
