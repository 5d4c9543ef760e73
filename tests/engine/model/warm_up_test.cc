// SPDX-License-Identifier: Apache-2.0
#include "engine/model/warm_up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "engine/backend/cpu_backend.h"
#include "tests/support/faulty_backend.h"

namespace farspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr ModelShape kShape = {.num_layers = 1,
                               .num_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim = 32,
                               .max_context_tokens = 1024,
                               .vocab_size = 16,
                               .page_tokens = 16};

// Records the steps of 1, 2, 4 and 8 rows.
class RecordingBackend final : public FaultyBackend {
 public:
  explicit RecordingBackend(DeviceFaults* faults) : FaultyBackend(*CpuBackend::Create({.num_threads = 1}), faults) {}
  int64_t RecordedRows(int64_t num_rows) const override {
    for (const int64_t rows : {1, 2, 4, 8}) {
      if (num_rows <= rows) return rows;
    }
    return 0;
  }
};

// Keeps the batches that it is given.
class KeepingModel final : public Model {
 public:
  explicit KeepingModel(int64_t max_batch_rows) : max_batch_rows_(max_batch_rows) {}

  const ModelShape& shape() const override { return kShape; }
  const ModelInfo& info() const override { return info_; }
  int64_t max_batch_rows() const override { return max_batch_rows_; }
  absl::Status Forward(const ForwardBatch&, KvCache&) override { return status; }
  absl::StatusOr<std::span<float>> Logits(int64_t, int64_t) override { return std::span<float>(); }
  void BeginStep(const ForwardBatch& batch, std::span<const DrawRequest> draws, KvCache&) override {
    EXPECT_EQ(draws.size(), batch.logit_rows.size());
    batches.push_back(batch);
  }
  absl::StatusOr<std::vector<DrawResult>> EndStep() override {
    if (!status.ok()) return status;
    return std::vector<DrawResult>();
  }

  absl::Status status;
  std::vector<ForwardBatch> batches;

 private:
  const int64_t max_batch_rows_;
  const ModelInfo info_;
};

class WarmUpTest : public ::testing::Test {
 protected:
  absl::Status Run(const Backend& backend, int64_t max_sequences, KeepingModel* model) {
    const auto kv = *KvCache::Create(kShape, 1, &recording_, PlanFeatures::kNone);
    return WarmUp(backend, max_sequences, model, kv.get());
  }
  static std::vector<int64_t> Rows(const KeepingModel& model, bool prefill) {
    std::vector<int64_t> rows;
    for (const ForwardBatch& batch : model.batches) {
      if (batch.prefill_tiles.empty() != prefill) rows.push_back(batch.num_rows());
    }
    return rows;
  }

  DeviceFaults faults_;
  RecordingBackend recording_{&faults_};
};

TEST_F(WarmUpTest, RunsChunksUpToTheLargestAndEachRecordedStepThatSequencesCanFill) {
  KeepingModel model(300);
  ASSERT_TRUE(Run(recording_, 3, &model).ok());
  EXPECT_THAT(Rows(model, true), ElementsAre(32, 64, 128, 256, 300));
  EXPECT_THAT(Rows(model, false), ElementsAre(1, 2, 4));
}

TEST_F(WarmUpTest, NoStepIsLargerThanABatchOrAContextMayBe) {
  KeepingModel small(6);
  ASSERT_TRUE(Run(recording_, 6, &small).ok());
  EXPECT_THAT(Rows(small, true), ElementsAre(6));
  EXPECT_THAT(Rows(small, false), ElementsAre(1, 2, 4, 6));
  KeepingModel large(8192);
  ASSERT_TRUE(Run(recording_, 1, &large).ok());
  EXPECT_EQ(Rows(large, true).back(), kShape.max_context_tokens);
}

TEST_F(WarmUpTest, TouchesTheFirstTokenOfPageZeroAlone) {
  KeepingModel model(300);
  ASSERT_TRUE(Run(recording_, 8, &model).ok());
  for (const ForwardBatch& batch : model.batches) {
    for (const kernels::KvSlot& slot : batch.kv_slots) {
      EXPECT_EQ(slot.page, 0);
      EXPECT_EQ(slot.token, 0);
    }
    ASSERT_EQ(batch.entries.size(), 1u);
    EXPECT_EQ(batch.entries[0].page, 0);
    EXPECT_EQ(batch.entries[0].num_valid, 1);
    int64_t rows = 0;
    for (const kernels::PrefillTile& tile : batch.prefill_tiles) rows += tile.num_queries;
    EXPECT_EQ(rows + static_cast<int64_t>(batch.decode_rows.size()), batch.num_rows());
  }
}

TEST_F(WarmUpTest, EndsAtTheFirstStepThatFails) {
  KeepingModel model(300);
  model.status = absl::InternalError("lost");
  EXPECT_EQ(Run(recording_, 8, &model), model.status);
  EXPECT_EQ(model.batches.size(), 1u);
}

TEST_F(WarmUpTest, DoesNothingWhereStepsAreNotRecorded) {
  const auto cpu = *CpuBackend::Create({.num_threads = 1});
  KeepingModel model(300);
  ASSERT_TRUE(Run(*cpu, 8, &model).ok());
  EXPECT_THAT(model.batches, IsEmpty());
}

}  // namespace
}  // namespace farspan
