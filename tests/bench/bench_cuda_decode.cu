// SPDX-License-Identifier: Apache-2.0
// Decode attention on the current CUDA device: farspan-bench-cuda-decode [check|time]. Checks random small batches
// against the plain kernel, then times shapes of 32/8 heads and of SmolLM2-135M: cold is one launch after the L2 was
// overwritten, graph a captured run of launches over different pages. GB/s counts each visible key and value once.
// Lists are settled but for those of a (row, KV head), which a choice would have written.
#include <functional>
#include <string>

#include "tests/bench/cuda_decode_batch.cuh"

namespace farspan {
namespace {

using kernels::cuda::LaunchDecodeAttention;

struct TimedCase {
  const char* name;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t page_tokens;
  int64_t num_rows;
  int64_t tokens;  // of each list
  bool per_head;   // each (row, KV head) its own list
  kernels::KvElement element = kernels::KvElement::kBf16;
};

float MedianMicroseconds(std::vector<float> milliseconds) {
  std::sort(milliseconds.begin(), milliseconds.end());
  return milliseconds[milliseconds.size() / 2] * 1000;
}

float TimeCold(const std::function<void(int)>& launch, Array<uint8_t>& flush, cudaStream_t stream) {
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 15; ++i) {
    CHECK_CUDA(cudaMemsetAsync(flush.data(), i, size_t{256} << 20, stream));
    CHECK_CUDA(cudaEventRecord(begin, stream));
    launch(i);
    CHECK_CUDA(cudaEventRecord(end, stream));
    CHECK_CUDA(cudaEventSynchronize(end));
    times.push_back(0);
    CHECK_CUDA(cudaEventElapsedTime(&times.back(), begin, end));
  }
  return MedianMicroseconds(times);
}

float TimeGraph(const std::function<void(int)>& launch, int num_launches, cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < num_launches; ++i) launch(i);
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 6; ++i) {
    CHECK_CUDA(cudaEventRecord(begin, stream));
    CHECK_CUDA(cudaGraphLaunch(executable, stream));
    CHECK_CUDA(cudaEventRecord(end, stream));
    CHECK_CUDA(cudaEventSynchronize(end));
    float time;
    CHECK_CUDA(cudaEventElapsedTime(&time, begin, end));
    if (i > 0) times.push_back(time);
  }
  CHECK_CUDA(cudaGraphExecDestroy(executable));
  CHECK_CUDA(cudaGraphDestroy(graph));
  return MedianMicroseconds(times) / static_cast<float>(num_launches);
}

void TimeCase(const TimedCase& timed, uint16_t* cache, int64_t cache_bytes, Array<uint8_t>& flush, double copy_rate,
              cudaStream_t stream) {
  const int64_t page_bytes =
      timed.num_kv_heads * timed.page_tokens * timed.head_dim * 2 * kernels::KvElementBytes(timed.element);
  const Shape shape = {timed.num_heads,          timed.num_kv_heads, timed.head_dim, timed.page_tokens,
                       cache_bytes / page_bytes, timed.num_rows,     timed.element};
  const int64_t list_pages = (timed.tokens + timed.page_tokens - 1) / timed.page_tokens;
  const double bytes = static_cast<double>(timed.num_rows * timed.num_kv_heads * timed.tokens * timed.head_dim * 2 *
                                           kernels::KvElementBytes(timed.element));
  const int64_t most_sets = shape.num_pages / (timed.num_rows * list_pages);
  const int64_t num_sets =
      std::clamp<int64_t>(static_cast<int64_t>(300e6 / bytes) + 1, 1, std::min<int64_t>(most_sets, 64));
  std::vector<std::vector<int32_t>> pages(static_cast<size_t>(timed.per_head ? timed.num_kv_heads : 1));
  for (auto& table : pages) {
    for (int32_t page = 0; page < shape.num_pages; ++page) table.push_back(page);
    std::shuffle(table.begin(), table.end(), engine);
  }
  std::vector<kernels::DecodeRow> rows;
  for (int64_t row = 0; row < timed.num_rows; ++row) rows.push_back({row, timed.tokens - 1, kernels::kNoLeftWindow});
  std::vector<kernels::KvList> lists;
  std::vector<kernels::KvEntry> entries;
  for (int64_t list = 0; list < num_sets * timed.num_rows; ++list) {
    for (int64_t head = 0; head < timed.num_kv_heads; ++head) {
      if (head > 0 && !timed.per_head) {
        lists.push_back(lists.back());
        continue;
      }
      const auto& table = pages[static_cast<size_t>(head)];
      lists.push_back({static_cast<int64_t>(entries.size()), list_pages});
      for (int64_t page = 0; page < list_pages; ++page) {
        const int64_t position = page * timed.page_tokens;
        entries.push_back({.page = table[static_cast<size_t>(list * list_pages + page)],
                           .num_valid = static_cast<int32_t>(std::min(timed.page_tokens, timed.tokens - position)),
                           .position = position});
      }
    }
  }
  Fill(cache, cache_bytes / kernels::KvElementBytes(timed.element), timed.element);
  Batch batch(shape, rows, lists, entries, cache);
  batch.lists_are_settled = !timed.per_head;
  const auto launch = [&](int i) {
    const int64_t first_list = i % num_sets * timed.num_rows * timed.num_kv_heads;
    CHECK_CUDA(LaunchDecodeAttention(batch.Args(first_list), batch.Scratch(), stream));
  };
  launch(0);
  CHECK_CUDA(cudaStreamSynchronize(stream));
  const float cold = TimeCold(launch, flush, stream);
  const int launches = static_cast<int>(std::clamp(3e9 / bytes, 4.0, 64.0));
  const float graph = TimeGraph(launch, launches, stream);
  std::printf("%-26s page %2ld  cold %8.2f us %6.0f GB/s (%5.1f %%)  graph %8.2f us %6.0f GB/s (%5.1f %%)\n",
              timed.name, timed.page_tokens, cold, bytes / cold * 1e-3, bytes / cold * 0.1 / copy_rate, graph,
              bytes / graph * 1e-3, bytes / graph * 0.1 / copy_rate);
  std::fflush(stdout);
}

