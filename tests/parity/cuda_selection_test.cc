// SPDX-License-Identifier: Apache-2.0
// Key bounds and the choice of blocks on the device against the portable CPU kernels: batches of rows of their own
// contexts, blocks and reductions, padding among them, on fresh random inputs with poisoned outputs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/select_blocks.h"
#include "tests/engine/kernels/kernel_test_support.h"
#include "tests/parity/device_arrays.h"

namespace farspan {
namespace {

using kernels::Activation;
using kernels::kNan;
using kernels::KvEntry;
using kernels::KvList;
using kernels::Random;
using kernels::ScoreReduction;
using kernels::SelectorRow;

constexpr int kTrials = 40;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

// Keys, queries and rows that choose among the blocks of their contexts. In an exact scene all numbers are small
// integers and scores raw sums, so that every order of adding gives the same bits, and many scores are equal.
struct SelectionScene {
  SelectionScene(bool is_exact, Random* random) : SelectionScene(is_exact, 0, 0, random) {}

  // One KV head and rows of `long_context` tokens in short blocks, where it is not 0.
  SelectionScene(bool is_exact, int64_t long_context, int64_t head_dim, Random* random)
      : exact(is_exact), is_long(long_context > 0) {
    constexpr int64_t kPageTokens[] = {16, 32, 64, 64};
    cache.element = kernels::kAllKvElements[random->Integer(0, 3)];
    cache.num_kv_heads = random->Integer(1, 3);
    cache.page_tokens = kPageTokens[random->Integer(0, 3)];
    cache.head_dim = 8 * random->Integer(1, random->OneIn(4) ? 32 : 16);
    group = random->OneIn(8) ? 32 : random->Integer(1, 9);
    if (is_long) {
      cache.num_kv_heads = 1;
      cache.head_dim = head_dim;
      group = random->Integer(1, 4);
      if (head_dim == kProductHeadDim) cache.element = kernels::KvElement::kBf16;
    }
    const int64_t num_rows = is_long ? 2 : random->Integer(1, 5);
    for (int64_t row = 0; row < num_rows; ++row) {
      contexts.push_back(is_long ? long_context + random->Integer(0, 999)
                                 : random->Integer(512, random->OneIn(4) ? 9000 : 2000));
    }
    for (const int64_t context : contexts) cache.num_pages += (context + cache.page_tokens - 1) / cache.page_tokens;
    for (int32_t page = 0; page < cache.num_pages; ++page) table.push_back(page);
    random->Shuffle(&table);
    keys = Values(cache.num_pages * cache.page_elements(), random);
    q = Values(num_rows * num_heads() * cache.head_dim, random);
    for (int64_t row = 0; row < num_rows; ++row) AddRow(row, random);
    for (SelectorRow& row : rows) {
      row.slots_begin = static_cast<int64_t>(entries.size());
      const KvEntry poison = {.page = -1, .first_valid = -1, .num_valid = -1, .position = -1};
      entries.insert(entries.end(), Index(cache.num_kv_heads * SelectedEntries(row, cache.page_tokens)), poison);
      if (random->OneIn(5)) row = {};
    }
    random->Shuffle(&rows);
  }

  int64_t num_heads() const { return cache.num_kv_heads * group; }

  std::vector<float> Values(int64_t size, Random* random) const {
    std::vector<float> values = random->Reals(size, -3, 3);
    for (float& value : values) {
      value = exact ? std::round(value) : kernels::Bf16ToFloat(kernels::FloatToBf16(value));
    }
    return values;
  }

