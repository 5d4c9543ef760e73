// SPDX-License-Identifier: Apache-2.0
// Scores of keys, attention in parts and compaction on the current CUDA device: farspan-bench-cuda-states. Shapes of
// 32/8 heads of 128 channels in bf16, pages of 64 tokens, one layer. Cold is one launch after the L2 was overwritten,
// graph a captured run of launches over different pages. Per cent are of the copy bandwidth of the same run, for the
// bytes that the op must read and write.
#include <functional>

#include "tests/bench/cuda_decode_batch.cuh"

namespace farspan {
namespace {

using kernels::KvEntry;
using kernels::KvList;
using kernels::KvSlot;
using kernels::ScoreFold;

constexpr int64_t kHeads = 32, kKvHeads = 8, kGroup = kHeads / kKvHeads, kHeadDim = 128, kPageTokens = 64;
constexpr int64_t kRowBytes = kHeadDim * 2;  // of a key
constexpr int64_t kPageBytes = kPageTokens * kKvHeads * 2 * kRowBytes;
constexpr int64_t kCacheBytes = int64_t{8} << 30, kPages = kCacheBytes / kPageBytes;
constexpr int kCold = 11, kInGraph = 8;

using Launch = std::function<cudaError_t(int)>;

struct Bench {
  cudaStream_t stream = nullptr;
  Array<uint8_t> flush{size_t{256} << 20};
  double copy_rate = 0;  // bytes read and written a second

  float Milliseconds(const std::function<void()>& work) const {
    cudaEvent_t begin, end;
    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&end));
    CHECK_CUDA(cudaEventRecord(begin, stream));
    work();
    CHECK_CUDA(cudaEventRecord(end, stream));
    CHECK_CUDA(cudaEventSynchronize(end));
    float time = 0;
    CHECK_CUDA(cudaEventElapsedTime(&time, begin, end));
    CHECK_CUDA(cudaEventDestroy(begin));
    CHECK_CUDA(cudaEventDestroy(end));
    return time;
  }

  static float Median(std::vector<float> times) {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  float Cold(const Launch& launch) const {
    std::vector<float> times;
    for (int i = 0; i < kCold; ++i) {
      CHECK_CUDA(cudaMemsetAsync(flush.data(), i, size_t{256} << 20, stream));
      times.push_back(Milliseconds([&] { CHECK_CUDA(launch(i)); }));
    }
    return Median(times);
  }

  float Graph(const Launch& launch) const {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < kInGraph; ++i) CHECK_CUDA(launch(i));
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<float> times;
    for (int i = 0; i < 5; ++i) times.push_back(Milliseconds([&] { CHECK_CUDA(cudaGraphLaunch(executable, stream)); }));
    CHECK_CUDA(cudaGraphExecDestroy(executable));
    CHECK_CUDA(cudaGraphDestroy(graph));
    return Median(times) / kInGraph;
  }

  void Report(const char* name, double bytes, const Launch& launch) const {
    CHECK_CUDA(launch(0));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    const double cold = Cold(launch) / 1e3, graph = Graph(launch) / 1e3;
    std::printf("%-44s %8.1f MB  cold %8.1f us %5.1f %%  graph %8.1f us %5.1f %%\n", name, bytes / 1e6, cold * 1e6,
                100 * bytes / cold / copy_rate, graph * 1e6, 100 * bytes / graph / copy_rate);
    std::fflush(stdout);
  }
};

// Pages `first` on in an order of their own, one entry each.
std::vector<KvEntry> Entries(int64_t first, int64_t tokens) {
  std::vector<KvEntry> entries;
  for (int64_t position = 0; position < tokens; position += kPageTokens) {
    const int64_t page = (first + position / kPageTokens) * 7919 % kPages;
    entries.push_back({.page = static_cast<int32_t>(page),
                       .num_valid = static_cast<int32_t>(std::min(kPageTokens, tokens - position)),
                       .position = position});
  }
  return entries;
}

