// SPDX-License-Identifier: Apache-2.0
// Checks and times prefill attention on the current device: random lists against float64 on the device, then shapes of
// real models. Prints a table; needs nothing but the CUDA runtime.
//   farspan-bench-cuda-prefill check [largest number of tokens, unused] [random lists]
//   farspan-bench-cuda-prefill time [largest number of tokens] [part of a shape's name]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/bench/cuda_prefill_call.cuh"

namespace farspan::kernels::cuda {
namespace {

using Engine = std::mt19937_64;

// Of float32 scores, and of scores of queries that are turned to a cap and rounded to bf16, inputs being about normal.
constexpr double kLargestLseError = 1e-4, kLargestTurnedLseError = 1.0 / 64;

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
  constexpr KvElement kElements[] = {KvElement::kBf16, KvElement::kF16, KvElement::kF8E4M3};
  SceneShape shape;
  shape.element = kElements[Integer(engine, 0, 2)];
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
        scene.max_entries = std::max(scene.max_entries, list.num_entries);
      }
      if (lists.size() > 400) break;
    }
  }
  if (masked) AddRandomMask(lists, shape.page_tokens, engine, &scene);
  FinishScene(shape, entries, lists, (*engine)(), &scene);
  char text[160];
  std::snprintf(text, sizeof(text), "d %ld heads %ld/%ld element %d page %ld tiles %zu rows %ld entries %ld%s",
                shape.head_dim, shape.num_heads, shape.num_kv_heads, static_cast<int>(shape.element), shape.page_tokens,
                scene.tiles.size(), scene.num_rows, scene.max_entries, masked ? " masked" : "");
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
    if (!(errors.out < 2e-2) || !(errors.lse < kLargestTurnedLseError) || !written) {
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
  scene.max_entries = shape.num_pages;
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
  const double flops = 4.0 * static_cast<double>(timing.shape.head_dim) * static_cast<double>(scene.num_pairs);
  std::printf("%-28s %9.3f ms %7.1f TFLOP/s  best %9.3f ms  error %.1e lse %.1e%s\n", timing.name, ms, flops / ms / 1e9,
              static_cast<double>(times[0]), errors.out, errors.lse,
              errors.out < 2e-2 && errors.lse < kLargestLseError ? "" : "  WRONG");
  std::fflush(stdout);
  Check(cudaEventDestroy(begin), "event");
  Check(cudaEventDestroy(end), "event");
  scene.Free();
}

void TimeShapes(int64_t most_tokens, const std::string& only) {
  const SceneShape llama, small = {.num_heads = 9, .num_kv_heads = 3, .head_dim = 64};
  const SceneShape short_pages = {.page_tokens = 16}, f16 = {.element = KvElement::kF16};
  const SceneShape f8 = {.element = KvElement::kF8E4M3};
  const Timing timings[] = {
      {"d128 32/8 8k", llama, 8192, 8192},
      {"d128 32/8 32k", llama, 32768, 32768},
      {"d128 32/8 128k", llama, 131072, 131072},
      {"d128 2048 at 128k", llama, 131072, 2048},
      {"d128 512 at 32k", llama, 32768, 512},
      {"d128 16 at 32k", llama, 32768, 16},
      {"d128 32/8 8k pages of 16", short_pages, 8192, 8192},
      {"d128 32/8 8k fp16", f16, 8192, 8192},
      {"d128 32/8 32k fp16", f16, 32768, 32768},
      {"d128 32/8 8k fp8", f8, 8192, 8192},
      {"d128 32/8 32k fp8", f8, 32768, 32768},
      {"d64 9/3 8k", small, 8192, 8192},
      {"d64 9/3 32k", small, 32768, 32768},
      {"d128 10 % of 32k kept", llama, 32768, 32768, 0.1},
      {"d128 10 % of 128k kept", llama, 131072, 131072, 0.1},
      {"d96 32/8 8k", {.head_dim = 96}, 8192, 8192},
      {"d256 16/8 8k", {.num_heads = 16, .head_dim = 256}, 8192, 8192},
  };
  for (const Timing& timing : timings) {
    const bool chosen = std::string(timing.name).find(only) != std::string::npos;
    if (timing.context <= most_tokens && chosen) Time(timing, 400);
  }
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int64_t most_tokens = argc > 2 ? std::atoll(argv[2]) : 131072;
  int failures = 0;
  if (what != "time") failures = CheckRandomScenes(argc > 3 ? std::atoi(argv[3]) : 60, std::random_device()());
  if (what != "check") TimeShapes(most_tokens, argc > 3 ? argv[3] : "");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace farspan::kernels::cuda

int main(int argc, char** argv) { return farspan::kernels::cuda::Main(argc, argv); }
