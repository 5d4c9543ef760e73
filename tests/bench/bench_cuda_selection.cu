// SPDX-License-Identifier: Apache-2.0
// Speed of rotary append, key bounds and the choice of blocks on a CUDA device, at the shape of an 8B model (32 query
// heads, 8 KV heads, head_dim 128, bf16, pages of 64): farspan-bench-cuda-selection
// "graph" is the time of one launch among many in a graph that reads different memory each; "cold" the median of single
// launches with the L2 cache overwritten between them. Lists are checked to ascend and to hold what was asked for.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "engine/kernels/cuda/select_blocks.cuh"
#include "engine/kernels/cuda/select_blocks.h"

namespace farspan::kernels::cuda {
namespace {

constexpr int64_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kPageTokens = 64;
constexpr int kSamples = 15;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::fflush(stdout);
  std::exit(1);
}

__global__ void FillKernel(uint32_t* words, int64_t size, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
    x = (x ^ (x >> 15)) * 0x2c1b3c6du;
    x = (x ^ (x >> 12)) * 0x297a2d39u;
    x ^= x >> 15;
    words[i] = (x & 0x80ff80ffu) | 0x3f003f00u;  // two bf16 between 0.5 and 1, of either sign
  }
}

// Device memory, random bf16 unless copied from the host.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes) {
    Check(cudaMalloc(&data_, static_cast<size_t>(bytes) + 4), "malloc");
    static uint32_t seed = 1;
    FillKernel<<<1024, 256>>>(static_cast<uint32_t*>(data_), (bytes + 3) / 4, seed++);
    Check(cudaDeviceSynchronize(), "fill");
  }
  template <typename T>
  explicit Memory(const std::vector<T>& host) : Memory(static_cast<int64_t>(host.size() * sizeof(T))) {
    Check(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ~Memory() { cudaFree(data_); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_;
};

using Launches = std::function<void(cudaStream_t, int)>;  // enqueues launch number i

class Timer {
 public:
  Timer() : flush_(int64_t{256} << 20) {
    Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    for (cudaEvent_t* event : {&begin_, &end_}) Check(cudaEventCreate(event), "event");
  }

  // Microseconds of one of `count` launches in a graph.
  double Graph(int count, const Launches& launch) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < count; ++i) launch(stream_, i);
    Check(cudaStreamEndCapture(stream_, &graph), "capture");
    Check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    const double median = Median([&] { Check(cudaGraphLaunch(exec, stream_), "graph"); }, false);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return median / count;
  }

  double Cold(const Launches& launch) {
    return Median([&] { launch(stream_, 0); }, true);
  }

 private:
  template <typename Body>
  double Median(const Body& body, bool flush) {
    std::vector<double> times;
    for (int i = 0; i < kSamples + 2; ++i) {
      if (flush) Check(cudaMemsetAsync(flush_.as<void>(), i, static_cast<size_t>(flush_.bytes()), stream_), "flush");
      Check(cudaEventRecord(begin_, stream_), "event");
      body();
      Check(cudaEventRecord(end_, stream_), "event");
      Check(cudaStreamSynchronize(stream_), "wait");
      float milliseconds = 0;
      Check(cudaEventElapsedTime(&milliseconds, begin_, end_), "elapsed");
      if (i >= 2) times.push_back(1e3 * milliseconds);
    }
    std::nth_element(times.begin(), times.begin() + kSamples / 2, times.end());
    return times[kSamples / 2];
  }

  Memory flush_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

KvLayerView Cache(int64_t num_pages, void* data = nullptr) {
  return {
      .data = data, .num_pages = num_pages, .num_kv_heads = kKvHeads, .page_tokens = kPageTokens, .head_dim = kHeadDim};
}

double CopyGigabytes(Timer* timer) {
  const Memory from(int64_t{1} << 30), to(int64_t{1} << 30);
  const double us = timer->Cold([&](cudaStream_t stream, int) {
    Check(cudaMemcpyAsync(to.as<void>(), from.as<void>(), size_t{1} << 30, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  return 2.0 * (1 << 30) / us * 1e-3;
}

void BenchRopeAppend(int64_t rows, double copy, Timer* timer) {
  const int64_t num_pages = (rows + kPageTokens - 1) / kPageTokens, row_values = (kHeads + 2 * kKvHeads) * kHeadDim;
  const Memory qkv(rows * row_values * 2), cos_sin(rows * kHeadDim * 4), q(rows * kHeads * kHeadDim * 2);
  const Memory pages(num_pages * Cache(1).page_elements() * 2);
  std::vector<KvSlot> slots;
  for (int64_t i = 0; i < rows; ++i) {
    slots.push_back({static_cast<int32_t>(i / kPageTokens), static_cast<int32_t>(i % kPageTokens)});
  }
  const Memory device_slots(slots);
  const RopeAppendArgs args = {.qkv = qkv.as<void>(),
                               .cos_sin = cos_sin.as<float>(),
                               .slots = device_slots.as<KvSlot>(),
                               .q = q.as<void>(),
                               .cache = Cache(num_pages, pages.as<void>()),
                               .num_rows = rows,
                               .num_heads = kHeads,
                               .rope_dim = kHeadDim,
                               .activation = Activation::kBf16};
  const auto launch = [&](cudaStream_t stream, int) { Check(LaunchRopeAppend(args, stream), "rope_append"); };
  const double graph = timer->Graph(64, launch), cold = timer->Cold(launch);
  const double bytes = static_cast<double>(rows) * (4.0 * row_values + 4.0 * kHeadDim);
  std::printf("rope_append   %6ld rows            graph %7.2f us  cold %8.2f us  %6.0f GB/s  %5.1f %% of copy\n", rows,
              graph, cold, bytes / cold * 1e-3, bytes / cold * 1e-1 / copy);
}

void BenchFill(int64_t tokens, double copy, Timer* timer) {
  const int64_t num_pages = tokens / kPageTokens, runs_per_page = kPageTokens / KeyBoundsTokens(kPageTokens);
  const KvLayerView shape = Cache(num_pages);
  const Memory pages(num_pages * shape.page_elements() * 2);
  const Memory bounds(num_pages * kKvHeads * KeyBoundsPairs(kPageTokens) * 2 * kHeadDim * 2);
  std::vector<KeyRun> runs;
  for (int64_t i = 0; i < num_pages * runs_per_page; ++i) {
    runs.push_back({static_cast<int32_t>(i / runs_per_page), static_cast<int32_t>(i % runs_per_page)});
  }
  const Memory all(runs),
      one(std::vector<KeyRun>{{-1, 0}, {5, 3}, {-1, 0}, {-1, 0}, {-1, 0}, {-1, 0}, {-1, 0}, {-1, 0}});
  FillKeyBoundsArgs args = {.cache = Cache(num_pages, pages.as<void>()),
                            .bounds = {bounds.as<void>()},
                            .runs = all.as<KeyRun>(),
                            .num_runs = static_cast<int64_t>(runs.size())};
  const auto launch = [&](cudaStream_t stream, int) { Check(LaunchFillKeyBounds(args, stream), "fill"); };
  const double cold = timer->Cold(launch);
  args.runs = one.as<KeyRun>(), args.num_runs = 8;
  const double graph = timer->Graph(64, launch);
  const double bytes = static_cast<double>(pages.bytes()) / 2 + static_cast<double>(bounds.bytes());
  std::printf(
      "key_bounds    %7ld tokens         cold %8.2f us  %6.0f GB/s  %5.1f %% of copy; a page in 8 rows %.2f us\n",
      tokens, cold, bytes / cold * 1e-3, bytes / cold * 1e-1 / copy, graph);
}

struct Choice {
  int64_t rows, context, block_tokens, budget_tokens;
};

// Entries, slots and lists of rows that choose; layers differ in their bounds alone.
class ChoiceScene {
 public:
  ChoiceScene(const Choice& choice, int num_layers) : choice_(choice), pages_(choice.context / kPageTokens) {
    std::vector<int32_t> table(static_cast<size_t>(choice.rows * pages_));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(7));
    std::vector<KvEntry> entries;
    std::vector<SelectorRow> rows;
    for (int64_t row = 0; row < choice.rows; ++row) {
      SelectorRow own = {.row = row, .decode_row = row, .context = {row * pages_, pages_}};
      own.leading = {row * pages_, 1}, own.trailing = {(row + 1) * pages_ - 1, 1};
      own.reduction = ScoreReduction::kSoftmaxSum;
      own.block_tokens = choice.block_tokens;
      own.num_blocks = choice.context / choice.block_tokens;
      own.first_candidate = kPageTokens / choice.block_tokens;
      own.num_candidates = own.num_blocks - 2 * own.first_candidate;
      own.num_picked = choice.budget_tokens / choice.block_tokens - 2 * own.first_candidate;
      own.slots_begin = choice.rows * pages_ + row * kKvHeads * SelectedEntries(own, kPageTokens);
      rows.push_back(own);
      for (int64_t i = 0; i < pages_; ++i) {
        entries.push_back({.page = table[entries.size()], .num_valid = kPageTokens, .position = i * kPageTokens});
      }
    }
    list_entries_ = SelectedEntries(rows[0], kPageTokens);
    entries.resize(entries.size() + static_cast<size_t>(choice.rows * kKvHeads * list_entries_));
    memory_.emplace_back(rows);
    memory_.emplace_back(entries);
    memory_.emplace_back(choice.rows * kKvHeads * static_cast<int64_t>(sizeof(KvList)));
    memory_.emplace_back(choice.rows * kHeads * kHeadDim * 2);
    memory_.emplace_back(SelectBlocksWorkspaceBytes(choice.rows, kHeads, kKvHeads, max_blocks()));
    const int64_t bounds = choice.rows * pages_ * kKvHeads * KeyBoundsPairs(kPageTokens) * 2 * kHeadDim * 2;
    for (int i = 0; i < num_layers; ++i) memory_.emplace_back(bounds);
  }

  int64_t max_blocks() const { return choice_.context / choice_.block_tokens; }
  double bounds_bytes() const {
    const int64_t pairs = choice_.context / KeyBoundsTokens(kPageTokens, choice_.block_tokens);
    return static_cast<double>(choice_.rows * pairs * kKvHeads) * 4.0 * kHeadDim;
  }
  SelectBlocksArgs Args(int layer) const {
    return {.q = memory_[3].as<void>(),
            .activation = Activation::kBf16,
            .cache = Cache(choice_.rows * pages_),
            .bounds = {memory_[static_cast<size_t>(5 + layer)].as<void>()},
            .entries = memory_[1].as<KvEntry>(),
            .lists = memory_[2].as<KvList>(),
            .rows = memory_[0].as<SelectorRow>(),
            .num_rows = choice_.rows,
            .layer = layer,
            .num_heads = kHeads};
  }
  Workspace workspace() const { return {memory_[4].as<void>(), memory_[4].bytes()}; }

  void CheckLists() const {
    std::vector<KvList> lists(static_cast<size_t>(choice_.rows * kKvHeads));
    std::vector<KvEntry> entries(static_cast<size_t>(memory_[1].bytes()) / sizeof(KvEntry));
    Check(cudaMemcpy(lists.data(), memory_[2].as<void>(), lists.size() * sizeof(KvList), cudaMemcpyDeviceToHost),
          "get");
    Check(cudaMemcpy(entries.data(), memory_[1].as<void>(), entries.size() * sizeof(KvEntry), cudaMemcpyDeviceToHost),
          "get");
    for (const KvList& list : lists) {
      bool right = list.num_entries == list_entries_;
      for (int64_t i = 1; right && i < list.num_entries; ++i) {
        const KvEntry* entry = entries.data() + list.entries_begin + i;
        right = entry[0].position >= entry[-1].position + entry[-1].num_valid;
      }
      if (right) continue;
      std::printf("a list is wrong\n");
      std::exit(1);
    }
  }

 private:
  const Choice choice_;
  const int64_t pages_;
  int64_t list_entries_ = 0;
  std::vector<Memory> memory_;  // rows, entries, lists, q, workspace, then the bounds of each layer
};

void BenchSelect(const Choice& choice, double copy, Timer* timer) {
  constexpr int kLayers = 12;
  const ChoiceScene scene(choice, kLayers);
  const auto select = [&](cudaStream_t stream, int layer) {
    Check(LaunchSelectBlocks(scene.Args(layer), scene.max_blocks(), scene.workspace(), stream), "select");
  };
  const double graph = timer->Graph(kLayers, select), cold = timer->Cold(select);
  scene.CheckLists();
  const auto stage = [&](const auto& launch) {
    return timer->Graph(kLayers, [&](cudaStream_t stream, int layer) {
      const SelectBlocksArgs args = scene.Args(layer);
      Check(launch(args, MakeScoreMemory(args, scene.max_blocks(), scene.workspace()), stream), "stage");
    });
  };
  const double score = stage(LaunchScoreBlocks), pick = stage(LaunchPickBlocks);
  std::printf(
      "select %3ld x %7ld block %2ld (%5ld) graph %7.2f us  cold %7.2f us  score %6.2f  pick %6.2f  floor %6.2f\n",
      choice.rows, choice.context, choice.block_tokens, scene.max_blocks(), graph, cold, score, pick,
      scene.bounds_bytes() / copy * 1e-3);
}

void Run() {
  Timer timer;
  const double copy = CopyGigabytes(&timer);
  std::printf("copy %.0f GB/s\n", copy);
  for (const int64_t rows : {1, 8, 64, 16384}) BenchRopeAppend(rows, copy, &timer);
  for (const int64_t tokens : {131072, 524288}) BenchFill(tokens, copy, &timer);
  const Choice choices[] = {{1, 8192, 64, 2048},   {1, 131072, 64, 2048}, {1, 131072, 16, 2048}, {1, 1048576, 64, 2048},
                            {5, 131072, 64, 2048}, {5, 131072, 16, 2048}, {64, 32768, 64, 2048}};
  for (const Choice& choice : choices) {
    BenchSelect(choice, copy, &timer);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace farspan::kernels::cuda

int main() { farspan::kernels::cuda::Run(); }
