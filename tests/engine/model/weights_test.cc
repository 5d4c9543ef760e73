// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>

#include "engine/backend/cpu_backend.h"
#include "engine/model/dequantize.h"
#include "tests/engine/model/dequantize_golden.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using kernels::WeightType;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class WeightLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override { backend_ = *CpuBackend::Create({.isa = CpuIsa::kPortable}); }

  // A loader over one tensor.
  WeightLoader& LoaderOf(std::vector<int64_t> shape, GgufTensorType type, std::string data) {
    GgufWriter writer;
    writer.AddTensor("blk.0.w", std::move(shape), type, std::move(data));
    bytes_ = writer.Finish();
    file_.emplace(*GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes_)))));
    loader_.emplace(&*file_, backend_.get());
    return *loader_;
  }

  std::vector<float> Wave(size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = std::sin(0.37f * static_cast<float>(i));
    return values;
  }

  std::unique_ptr<Backend> backend_;
  std::string bytes_;
  std::optional<GgufFile> file_;
  std::optional<WeightLoader> loader_;
};

TEST_F(WeightLoaderTest, TypesThatKernelsMultiplyKeepTheirBytes) {
  for (const auto& [type, resident] :
       {std::pair(GgufTensorType::kF32, WeightType::kF32), std::pair(GgufTensorType::kBf16, WeightType::kBf16),
        std::pair(GgufTensorType::kQ4_0, WeightType::kQ4_0), std::pair(GgufTensorType::kQ4_1, WeightType::kQ4_1),
        std::pair(GgufTensorType::kQ8_0, WeightType::kQ8_0)}) {
    const std::string data = EncodeTensor(type, Wave(3 * 64));
    const absl::StatusOr<kernels::WeightView> view = LoaderOf({3, 64}, type, data).LoadMatrix("blk.0.w", 3, 64);
    ASSERT_THAT(view, IsOk());
    EXPECT_EQ(view->type, resident);
    EXPECT_EQ(std::memcmp(view->data, data.data(), data.size()), 0);
    EXPECT_EQ(loader_->size_bytes(), static_cast<int64_t>(data.size()));
    EXPECT_EQ(loader_->num_parameters(), 3 * 64);
  }
}

TEST_F(WeightLoaderTest, OtherTypesAreWidenedToBf16) {
  std::map<GgufTensorType, std::vector<GoldenRow>> rows_by_type;
  for (GoldenRow& row : ReadDequantizeGolden()) rows_by_type[row.type].push_back(std::move(row));
  for (const GgufTensorType type : {GgufTensorType::kF16, GgufTensorType::kQ5_0, GgufTensorType::kQ5_1,
                                    GgufTensorType::kQ4_K, GgufTensorType::kQ5_K, GgufTensorType::kQ6_K}) {
    std::string data;
    std::vector<float> values;
    for (const GoldenRow& row : rows_by_type[type]) {
      data += row.bytes;
      values.insert(values.end(), row.values.begin(), row.values.end());
    }
    const auto num_rows = static_cast<int64_t>(rows_by_type[type].size());
    const int64_t columns = static_cast<int64_t>(values.size()) / num_rows;
    const absl::StatusOr<kernels::WeightView> view =
        LoaderOf({num_rows, columns}, type, data).LoadMatrix("blk.0.w", num_rows, columns);
    ASSERT_THAT(view, IsOk());
    EXPECT_EQ(view->type, WeightType::kBf16);
    const auto* widened = static_cast<const uint16_t*>(view->data);
    // bf16 keeps eight bits; a value may differ in its last float32 bit, or more where two terms cancel.
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(Bf16ToFloat(widened[i]), values[i], 4e-3f * std::fabs(values[i]) + 1e-6f) << TraitsOf(type).name;
    }
  }
}

TEST_F(WeightLoaderTest, AMatrixLargerThanASliceArrivesWhole) {
  constexpr int64_t kRows = 3000, kColumns = 1024;  // 12 MB as F32, 6 MB of bf16 from F16
  std::vector<float> values(kRows * kColumns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 251) - 125.0f;
  const std::string data = EncodeTensor(GgufTensorType::kF16, values);
  const absl::StatusOr<kernels::WeightView> view =
      LoaderOf({kRows, kColumns}, GgufTensorType::kF16, data).LoadMatrix("blk.0.w", kRows, kColumns);
  ASSERT_THAT(view, IsOk());
  const auto* widened = static_cast<const uint16_t*>(view->data);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(Bf16ToFloat(widened[i]), values[i]) << i;
}