void Time() {
  constexpr int64_t kCacheBytes = int64_t{2304} << 20;
  Array<uint16_t> cache(kCacheBytes / 2);
  Fill(cache.data(), kCacheBytes / 2);
  Array<uint8_t> flush(size_t{256} << 20);
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK_CUDA(cudaDeviceSynchronize());
  const float copy = TimeCold(
      [&](int) {
        CHECK_CUDA(cudaMemcpyAsync(cache.data(), reinterpret_cast<uint8_t*>(cache.data()) + kCacheBytes / 2,
                                   kCacheBytes / 2, cudaMemcpyDeviceToDevice, stream));
      },
      flush, stream);
  const double copy_rate = static_cast<double>(kCacheBytes) / copy * 1e-3;
  std::printf("copy %.0f GB/s\n", copy_rate);
  const TimedCase cases[] = {
      {"32/8 d128 B16 x 32k", 32, 8, 128, 64, 16, 32768, false},
      {"32/8 d128 B64 x 8k", 32, 8, 128, 64, 64, 8192, false},
      {"32/8 d128 B64 x 8k", 32, 8, 128, 16, 64, 8192, false},
      {"32/8 d128 B64 x 2k", 32, 8, 128, 64, 64, 2048, false},
      {"32/8 d128 B1 x 1k", 32, 8, 128, 64, 1, 1024, false},
      {"32/8 d128 B1 x 8k", 32, 8, 128, 64, 1, 8192, false},
      {"32/8 d128 B1 x 8k", 32, 8, 128, 16, 1, 8192, false},
      {"32/8 d128 B1 x 32k", 32, 8, 128, 64, 1, 32768, false},
      {"32/8 d128 B1 x 128k", 32, 8, 128, 64, 1, 131072, false},
      {"32/8 d128 B5 lists 2k", 32, 8, 128, 64, 5, 2048, true},
      {"32/8 d128 B64 lists 2k", 32, 8, 128, 64, 64, 2048, true},
      {"32/8 d128 B16 x 32k, e4m3", 32, 8, 128, 64, 16, 32768, false, kernels::KvElement::kF8E4M3},
      {"32/8 d128 B1 x 128k, e4m3", 32, 8, 128, 64, 1, 131072, false, kernels::KvElement::kF8E4M3},
      {"32/8 d128 B1 x 128k, f16", 32, 8, 128, 64, 1, 131072, false, kernels::KvElement::kF16},
      {"9/3 d64 B1 x 64", 9, 3, 64, 64, 1, 64, false},
      {"9/3 d64 B1 x 512", 9, 3, 64, 64, 1, 512, false},
      {"9/3 d64 B1 x 8k", 9, 3, 64, 64, 1, 8192, false},
      {"9/3 d64 B1 x 128k", 9, 3, 64, 64, 1, 131072, false},
      {"9/3 d64 B64 x 2k", 9, 3, 64, 64, 64, 2048, false},
  };
  for (const TimedCase& timed : cases) TimeCase(timed, cache.data(), kCacheBytes, flush, copy_rate, stream);
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  bool good = true;
  if (what != "time") good = farspan::CheckDecode(argc > 2 ? std::atoi(argv[2]) : 60);
  if (what != "check") farspan::Time();
  return good ? 0 : 1;
}