  void AddRow(int64_t index, Random* random) {
    const int64_t context = contexts[Index(index)], page_tokens = cache.page_tokens;
    SelectorRow row = {.row = index, .decode_row = index};
    row.context.entries_begin = static_cast<int64_t>(entries.size());
    for (int64_t token = 0; token < context; token += page_tokens) {
      entries.push_back({.page = table[Index(next_page++)],
                         .num_valid = static_cast<int32_t>(std::min(page_tokens, context - token)),
                         .position = token});
    }
    row.context.num_entries = static_cast<int64_t>(entries.size()) - row.context.entries_begin;
    for (KvList* list : {&row.leading, &row.trailing}) {
      *list = {static_cast<int64_t>(entries.size()), random->Integer(0, 2)};
      for (int64_t i = 0; i < list->num_entries; ++i) {
        entries.push_back({.page = static_cast<int32_t>(i), .num_valid = 3, .position = random->Integer(0, context)});
      }
    }
    row.reduction = exact || random->OneIn(2) ? ScoreReduction::kRawSum : ScoreReduction::kSoftmaxSum;
    row.block_tokens = is_long ? 16 : 16 << random->Integer(0, 2);
    row.num_blocks = context / row.block_tokens;
    row.first_candidate = random->Integer(0, 3);
    row.num_candidates = row.num_blocks - row.first_candidate - random->Integer(0, 2);
    row.num_picked = random->OneIn(4) ? row.num_candidates : random->Integer(1, row.num_candidates);
    row.dense_layers[1] = random->OneIn(5) ? 2 : 0;  // layer 65
    rows.push_back(row);
  }

  // All complete runs, each page's in order at a multiple of their number as far as `aligned`, and padding.
  std::vector<kernels::KeyRun> Runs(bool aligned, Random* random) const {
    const int64_t run_tokens = kernels::KeyBoundsTokens(cache.page_tokens);
    std::vector<kernels::KeyRun> runs;
    for (int32_t page = 0; page < cache.num_pages; ++page) {
      for (int64_t run = 0; run < cache.page_tokens / run_tokens; ++run) {
        runs.push_back({.page = page, .run = static_cast<int32_t>(run)});
        if (!aligned && random->OneIn(9)) runs.push_back({.page = -1, .run = 3});
      }
    }
    if (!aligned && random->OneIn(2)) random->Shuffle(&runs);
    return runs;
  }

  static constexpr int64_t kProductHeadDim = 64;  // one that is scored by matrix products