kernels::KvLayerView Cache(void* data) {
  return {
      .data = data, .num_pages = kPages, .num_kv_heads = kKvHeads, .page_tokens = kPageTokens, .head_dim = kHeadDim};
}

// Sequences whose rows read all of their tokens, several sets of them over different pages.
class Rows {
 public:
  static constexpr int kSets = 2;
  Rows(int64_t num_rows, int64_t num_queries, int64_t tokens, void* cache)
      : num_rows_(num_rows),
        num_queries_(num_queries),
        tokens_(tokens),
        cache_(cache),
        q_(static_cast<size_t>(num_rows * num_queries * kHeads * kHeadDim)),
        lse_(std::vector<float>(static_cast<size_t>(num_rows * num_queries * kHeads), 9.0f)) {
    FillKernel<<<512, 256>>>(q_.data(), num_rows * num_queries * kHeads * kHeadDim, kernels::KvElement::kBf16, 5);
    std::vector<KvEntry> entries;
    std::vector<KvList> lists;
    for (int64_t list = 0; list < kSets * num_rows; ++list) {
      const std::vector<KvEntry> own = Entries(list * (tokens / kPageTokens), tokens);
      for (int64_t head = 0; head < kKvHeads; ++head) {
        lists.push_back({static_cast<int64_t>(entries.size()), static_cast<int64_t>(own.size())});
      }
      entries.insert(entries.end(), own.begin(), own.end());
    }
    entries_.Set(entries), lists_.Set(lists);
    std::vector<kernels::KeyScoreRow> score_rows;
    std::vector<kernels::DecodeRow> decode_rows;
    for (int64_t row = 0; row < num_rows; ++row) {
      score_rows.push_back({row * num_queries, num_queries, tokens - num_queries, kernels::kNoLeftWindow});
      decode_rows.push_back({row, tokens - 1, kernels::kNoLeftWindow});
    }
    score_rows_.Set(score_rows), decode_rows_.Set(decode_rows);
  }

  kernels::AttentionCommon Common() const {
    return {.q = q_.data(),
            .lse = lse_.data(),
            .cache = Cache(cache_),
            .entries = entries_.data(),
            .num_heads = kHeads,
            .scale = 0.088f,
            .activation = kernels::Activation::kBf16};
  }
  kernels::KeyScoresArgs Scores(int set, float* scores, kernels::KeyScore score, ScoreFold over_group,
                                ScoreFold over_queries, ScoreFold over_columns, int64_t column_tokens) const {
    return {.common = Common(),
            .rows = score_rows_.data(),
            .lists = lists_.data() + set % kSets * num_rows_ * kKvHeads,
            .scores = scores,
            .num_rows = num_rows_,
            .max_queries = num_queries_,
            .max_columns = tokens_ / column_tokens,
            .score = score,
            .over_group = over_group,
            .over_queries = over_queries,
            .over_columns = over_columns,
            .column_tokens = column_tokens};
  }
  kernels::DecodeAttentionArgs Decode(int set, void* out) const {
    kernels::DecodeAttentionArgs args = {.common = Common(),
                                         .rows = decode_rows_.data(),
                                         .lists = lists_.data() + set % kSets * num_rows_ * kKvHeads,
                                         .num_rows = num_rows_};
    args.common.out = out;
    return args;
  }
  double key_bytes() const { return static_cast<double>(num_rows_ * tokens_ * kKvHeads * kRowBytes); }

 private:
  const int64_t num_rows_, num_queries_, tokens_;
  void* const cache_;
  Array<uint16_t> q_;
  Array<float> lse_;
  Array<KvEntry> entries_{size_t{1} << 18};
  Array<KvList> lists_{size_t{1} << 12};
  Array<kernels::KeyScoreRow> score_rows_{4096};
  Array<kernels::DecodeRow> decode_rows_{4096};
};

