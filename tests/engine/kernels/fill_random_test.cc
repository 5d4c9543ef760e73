// SPDX-License-Identifier: Apache-2.0
// Random fills: bits that were computed apart from the code, the promised range and spread, and no value that depends
// on how the work is cut.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {
namespace {

std::vector<uint8_t> Fill(RandomFormat format, int64_t size_bytes, int64_t num_values, uint64_t key, int exponent) {
  Random random;
  std::vector<uint8_t> bytes(static_cast<size_t>(size_bytes), 0xff);
  RunShuffled(PortableKernels().fill_random,
              FillRandomArgs{
                  .data = bytes.data(), .format = format, .num_values = num_values, .key = key, .exponent = exponent},
              &random);
  return bytes;
}

template <typename T>
T At(const std::vector<uint8_t>& bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

TEST(FillRandomTest, BitsAreThoseOfTheDefinition) {
  const float floats[] = {0.02699756622314453f,   0.011698722839355469f,   0.012243270874023438f,
                          -0.016152381896972656f, -0.0036592483520507812f, -0.018945693969726562f};
  const uint16_t bf16s[] = {0x3cdd, 0x3c40, 0x3c49, 0xbc84, 0xbb70, 0xbc9b};
  const auto f32 = Fill(RandomFormat::kF32, 6 * 4, 6, 42, -5);
  const auto bf16 = Fill(RandomFormat::kBf16, 6 * 2, 6, 42, -5);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(At<float>(f32, i), floats[i]) << i;
    EXPECT_EQ(At<uint16_t>(bf16, i), bf16s[i]) << i;
  }
  const auto f16 = Fill(RandomFormat::kF16, 4 * 2, 4, 42, -5);
  const auto fp8 = Fill(RandomFormat::kF8E4M3, 1000, 1000, 42, 2);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(At<uint16_t>(f16, i), FloatToHalf(floats[i])) << i;
  const auto wide = Fill(RandomFormat::kF32, 4000, 1000, 42, 2);
  for (size_t i = 0; i < 1000; ++i) EXPECT_EQ(fp8[i], FloatToFp8(At<float>(wide, i))) << i;
  const auto q8_0 = Fill(RandomFormat::kQ8_0, 2 * kQ80BlockBytes, 64, 42, -5);
  EXPECT_EQ(At<uint16_t>(q8_0, 17), 0x0cb9);
  EXPECT_EQ(At<uint16_t>(q8_0, 18), 0x7dd5);
  EXPECT_EQ(At<uint16_t>(q8_0, 19), 0x0b3d);
}

// Weights as random networks have them: 2^-5 for a standard deviation of about 0.02.
TEST(FillRandomTest, ValuesFillTheirRangeWithTheSpreadOfAUniform) {
  constexpr int64_t kRows = 64, kColumns = 1024;
  const std::pair<RandomFormat, WeightType> formats[] = {{RandomFormat::kF32, WeightType::kF32},
                                                         {RandomFormat::kBf16, WeightType::kBf16},
                                                         {RandomFormat::kQ4_0, WeightType::kQ4_0},
                                                         {RandomFormat::kQ8_0, WeightType::kQ8_0}};
  for (const auto& [format, type] : formats) {
    const auto bytes = Fill(format, kRows * WeightRowBytes(type, kColumns), kRows * kColumns, 7, -5);
    std::vector<int32_t> rows(kRows);
    for (int32_t i = 0; i < kRows; ++i) rows[static_cast<size_t>(i)] = i;
    std::vector<float> values(kRows * kColumns, kNan);
    const EmbedArgs embed = {.token_ids = rows.data(),
                             .table = {.data = bytes.data(), .type = type, .rows = kRows, .columns = kColumns},
                             .out = values.data(),
                             .num_rows = kRows};
    Random random;
    RunShuffled(PortableKernels().embed, embed, &random);
    double sum = 0, squares = 0;
    for (const float value : values) {
      ASSERT_LE(std::fabs(value), 1.5f / 32) << static_cast<int>(format);
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    const auto count = static_cast<double>(values.size());
    EXPECT_NEAR(sum / count, 0, 3e-3) << static_cast<int>(format);
    EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.004) << static_cast<int>(format);
  }
}

TEST(FillRandomTest, AKeyOfItsOwnMakesOtherValuesAndAPrefixTheSame) {
  const auto one = Fill(RandomFormat::kBf16, 2000, 1000, 1, 0);
  const auto other = Fill(RandomFormat::kBf16, 2000, 1000, 2, 0);
  const auto prefix = Fill(RandomFormat::kBf16, 2 * 77, 77, 1, 0);
  int equal = 0;
  for (size_t i = 0; i < 1000; ++i) equal += At<uint16_t>(one, i) == At<uint16_t>(other, i) ? 1 : 0;
  EXPECT_LT(equal, 20);
  EXPECT_TRUE(std::equal(prefix.begin(), prefix.end(), one.begin()));
}

}  // namespace
}  // namespace farspan::kernels