  bool exact;
  bool is_long;
  kernels::KvLayerView cache;
  int64_t group = 1;
  std::vector<int64_t> contexts;
  std::vector<int32_t> table;
  int64_t next_page = 0;
  std::vector<float> keys, q;  // exact in bf16
  std::vector<KvEntry> entries;
  std::vector<SelectorRow> rows;
};

std::vector<uint8_t> Encode(const std::vector<float>& values, kernels::KvElement element) {
  std::vector<uint8_t> bytes(values.size() * Index(kernels::KvElementBytes(element)));
  for (size_t i = 0; i < values.size(); ++i) {
    kernels::StoreKvElement(element, bytes.data(), static_cast<int64_t>(i), values[i]);
  }
  return bytes;
}

std::vector<float> Decode(const std::vector<uint8_t>& bytes, kernels::KvElement element) {
  std::vector<float> values(bytes.size() / Index(kernels::KvElementBytes(element)));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = kernels::LoadKvElement(element, bytes.data(), static_cast<int64_t>(i));
  }
  return values;
}

size_t BoundsBytes(const kernels::KvLayerView& cache) {
  return Index(kernels::PageBoundsOffset(cache, cache.num_pages, 0) -
               (kernels::PageBoundsOffset(cache, 0, 0) - kernels::RunBoundsOffset(cache, 0, 0, 0))) *
         Index(cache.element_bytes());
}

struct Selection {
  std::vector<KvEntry> entries;
  std::vector<KvList> lists;
};

bool SameEntry(const KvEntry& a, const KvEntry& b) {
  return a.page == b.page && a.first_valid == b.first_valid && a.num_valid == b.num_valid &&
         a.head_mask == b.head_mask && a.position == b.position && a.query_cap == b.query_cap &&
         a.ignores_left_window == b.ignores_left_window;
}

class CudaSelectionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    cuda_ = *std::move(cuda);
  }

  std::vector<uint8_t> FillOnCpu(const SelectionScene& scene, const std::vector<kernels::KeyRun>& runs) {
    std::vector<uint8_t> keys = Encode(scene.keys, scene.cache.element), bounds(BoundsBytes(scene.cache), 0xff);
    kernels::FillKeyBoundsArgs args = {.cache = scene.cache,
                                       .bounds = {bounds.data()},
                                       .runs = runs.data(),
                                       .num_runs = static_cast<int64_t>(runs.size())};
    args.cache.data = keys.data();
    RunShuffled(kernels::PortableKernels().fill_key_bounds, args, &random_);
    return bounds;
  }

  std::vector<uint8_t> FillOnDevice(const SelectionScene& scene, const std::vector<kernels::KeyRun>& runs) {
    DeviceArrays arrays(cuda_.get());
    const size_t size = BoundsBytes(scene.cache);
    kernels::FillKeyBoundsArgs args = {
        .cache = scene.cache, .runs = arrays.Put(runs), .num_runs = static_cast<int64_t>(runs.size())};
    args.cache.data = const_cast<uint8_t*>(arrays.Put(Encode(scene.keys, scene.cache.element)));
    args.bounds.data = const_cast<uint8_t*>(arrays.Put(std::vector<uint8_t>(size, 0xff)));
    EXPECT_EQ(kernels::cuda::LaunchFillKeyBounds(args, nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return arrays.Get(static_cast<const uint8_t*>(args.bounds.data), size);
  }

  static kernels::SelectBlocksArgs Args(const SelectionScene& scene, int64_t layer) {
    return {.cache = scene.cache,
            .num_rows = static_cast<int64_t>(scene.rows.size()),
            .layer = layer,
            .num_heads = scene.num_heads()};
  }

  // Keeps the scores of every query head, as they are before the group is reduced, in scores_ and first_score_.
  Selection SelectOnCpu(const SelectionScene& scene, std::vector<uint8_t> bounds, int64_t layer) {
    Selection result = {scene.entries,
                        std::vector<KvList>(scene.contexts.size() * Index(scene.cache.num_kv_heads), {-1, -1})};
    kernels::SelectBlocksArgs args = Args(scene, layer);
    args.q = scene.q.data(), args.bounds.data = bounds.data(), args.rows = scene.rows.data();
    args.entries = result.entries.data(), args.lists = result.lists.data();
    kernels::ScoreTiles tiles;
    PlanScoreTiles(args, &tiles);
    std::vector<float> scores(Index(tiles.num_scores), kNan);
    const kernels::SelectionPass pass = {.args = &args,
                                         .tiles = tiles.tiles.data(),
                                         .num_tiles = static_cast<int64_t>(tiles.tiles.size()),
                                         .first_score = tiles.first_score.data(),
                                         .scores = scores.data()};
    RunShuffled(kernels::PortableKernels().score_key_bounds, pass, &random_);
    scores_ = scores;
    first_score_ = tiles.first_score;
    RunShuffled(kernels::PortableKernels().pick_blocks, pass, &random_);
    return result;
  }

  Selection SelectOnDevice(const SelectionScene& scene, const std::vector<uint8_t>& bounds, int64_t layer) {
    DeviceArrays arrays(cuda_.get());
    int64_t max_blocks = 1;
    for (const SelectorRow& row : scene.rows) max_blocks = std::max(max_blocks, row.num_blocks);
    if (random_.OneIn(3)) max_blocks += random_.Integer(0, 20000);
    kernels::SelectBlocksArgs args = Args(scene, layer);
    if (random_.OneIn(2)) {
      args.q = arrays.Put(scene.q);
    } else {
      args.activation = Activation::kBf16;
      args.q = arrays.Put(Encode(scene.q, kernels::KvElement::kBf16));
    }
    args.bounds.data = const_cast<uint8_t*>(arrays.Put(bounds));
    args.rows = arrays.Put(scene.rows);
    args.entries = const_cast<KvEntry*>(arrays.Put(scene.entries));
    const std::vector<KvList> poison(scene.contexts.size() * Index(scene.cache.num_kv_heads), {-1, -1});
    args.lists = const_cast<KvList*>(arrays.Put(poison));
    const int64_t size =
        kernels::cuda::SelectBlocksWorkspaceBytes(args.num_rows, args.num_heads, scene.cache.num_kv_heads, max_blocks);
    auto* workspace = const_cast<uint8_t*>(arrays.Put(std::vector<uint8_t>(Index(size), 0xff)));
    EXPECT_EQ(kernels::cuda::LaunchSelectBlocks(args, max_blocks, {workspace, size}, nullptr), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return {arrays.Get(args.entries, scene.entries.size()), arrays.Get(args.lists, poison.size())};
  }

  // The KV head's scores of all blocks as the CPU's float32 scores imply them.
  std::vector<double> ReducedScores(const SelectionScene& scene, size_t row_index, int64_t kv_head) const {
    const SelectorRow& row = scene.rows[row_index];
    const float* scores = scores_.data() + first_score_[row_index * Index(scene.cache.num_kv_heads) + Index(kv_head)];
    const auto score = [&](int64_t head, int64_t block) -> double {
      return scores[head * kernels::PaddedBlocks(row.num_blocks) + block];
    };
    std::vector<double> reduced(Index(row.num_blocks), 0.0);
    for (int64_t head = 0; head < scene.group; ++head) {
      double largest = -INFINITY, sum = 0;
      for (int64_t i = 0; i < row.num_blocks; ++i) largest = std::max(largest, score(head, i));
      for (int64_t i = 0; i < row.num_blocks; ++i) sum += std::exp(score(head, i) - largest);
      for (int64_t i = 0; i < row.num_blocks; ++i) {
        const double own = score(head, i);
        reduced[Index(i)] += row.reduction == ScoreReduction::kRawSum ? own : std::exp(own - largest) / sum;
      }
    }
    if (row.reduction == ScoreReduction::kSoftmaxSum) {
      for (double& value : reduced) value = std::log(value);
    }
    return reduced;
  }

  // Every block that the device picked scores on the CPU as high as any that it left, within rounding.
  void ExpectHighest(const SelectionScene& scene, size_t row_index, int64_t kv_head, const Selection& device) {
    const SelectorRow& row = scene.rows[row_index];
    const std::vector<double> scores = ReducedScores(scene, row_index, kv_head);
    const KvList list = device.lists[Index(row.decode_row * scene.cache.num_kv_heads + kv_head)];
    ASSERT_EQ(list.num_entries, SelectedEntries(row, scene.cache.page_tokens));
    std::vector<bool> picked(scores.size());
    const int64_t end = list.num_entries - row.trailing.num_entries;
    int64_t previous_end = 0;
    for (int64_t i = row.leading.num_entries; i < end; ++i) {
      const KvEntry& entry = device.entries[Index(list.entries_begin + i)];
      ASSERT_GE(entry.position, previous_end);
      previous_end = entry.position + entry.num_valid;
      const int64_t page = entry.position / scene.cache.page_tokens;
      ASSERT_EQ(entry.page, scene.entries[Index(row.context.entries_begin + page)].page);
      ASSERT_EQ(entry.first_valid, entry.position % scene.cache.page_tokens);
      picked[Index(entry.position / row.block_tokens)] = true;
    }
    double lowest_picked = INFINITY, highest_other = -INFINITY;
    int64_t num_picked = 0;
    for (int64_t i = row.first_candidate; i < row.first_candidate + row.num_candidates; ++i) {
      if (!picked[Index(i)]) {
        highest_other = std::max(highest_other, scores[Index(i)]);
        continue;
      }
      lowest_picked = std::min(lowest_picked, scores[Index(i)]);
      ++num_picked;
    }
    ASSERT_EQ(num_picked, row.num_picked);
    const double rounding = 4e-6 * static_cast<double>(scene.cache.head_dim * scene.group);
    EXPECT_GE(lowest_picked, highest_other - rounding);
  }

  std::unique_ptr<Backend> cuda_;
  Random random_;
  std::vector<float> scores_;
  std::vector<int64_t> first_score_;
};

TEST_F(CudaSelectionTest, KeyBoundsAreTheCpus) {
  for (int trial = 0; trial < kTrials; ++trial) {
    SelectionScene scene(false, &random_);
    for (int i = 0; i < 5; ++i)
      scene.keys[Index(random_.Integer(0, static_cast<int64_t>(scene.keys.size()) - 1))] = kNan;
    const std::vector<kernels::KeyRun> runs = scene.Runs(trial % 2 == 0, &random_);
    const std::vector<float> cpu = Decode(FillOnCpu(scene, runs), scene.cache.element);
    const std::vector<float> device = Decode(FillOnDevice(scene, runs), scene.cache.element);
    ASSERT_EQ(cpu.size(), device.size());
    for (size_t i = 0; i < cpu.size(); ++i) {
      ASSERT_TRUE(cpu[i] == device[i] || (std::isnan(cpu[i]) && std::isnan(device[i])))
          << "at " << i << ": " << cpu[i] << " and " << device[i];
    }
  }
}

TEST_F(CudaSelectionTest, ExactScoresGiveTheCpusLists) {
  for (int trial = 0; trial < kTrials; ++trial) {
    const SelectionScene scene(true, &random_);
    const std::vector<uint8_t> bounds = FillOnCpu(scene, scene.Runs(true, &random_));
    const Selection cpu = SelectOnCpu(scene, bounds, 65), device = SelectOnDevice(scene, bounds, 65);
    for (size_t i = 0; i < cpu.lists.size(); ++i) {
      ASSERT_EQ(device.lists[i].entries_begin, cpu.lists[i].entries_begin);
      ASSERT_EQ(device.lists[i].num_entries, cpu.lists[i].num_entries);
    }
    for (size_t i = 0; i < cpu.entries.size(); ++i) {
      ASSERT_TRUE(SameEntry(device.entries[i], cpu.entries[i])) << "entry " << i << " of " << cpu.entries.size();
    }
  }
}

// Of more blocks than threads hold four of, sixteen of, and any at all in registers.
TEST_F(CudaSelectionTest, LongContextsGiveTheCpusLists) {
  const std::pair<int64_t, int64_t> shapes[] = {
      {16 * 2049, SelectionScene::kProductHeadDim}, {16 * 2049, 8}, {16 * 8193, 8}, {16 * 16385, 8}};
  for (const auto& [context, head_dim] : shapes) {
    const SelectionScene scene(true, context, head_dim, &random_);
    const std::vector<uint8_t> bounds = FillOnCpu(scene, scene.Runs(true, &random_));
    const Selection cpu = SelectOnCpu(scene, bounds, 65), device = SelectOnDevice(scene, bounds, 65);
    for (size_t i = 0; i < cpu.entries.size(); ++i) {
      ASSERT_TRUE(SameEntry(device.entries[i], cpu.entries[i])) << "entry " << i << " of " << cpu.entries.size();
    }
  }
}

TEST_F(CudaSelectionTest, PicksTheHighestScoresWithinRounding) {
  for (int trial = 0; trial < kTrials; ++trial) {
    const SelectionScene scene(false, &random_);
    const std::vector<uint8_t> bounds = FillOnCpu(scene, scene.Runs(true, &random_));
    SelectOnCpu(scene, bounds, 3);
    const Selection device = SelectOnDevice(scene, bounds, 3);
    for (size_t row = 0; row < scene.rows.size(); ++row) {
      if (scene.rows[row].num_picked == 0) continue;
      for (int64_t kv_head = 0; kv_head < scene.cache.num_kv_heads; ++kv_head) {
        ExpectHighest(scene, row, kv_head, device);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaSelectionTest, ANanScoreRanksAboveAll) {
  SelectionScene scene(true, &random_);
  const int64_t head_dim = scene.cache.head_dim;
  for (int i = 0; i < 200; ++i) {
    const int64_t plane = 2 * random_.Integer(0, scene.cache.num_pages * scene.cache.num_kv_heads - 1);
    scene.keys[Index(plane * scene.cache.plane_elements() + random_.Integer(0, head_dim - 1))] = kNan;
  }
  const std::vector<uint8_t> bounds = FillOnCpu(scene, scene.Runs(true, &random_));
  const Selection cpu = SelectOnCpu(scene, bounds, 65), device = SelectOnDevice(scene, bounds, 65);
  for (size_t i = 0; i < cpu.entries.size(); ++i) {
    ASSERT_TRUE(SameEntry(device.entries[i], cpu.entries[i])) << "entry " << i << " of " << cpu.entries.size();
  }
}

}  // namespace
}  // namespace farspan