TEST_F(WeightLoaderTest, VectorsBecomeFloat32) {
  const std::vector<float> values = {1.0f, -0.5f, 2.0f};
  const absl::StatusOr<const float*> vector =
      LoaderOf({3}, GgufTensorType::kBf16, EncodeTensor(GgufTensorType::kBf16, values)).LoadVector("blk.0.w", 3);
  ASSERT_THAT(vector, IsOk());
  EXPECT_THAT(std::vector<float>(*vector, *vector + 3), ::testing::ElementsAreArray(values));
}

TEST_F(WeightLoaderTest, AShapeUnlikeTheConfigIsRefusedWithBothShapes) {
  WeightLoader& loader = LoaderOf({3, 64}, GgufTensorType::kF32, EncodeTensor(GgufTensorType::kF32, Wave(3 * 64)));
  EXPECT_THAT(loader.LoadMatrix("blk.0.w", 64, 3), StatusIs(kInvalid, "tensor blk.0.w: expected [64, 3], got [3, 64]"));
  EXPECT_THAT(loader.LoadVector("blk.0.w", 192), StatusIs(kInvalid, "tensor blk.0.w: expected [192], got [3, 64]"));
  EXPECT_THAT(loader.LoadMatrix("blk.1.w", 3, 64),
              StatusIs(kInvalid, "tensor blk.1.w: expected [3, 64], got no such tensor"));
}

TEST_F(WeightLoaderTest, NanAndInfinityAreRefusedWithTheTensorAndRow) {
  constexpr uint16_t kNanF16 = 0x7e00;
  constexpr uint32_t kInfF32 = 0x7f800000;
  const std::vector<float> values = Wave(2 * 64);
  for (const GgufTensorType type :
       {GgufTensorType::kF16, GgufTensorType::kQ4_0, GgufTensorType::kQ4_1, GgufTensorType::kQ8_0}) {
    std::string data = EncodeTensor(type, values);
    std::memcpy(data.data() + data.size() / 2, &kNanF16, sizeof(kNanF16));
    EXPECT_THAT(LoaderOf({2, 64}, type, data).LoadMatrix("blk.0.w", 2, 64),
                StatusIs(kInvalid, "tensor blk.0.w: expected finite values, got NaN or infinity in row 1"));
  }
  std::string data = EncodeTensor(GgufTensorType::kF32, values);
  std::memcpy(data.data() + 4 * 64, &kInfF32, sizeof(kInfF32));
  EXPECT_THAT(LoaderOf({2, 64}, GgufTensorType::kF32, data).LoadMatrix("blk.0.w", 2, 64),
              StatusIs(kInvalid, HasSubstr("infinity in row 1")));
  EXPECT_THAT(LoaderOf({128}, GgufTensorType::kF32, data).LoadVector("blk.0.w", 128),
              StatusIs(kInvalid, HasSubstr("tensor blk.0.w: expected finite values")));
}

TEST_F(WeightLoaderTest, ATensorThatNobodyAskedForIsRefused) {
  WeightLoader& loader = LoaderOf({3}, GgufTensorType::kF32, EncodeTensor(GgufTensorType::kF32, Wave(3)));
  EXPECT_THAT(loader.Finish(), StatusIs(kInvalid, HasSubstr("tensor blk.0.w: expected only tensors")));
  ASSERT_THAT(loader.LoadVector("blk.0.w", 3), IsOk());
  EXPECT_THAT(loader.Finish(), IsOk());
}

TEST_F(WeightLoaderTest, TheContentHashTellsWeightsApart) {
  const auto hash_of = [this](const std::vector<float>& values) {
    WeightLoader& loader = LoaderOf({4}, GgufTensorType::kF32, EncodeTensor(GgufTensorType::kF32, values));
    EXPECT_THAT(loader.LoadVector("blk.0.w", 4), IsOk());
    return loader.content_hash().Hex();
  };
  EXPECT_EQ(hash_of({1, 2, 3, 4}), hash_of({1, 2, 3, 4}));
  EXPECT_NE(hash_of({1, 2, 3, 4}), hash_of({1, 2, 4, 3}));
  EXPECT_EQ(hash_of({1, 2, 3, 4}).size(), 32u);
}

}  // namespace
}  // namespace farspan
