// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/model.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr int64_t kVocabSize = 10;

// Row r's likeliest token is r % kVocabSize. Writes down which slices were asked for.
class SlicedModel final : public Model {
 public:
  const ModelShape& shape() const override { return shape_; }
  const ModelInfo& info() const override { return info_; }
  int64_t max_batch_rows() const override { return 0; }
  absl::Status Forward(const ForwardBatch&, KvCache&) override { return absl::OkStatus(); }
  absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) override {
    slices.emplace_back(first, count);
    if (first >= fails_from_row) return absl::ResourceExhaustedError("planted lack of memory");
    logits_.assign(static_cast<size_t>(count * kVocabSize), 0);
    for (int64_t i = 0; i < count; ++i) {
      logits_[static_cast<size_t>(i * kVocabSize + (first + i) % kVocabSize)] =
          first + i == nan_row ? std::numeric_limits<float>::quiet_NaN() : 5;
    }
    return std::span<float>(logits_);
  }

  std::vector<std::pair<int64_t, int64_t>> slices;
  int64_t nan_row = -1;
  int64_t fails_from_row = std::numeric_limits<int64_t>::max();

 private:
  ModelShape shape_{};
  ModelInfo info_;
  std::vector<float> logits_;
};

std::vector<DrawRequest> GreedyRows(int64_t count) {
  std::vector<DrawRequest> requests;
  for (int64_t row = 0; row < count; ++row) {
    DrawRequest& request = requests.emplace_back();
    request.logit_row = row;
    request.sampling.temperature = 0;
  }
  return requests;
}

TEST(ModelDrawTest, ReadsEachRowOnceInSlices) {
  SlicedModel model;
  const auto results = model.Draw(GreedyRows(2 * kMaxLogitRows + 3));
  ASSERT_THAT(results, IsOk());
  for (size_t row = 0; row < results->size(); ++row) {
    ASSERT_THAT((*results)[row], IsOk());
    EXPECT_EQ((*results)[row]->token, static_cast<TokenId>(row) % kVocabSize);
  }
  EXPECT_THAT(model.slices,
              ElementsAre(Pair(0, kMaxLogitRows), Pair(kMaxLogitRows, kMaxLogitRows), Pair(2 * kMaxLogitRows, 3)));
}

TEST(ModelDrawTest, AsksForNoLogitsWhereEveryTokenIsGiven) {
  SlicedModel model;
  std::vector<DrawRequest> requests = GreedyRows(2);
  for (DrawRequest& request : requests) request.given_token = 7;
  const auto results = model.Draw(requests);
  ASSERT_THAT(results, IsOk());
  for (const DrawResult& result : *results) EXPECT_EQ(result->token, 7);
  EXPECT_THAT(model.slices, IsEmpty());
  EXPECT_THAT(*model.Draw({}), IsEmpty());
}

TEST(ModelDrawTest, AnUnsoundRowFailsAlone) {
  SlicedModel model;
  model.nan_row = 1;
  const auto results = model.Draw(GreedyRows(3));
  ASSERT_THAT(results, IsOk());
  EXPECT_THAT((*results)[0], IsOk());
  EXPECT_THAT((*results)[1], StatusIs(absl::StatusCode::kInternal, _));
  EXPECT_THAT((*results)[2], IsOk());
}

TEST(ModelDrawTest, LackOfMemoryForOneSliceFailsTheWholeDraw) {
  SlicedModel model;
  model.fails_from_row = kMaxLogitRows;
  EXPECT_THAT(model.Draw(GreedyRows(kMaxLogitRows + 1)), StatusIs(absl::StatusCode::kResourceExhausted, _));
}

}  // namespace
}  // namespace farspan
