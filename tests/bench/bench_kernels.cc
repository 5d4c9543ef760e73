// SPDX-License-Identifier: Apache-2.0
// Speed of the CPU kernels at the shapes of SmolLM2-135M: farspan-bench-kernels [--threads=N] [--cpu_isa=LEVEL]
// [Google Benchmark flags], or what bounds it: farspan-bench-kernels --floors [--threads=N]. GB/s counts the bytes of
// weights or KV read once, GFLOP/s two for each multiply-add.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/cpu_backend.h"
#include "engine/base/check.h"
#include "tests/bench/cpu_floors.h"

namespace farspan {
namespace {

using kernels::WeightType;

CpuBackendOptions options = {.isa = CpuIsa::kAuto, .num_threads = 2};
bool only_floors = false;

constexpr int64_t kQueryHeads = 9, kKvHeads = 3, kHeadDim = 64, kPageTokens = 32;

std::unique_ptr<Backend> MakeBackend() {
  auto backend = CpuBackend::Create(options);
  FARSPAN_CHECK(backend.ok(), backend.status().ToString());
  return *std::move(backend);
}

std::vector<float> RandomFloats(int64_t size) {
  std::minstd_rand engine(7);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = uniform(engine);
  return values;
}

// Random bytes whose half-float scales are all about 0.001.
std::vector<uint8_t> RandomWeights(WeightType type, int64_t bytes) {
  std::minstd_rand engine(11);
  std::vector<uint8_t> weights(static_cast<size_t>(bytes));
  for (uint8_t& byte : weights) byte = static_cast<uint8_t>(engine() >> 8);
  const int64_t block_bytes = kernels::WeightRowBytes(type, kernels::kQuantBlock);
  for (int64_t block = 0; block < bytes; block += block_bytes) {
    const uint16_t scales[2] = {0x1419, 0x9419};
    std::memcpy(weights.data() + block, scales, type == WeightType::kQ4_1 ? 4 : 2);
  }
  return weights;
}

void SetRates(benchmark::State& state, double bytes, double flops) {
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(bytes * runs * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(flops * runs * 1e-9, benchmark::Counter::kIsRate);
}

// As in a model, no weight is in cache from the call before: copies of the matrix take turns.
void BenchLinear(benchmark::State& state, WeightType type) {
  const int64_t outputs = state.range(0), columns = state.range(1), num_rows = state.range(2);
  const std::unique_ptr<Backend> backend = MakeBackend();
  const int64_t matrix_bytes = outputs * kernels::WeightRowBytes(type, columns);
  const int64_t num_copies = (int64_t{100} << 20) / matrix_bytes + 1;
  auto weights = backend->Allocate(num_copies * matrix_bytes, MemoryKind::kWeights);
  FARSPAN_CHECK(weights.ok());
  const std::vector<uint8_t> matrix = RandomWeights(type, matrix_bytes);
  uint8_t* bytes = static_cast<uint8_t*>((*weights)->data());
  for (int64_t copy = 0; copy < num_copies; ++copy) {
    std::memcpy(bytes + copy * matrix_bytes, matrix.data(), static_cast<size_t>(matrix_bytes));
  }
  const std::vector<float> x = RandomFloats(num_rows * columns);
  std::vector<float> y(static_cast<size_t>(num_rows * outputs));
  int64_t copy = 0;
  for (auto _ : state) {
    backend->AttentionOutput({.x = x.data(),
                              .weight = {bytes + copy * matrix_bytes, type, outputs, columns},
                              .hidden = y.data(),
                              .num_rows = num_rows});
    copy = (copy + 1) % num_copies;
  }
  SetRates(state, static_cast<double>(matrix_bytes),
           2.0 * static_cast<double>(outputs) * static_cast<double>(columns) * static_cast<double>(num_rows));
}

// A sequence of `context` tokens whose pages lie scattered in a cache of many layers.
struct Sequence {
  explicit Sequence(int64_t context, Backend* backend) : num_pages((context + kPageTokens - 1) / kPageTokens) {
    const kernels::KvLayerView shape = {nullptr, kernels::KvElement::kBf16, num_pages, kKvHeads, kPageTokens, kHeadDim};
    layer_elements = num_pages * shape.page_elements();
    auto buffer = backend->Allocate(kLayers * layer_elements * 2, MemoryKind::kKvPages);
    FARSPAN_CHECK(buffer.ok());
    pages = *std::move(buffer);
    std::minstd_rand engine(5);
    uint16_t* elements = static_cast<uint16_t*>(pages->data());
    for (int64_t i = 0; i < kLayers * layer_elements; ++i) {
      elements[i] = static_cast<uint16_t>((engine() >> 8 & 0x807f) | 0x3f00);
    }
    std::vector<int32_t> table;
    for (int32_t page = 0; page < num_pages; ++page) table.push_back(page);
    std::shuffle(table.begin(), table.end(), engine);
    for (int64_t page = 0; page < num_pages; ++page) {
      entries.push_back({.page = table[static_cast<size_t>(page)],
                         .num_valid = static_cast<int32_t>(std::min(kPageTokens, context - page * kPageTokens)),
                         .position = page * kPageTokens});
    }
  }

  kernels::AttentionCommon Common(int64_t layer, const float* q, float* out) const {
    return {.q = q,
            .out = out,
            .lse = nullptr,
            .cache = {static_cast<uint16_t*>(pages->data()) + layer * layer_elements, kernels::KvElement::kBf16,
                      num_pages, kKvHeads, kPageTokens, kHeadDim},
            .entries = entries.data(),
            .rope_cos_sin = nullptr,
            .inverse_frequencies = nullptr,
            .rope_dim = kHeadDim,
            .num_heads = kQueryHeads,
            .scale = 0.125f};
  }

  static constexpr int64_t kLayers = 30;
  int64_t num_pages;
  int64_t layer_elements = 0;
  std::unique_ptr<Buffer> pages;
  std::vector<kernels::KvEntry> entries;
};

void BenchDecodeAttention(benchmark::State& state) {
  const int64_t context = state.range(0);
  const std::unique_ptr<Backend> backend = MakeBackend();
  const Sequence sequence(context, backend.get());
  const std::vector<float> q = RandomFloats(kQueryHeads * kHeadDim);
  std::vector<float> out(q.size());
  const kernels::DecodeRow row = {.row = 0, .position = context - 1, .left_window = kernels::kNoLeftWindow};
  const std::vector<kernels::KvList> lists(kKvHeads, {0, sequence.num_pages});
  int64_t layer = 0;
  for (auto _ : state) {
    backend->DecodeAttention(
        {.common = sequence.Common(layer, q.data(), out.data()), .rows = &row, .lists = lists.data(), .num_rows = 1});
    layer = (layer + 1) % Sequence::kLayers;
  }
  SetRates(state, static_cast<double>(context * kKvHeads * kHeadDim * 2 * 2),
           static_cast<double>(context * kQueryHeads * kHeadDim * 4));
}

void BenchPrefillAttention(benchmark::State& state) {
  const int64_t context = state.range(0), num_queries = state.range(1), first = context - num_queries;
  const std::unique_ptr<Backend> backend = MakeBackend();
  const Sequence sequence(context, backend.get());
  const std::vector<float> q = RandomFloats(num_queries * kQueryHeads * kHeadDim);
  std::vector<float> out(q.size());
  std::vector<kernels::PrefillTile> tiles;
  for (int64_t begin = first; begin < context;) {
    const int64_t end = std::min(context, (begin / kernels::kPrefillTileQueries + 1) * kernels::kPrefillTileQueries);
    tiles.push_back({begin - first, end - begin, begin, kernels::kNoLeftWindow});
    begin = end;
  }
  const std::vector<kernels::KvList> lists(tiles.size() * kQueryHeads, {0, sequence.num_pages});
  for (auto _ : state) {
    backend->PrefillAttention({.common = sequence.Common(0, q.data(), out.data()),
                               .tiles = tiles.data(),
                               .lists = lists.data(),
                               .num_tiles = static_cast<int64_t>(tiles.size())});
  }
  const double pairs =
      static_cast<double>(num_queries) * (static_cast<double>(first) + 0.5 * static_cast<double>(num_queries + 1));
  SetRates(state, static_cast<double>(context * kKvHeads * kHeadDim * 2 * 2), pairs * kQueryHeads * kHeadDim * 4);
}

void LayerShapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t num_rows : {1, 4, 32, 512}) {
    for (const auto& [outputs, columns] : {std::pair{576, 576}, {192, 576}, {1536, 576}, {576, 1536}}) {
      bench->Args({outputs, columns, num_rows});
    }
  }
  bench->UseRealTime();
}

BENCHMARK_CAPTURE(BenchLinear, Q4_1, WeightType::kQ4_1)->Apply(LayerShapes);
BENCHMARK_CAPTURE(BenchLinear, Q4_0, WeightType::kQ4_0)->Args({1536, 576, 1})->UseRealTime();
BENCHMARK_CAPTURE(BenchLinear, Bf16, WeightType::kBf16)->Args({1536, 576, 1})->UseRealTime();
BENCHMARK_CAPTURE(BenchLinear, Q8_0, WeightType::kQ8_0)->Args({49152, 576, 1})->Args({49152, 576, 32})->UseRealTime();
BENCHMARK(BenchDecodeAttention)->Arg(200)->Arg(1024)->Arg(6000)->UseRealTime();
BENCHMARK(BenchPrefillAttention)->Args({512, 512})->Args({6000, 512})->UseRealTime();

// Takes our own flags out of argv; false at a value that is none of theirs.
bool ParseOwnFlags(int* argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    const std::string flag = argv[i];
    if (flag.rfind("--threads=", 0) == 0) {
      options.num_threads = std::atoi(flag.c_str() + std::strlen("--threads="));
      if (options.num_threads < 1) return false;
    } else if (flag == "--cpu_isa=portable") {
      options.isa = CpuIsa::kPortable;
    } else if (flag == "--cpu_isa=avx2") {
      options.isa = CpuIsa::kAvx2;
    } else if (flag == "--cpu_isa=avx512") {
      options.isa = CpuIsa::kAvx512;
    } else if (flag == "--floors") {
      only_floors = true;
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  return true;
}

void PrintFloors() {
  const CpuFloors floors = MeasureCpuFloors(options.num_threads);
  std::printf("memory read: %.1f GB/s by one thread, %.1f by %d together\n", floors.read_gb_per_second_one,
              floors.read_gb_per_second_all, options.num_threads);
  std::printf("float32 multiply-adds, %d at once: %.1f GFLOP/s a thread\n", floors.vector_floats,
              floors.fma_gflop_per_second);
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) {
  if (!farspan::ParseOwnFlags(&argc, argv)) {
    std::fprintf(stderr, "--threads must be at least 1\n");
    return 2;
  }
  if (farspan::only_floors) {
    farspan::PrintFloors();
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