void TimeScores(const Bench& bench, void* cache) {
  struct Case {
    const char* name;
    int64_t num_rows, num_queries, tokens;
    kernels::KeyScore score;
    ScoreFold over_group, over_queries, over_columns;
    int64_t column_tokens;
  };
  const Case cases[] = {{"logits, B16 x 32k, each head and key", 16, 1, 32768, kernels::KeyScore::kLogit,
                         ScoreFold::kNone, ScoreFold::kNone, ScoreFold::kNone, 1},
                        {"probabilities, B16 x 32k, max of group", 16, 1, 32768, kernels::KeyScore::kProbability,
                         ScoreFold::kMax, ScoreFold::kNone, ScoreFold::kNone, 1},
                        {"the same, sum of 16 keys", 16, 1, 32768, kernels::KeyScore::kProbability, ScoreFold::kMax,
                         ScoreFold::kNone, ScoreFold::kSum, 16},
                        {"probabilities, B1 x 128k, sum of group", 1, 1, 131072, kernels::KeyScore::kProbability,
                         ScoreFold::kSum, ScoreFold::kNone, ScoreFold::kNone, 1},
                        {"the same, 32 queries x 32k, summed up", 1, 32, 32768, kernels::KeyScore::kProbability,
                         ScoreFold::kSum, ScoreFold::kSum, ScoreFold::kNone, 1}};
  Array<float> scores(size_t{1} << 25);
  for (const Case& c : cases) {
    const Rows rows(c.num_rows, c.num_queries, c.tokens, cache);
    const int64_t cells =
        (c.over_group == ScoreFold::kNone ? kGroup : 1) * (c.over_queries == ScoreFold::kNone ? c.num_queries : 1);
    const double written = static_cast<double>(c.num_rows * kKvHeads * cells * (c.tokens / c.column_tokens) * 4);
    bench.Report(c.name, rows.key_bytes() + written, [&](int i) {
      return kernels::cuda::LaunchKeyScores(
          rows.Scores(i, scores.data(), c.score, c.over_group, c.over_queries, c.over_columns, c.column_tokens),
          bench.stream);
    });
  }
}

void TimeStates(const Bench& bench, void* cache) {
  const int64_t size_bytes = kernels::cuda::DecodeAttentionWorkspaceBytes(64, kHeads, kKvHeads, kHeadDim);
  Array<uint8_t> memory(static_cast<size_t>(size_bytes));
  memory.SetBytes(0);
  const kernels::cuda::Workspace workspace = {memory.data(), size_bytes};
  Array<float> outs(size_t{1} << 26), maxima(size_t{1} << 20), sums(std::vector<float>(size_t{1} << 20, 1.0f));
  CHECK_CUDA(cudaMemset(outs.data(), 0, size_t{1} << 28));
  CHECK_CUDA(cudaMemset(maxima.data(), 0, size_t{1} << 22));
  Array<uint16_t> out(size_t{1} << 24);
  Array<float> lse(size_t{1} << 20);
  const kernels::SoftmaxStates states = {.out = outs.data(), .maximum = maxima.data(), .sum = sums.data()};
  for (const auto [num_rows, tokens] : {std::pair<int64_t, int64_t>(16, 32768), {1, 32768}}) {
    const Rows rows(num_rows, 1, tokens, cache);
    bench.Report(num_rows == 1 ? "decode attention, B1 x 32k" : "decode attention, B16 x 32k", 2 * rows.key_bytes(),
                 [&](int i) {
                   return kernels::cuda::LaunchDecodeAttention(rows.Decode(i, out.data()), workspace, bench.stream);
                 });
    bench.Report("its states", 2 * rows.key_bytes(), [&](int i) {
      return kernels::cuda::LaunchDecodeStates({rows.Decode(i, nullptr), states}, workspace, bench.stream);
    });
  }
  for (const auto [num_rows, parts] : {std::pair<int64_t, int64_t>(64, 2), {64, 8}, {1024, 4}}) {
    const auto places = static_cast<double>(num_rows * kHeads);
    char name[64];
    std::snprintf(name, sizeof(name), "merge %d states of %d rows", static_cast<int>(parts),
                  static_cast<int>(num_rows));
    bench.Report(name, places * (static_cast<double>(parts) * (kHeadDim * 4 + 8) + kHeadDim * 2 + 4), [&](int i) {
      return kernels::cuda::LaunchMergeStates(
          {.states = {.out = outs.data() + i % 3 * (int64_t{1} << 24), .maximum = maxima.data(), .sum = sums.data()},
           .num_states = parts,
           .out = out.data(),
           .lse = lse.data(),
           .num_rows = num_rows,
           .num_heads = kHeads,
           .head_dim = kHeadDim,
           .activation = kernels::Activation::kBf16},
          bench.stream);
    });
  }
}

