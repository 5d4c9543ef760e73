// SPDX-License-Identifier: Apache-2.0
// Draws on the device: first checked against the host's on random rows, then timed, alone with cold caches and as one
// of many launches in a graph. `farspan-bench-cuda-sampling [vocab_size]`; exit code 1 where a draw differs.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cuda/kernels.h"
#include "engine/model/device_draws.h"
#include "tests/parity/draw_cases.h"

namespace farspan {
namespace {

using kernels::cuda::LaunchDraw;
using kernels::cuda::Workspace;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::fflush(stdout);
  std::exit(2);
}

template <typename T>
T* ToDevice(const std::vector<T>& host) {
  void* device = nullptr;
  Check(cudaMalloc(&device, host.size() * sizeof(T) + 1), "malloc");
  Check(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  return static_cast<T*>(device);
}

Workspace MakeWorkspace(int64_t num_rows, int64_t vocab_size) {
  Workspace workspace{.size_bytes = kernels::cuda::DrawWorkspaceBytes(num_rows, vocab_size)};
  Check(cudaMalloc(&workspace.data, static_cast<size_t>(workspace.size_bytes) + 1), "malloc");
  return workspace;
}

// Device arrays of one launch.
class DeviceBatch {
 public:
  DeviceBatch(const std::vector<float>& logits, const DeviceDraws& draws, int64_t vocab_size)
      : num_rows_(draws.rows.size()),
        vocab_size_(vocab_size),
        logits_(ToDevice(logits)),
        rows_(ToDevice(draws.rows)),
        counts_(ToDevice(draws.counts)),
        workspace_(MakeWorkspace(static_cast<int64_t>(num_rows_), vocab_size)) {
    std::vector<kernels::DrawnRow> poison(num_rows_);
    std::memset(poison.data(), 0x5a, poison.size() * sizeof(kernels::DrawnRow));
    drawn_ = ToDevice(poison);
    next_ = ToDevice(std::vector<int32_t>(num_rows_, -7));
  }
  ~DeviceBatch() {
    for (void* memory : std::initializer_list<void*>{logits_, rows_, counts_, drawn_, next_, workspace_.data}) {
      cudaFree(memory);
    }
  }

  void Launch(cudaStream_t stream) const {
    const kernels::DrawArgs args = {.logits = logits_,
                                    .rows = rows_,
                                    .counts = counts_,
                                    .drawn = drawn_,
                                    .next_token_ids = next_,
                                    .num_rows = static_cast<int64_t>(num_rows_),
                                    .vocab_size = vocab_size_};
    Check(LaunchDraw(args, workspace_, stream), "launch");
  }
  std::vector<kernels::DrawnRow> Drawn() const {
    std::vector<kernels::DrawnRow> drawn(num_rows_);
    Check(cudaMemcpy(drawn.data(), drawn_, num_rows_ * sizeof(kernels::DrawnRow), cudaMemcpyDeviceToHost), "download");
    return drawn;
  }
  std::vector<int32_t> Next() const {
    std::vector<int32_t> next(num_rows_);
    Check(cudaMemcpy(next.data(), next_, num_rows_ * sizeof(int32_t), cudaMemcpyDeviceToHost), "download");
    return next;
  }

 private:
  size_t num_rows_;
  int64_t vocab_size_;
  float* logits_;
  kernels::DrawRow* rows_;
  kernels::CountedToken* counts_;
  kernels::DrawnRow* drawn_ = nullptr;
  int32_t* next_ = nullptr;
  Workspace workspace_;
};

// False where a draw differs; says how many fell at a boundary.
bool CheckDraws(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  const DrawCase draws = RandomDrawCase(num_rows, vocab_size, seed);
  const DeviceBatch batch(draws.logits, MakeDeviceDraws(draws.requests, 0, num_rows), vocab_size);
  batch.Launch(nullptr);
  Check(cudaDeviceSynchronize(), "draw");
  const std::vector<kernels::DrawnRow> drawn = batch.Drawn();
  const std::vector<int32_t> next = batch.Next();
  int at_boundary = 0, different = 0;
  for (size_t row = 0; row < drawn.size(); ++row) {
    std::string why;
    const DrawResult result = DeviceDrawResult(draws.requests[row], drawn[row]);
    DrawAgreement agreement = CompareDraw(draws, row, result, &why);
    if (result.ok() && next[row] != result->token) {
      agreement = DrawAgreement::kDifferent;
      why = "next_token_ids";
    }
    at_boundary += agreement == DrawAgreement::kAtBoundary ? 1 : 0;
    if (agreement != DrawAgreement::kDifferent) continue;
    if (++different <= 3) std::printf("  %s\n", why.c_str());
  }
  std::printf("check %7ld x %5ld rows: %d different, %d at a boundary\n", static_cast<long>(vocab_size),
              static_cast<long>(num_rows), different, at_boundary);
  std::fflush(stdout);
  return different == 0;
}

struct Timing {
  float cold_us;
  float graph_us;
};

Timing Time(const std::vector<const DeviceBatch*>& batches, cudaStream_t stream, void* flushed, size_t flush_bytes) {
  constexpr int kCold = 20, kInGraph = 30;
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  float milliseconds = 0;
  for (int i = 0; i < kCold + 3; ++i) {
    Check(cudaMemsetAsync(flushed, i, flush_bytes, stream), "flush");
    Check(cudaEventRecord(begin, stream), "record");
    batches[0]->Launch(stream);
    Check(cudaEventRecord(end, stream), "record");
    Check(cudaStreamSynchronize(stream), "synchronize");
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    if (i >= 3) times.push_back(milliseconds * 1000);
  }
  std::sort(times.begin(), times.end());
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < kInGraph; ++i) batches[static_cast<size_t>(i) % batches.size()]->Launch(stream);
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  float best = 1e9f;
  for (int i = 0; i < 5; ++i) {
    Check(cudaEventRecord(begin, stream), "record");
    Check(cudaGraphLaunch(exec, stream), "graph");
    Check(cudaEventRecord(end, stream), "record");
    Check(cudaStreamSynchronize(stream), "synchronize");
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "elapsed");
    best = std::min(best, milliseconds * 1000 / kInGraph);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return {.cold_us = times[times.size() / 2], .graph_us = best};
}

struct Variant {
  const char* name;
  SamplingParams sampling;
  std::optional<int> num_alternatives;
};

const Variant kVariants[] = {
    {"greedy", {.temperature = 0}, std::nullopt},
    {"greedy, logprob", {.temperature = 0}, 0},
    {"greedy, 20 alternatives", {.temperature = 0}, 20},
    {"temperature", {.temperature = 1}, std::nullopt},
    {"top_k 50", {.temperature = 1, .top_k = 50}, std::nullopt},
    {"top_p 0.95", {.temperature = 1, .top_p = 0.95}, std::nullopt},
    {"top_p 0.95, nearly flat", {.temperature = 3, .top_p = 0.95}, std::nullopt},
    {"min_p 0.05", {.temperature = 1, .min_p = 0.05}, std::nullopt},
    {"all, penalties", {.temperature = 0.7, .top_p = 0.9, .top_k = 50, .min_p = 0.01, .repetition_penalty = 1.1}, 5},
};

void TimeRows(int64_t num_rows, int64_t vocab_size, cudaStream_t stream) {
  constexpr size_t kFlushBytes = size_t{192} << 20;
  void* flushed = nullptr;
  Check(cudaMalloc(&flushed, kFlushBytes), "malloc");
  std::vector<float> logits(static_cast<size_t>(num_rows * vocab_size));
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> pool(1 << 20);
  for (float& logit : pool) logit = normal(random);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = pool[(i * 2654435761u >> 7) & (pool.size() - 1)];
  // As of a language model: a few tokens stand out.
  for (size_t row = 0; row < static_cast<size_t>(num_rows); ++row) {
    for (size_t i = 0; i < 40; ++i) {
      float& logit = logits[row * static_cast<size_t>(vocab_size) + random() % static_cast<size_t>(vocab_size)];
      logit = 10 + 8 * static_cast<float>(random() % 1000) / 1000;
    }
  }
  TokenCounts counts;
  for (TokenId token = 0; token < 500; ++token) counts.AddOutput(token * 7);
  for (const Variant& variant : kVariants) {
    std::vector<DrawRequest> requests;
    for (int64_t row = 0; row < num_rows; ++row) {
      requests.push_back({.logit_row = row,
                          .given_token = std::nullopt,
                          .num_alternatives = variant.num_alternatives,
                          .sampling = variant.sampling,
                          .counts = &counts,
                          .key = {.seed = 3, .position = row, .sample_index = 0}});
    }
    const DeviceBatch batch(logits, MakeDeviceDraws(requests, 0, num_rows), vocab_size);
    const Timing timing = Time({&batch}, stream, flushed, kFlushBytes);
    const double read_us = static_cast<double>(num_rows * vocab_size * 4) / 4.3e6;
    std::printf("%7ld x %4ld  %-24s cold %7.1f us  in a graph %7.1f us  (one read at 4.3 TB/s %5.1f)\n",
                static_cast<long>(vocab_size), static_cast<long>(num_rows), variant.name, timing.cold_us,
                timing.graph_us, read_us);
    std::fflush(stdout);
  }
  cudaFree(flushed);
}

int Run(int64_t vocab_size) {
  cudaStream_t stream;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  const auto seed = static_cast<uint32_t>(std::random_device{}());
  std::printf("seed %u\n", seed);
  bool same = true;
  struct Shape {
    int64_t num_rows, vocab_size;
  };
  for (const Shape shape : {Shape{300, 1}, Shape{300, 7}, Shape{300, 131}, Shape{300, 1000}, Shape{200, 8193},
                            Shape{60, 50257}, Shape{80, 49152}, Shape{60, vocab_size}, Shape{12, 600000}}) {
    same = CheckDraws(shape.num_rows, shape.vocab_size, seed) && same;
  }
  for (const int64_t num_rows : {1, 64, 256}) TimeRows(num_rows, vocab_size, stream);
  TimeRows(1, 49152, stream);
  std::printf(same ? "every draw agrees\n" : "DRAWS DIFFER\n");
  return same ? 0 : 1;
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) { return farspan::Run(argc > 1 ? std::atoll(argv[1]) : 128256); }