void TimeCompaction(const Bench& bench, void* cache) {
  Array<uint8_t> bounds(static_cast<size_t>(kPages * kKvHeads * kernels::KeyBoundsPairs(kPageTokens) * 2 * kRowBytes));
  for (const int64_t num_tokens : {2048, 32768, 131072}) {
    constexpr int kSets = 2;
    std::vector<KvSlot> sources;
    std::vector<int32_t> pages;
    const int64_t num_pages = num_tokens / kPageTokens;
    for (int set = 0; set < kSets; ++set) {
      const int64_t first = set * 9 * num_pages % (kPages / 2);
      for (int64_t i = 0; i < num_pages; ++i) pages.push_back(static_cast<int32_t>(kPages / 2 + set * num_pages + i));
      // One token in eight or fewer of a context, ascending, each head its own.
      for (int64_t i = 0; i < kKvHeads * num_tokens; ++i) {
        const int64_t token = i % num_tokens, page = first + token / 16 % (kPages / 2 - first);
        sources.push_back(
            {static_cast<int32_t>(page), static_cast<int32_t>((token * 4 + Integer(0, 3)) % kPageTokens)});
      }
    }
    const Array<KvSlot> device_sources(sources);
    const Array<int32_t> device_pages(pages);
    for (const bool has_bounds : {false, true}) {
      char name[64];
      std::snprintf(name, sizeof(name), "compact %d tokens%s", static_cast<int>(num_tokens),
                    has_bounds ? " and bound their keys" : "");
      const double bound_bytes = static_cast<double>(num_pages * kKvHeads * 5 * 2 * kRowBytes);
      const double bytes = static_cast<double>(kKvHeads * num_tokens) * (4 * kRowBytes + 8);
      bench.Report(name, bytes + (has_bounds ? bound_bytes : 0), [&](int i) {
        return kernels::cuda::LaunchCompactTokens({.cache = Cache(cache),
                                                   .bounds = {.data = has_bounds ? bounds.data() : nullptr},
                                                   .sources = device_sources.data() + i % kSets * kKvHeads * num_tokens,
                                                   .pages = device_pages.data() + i % kSets * num_pages,
                                                   .num_tokens = num_tokens},
                                                  bench.stream);
      });
    }
  }
}

int Main() {
  Bench bench;
  CHECK_CUDA(cudaStreamCreate(&bench.stream));
  Array<uint8_t> cache(static_cast<size_t>(kCacheBytes));
  FillKernel<<<2048, 256>>>(cache.data(), kCacheBytes / 2, kernels::KvElement::kBf16, 1);
  CHECK_CUDA(cudaDeviceSynchronize());
  constexpr size_t kCopied = size_t{2} << 30;
  std::vector<float> times;
  for (int i = 0; i < 7; ++i) {
    times.push_back(bench.Milliseconds([&] {
      CHECK_CUDA(
          cudaMemcpyAsync(cache.data() + kCopied, cache.data(), kCopied, cudaMemcpyDeviceToDevice, bench.stream));
    }));
  }
  bench.copy_rate = 2.0 * kCopied / Bench::Median(times) * 1e3;
  std::printf("copy %.0f GB/s\n", bench.copy_rate / 1e9);
  TimeScores(bench, cache.data());
  TimeStates(bench, cache.data());
  TimeCompaction(bench, cache.data());
  return 0;
}

}  // namespace
}  // namespace farspan

int main() { return farspan::Main(); }
