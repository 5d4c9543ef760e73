// SPDX-License-Identifier: Apache-2.0
// The ops that treat each row alone, on every ISA level, against float64.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {
namespace {

constexpr int kTrials = 20;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

TEST(EmbedTest, CopiesTheTokensRows) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (const WeightType type :
         {WeightType::kF32, WeightType::kBf16, WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ8_0}) {
      const int64_t width = 32 * random.Integer(1, 9), vocabulary = random.Integer(1, 40);
      const RandomWeight table = MakeWeight(type, vocabulary, width, &random);
      std::vector<int32_t> ids(Index(random.Integer(1, 70)));
      for (int32_t& id : ids) id = static_cast<int32_t>(random.Integer(0, vocabulary - 1));
      // Some rows name the place where their id was drawn.
      std::vector<int32_t> named = ids, drawn(ids.size(), -1);
      for (size_t row = 0; row < ids.size(); ++row) {
        if (!random.OneIn(3)) continue;
        const size_t slot = ids.size() - 1 - row;
        drawn[slot] = ids[row];
        named[row] = DrawnTokenId(static_cast<int64_t>(slot));
      }
      std::vector<float> out(ids.size() * Index(width), kNan);
      const EmbedArgs args = {.token_ids = named.data(),
                              .table = table.view,
                              .out = out.data(),
                              .num_rows = static_cast<int64_t>(ids.size()),
                              .drawn_token_ids = drawn.data()};
      RunShuffled(level->embed, args, &random);
      for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i) {
        const double expected = table.values[Index(ids[Index(i / width)] * width + i % width)];
        ASSERT_NEAR(out[Index(i)], expected, 1e-6) << level->name << " type " << static_cast<int>(type);
      }
    }
  }
}

TEST(RmsNormTest, MatchesFloat64AndRunsInPlace) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (int trial = 0; trial < kTrials; ++trial) {
      const int64_t width = random.Integer(1, 700), num_rows = random.Integer(1, 60);
      const std::vector<float> x = random.Reals(num_rows * width, -3, 3), weight = random.Reals(width, -2, 2);
      std::vector<float> out(x.size(), kNan), in_place = x;
      RmsNormArgs args = {x.data(), weight.data(), out.data(), num_rows, width, 1e-5f};
      RunShuffled(level->rms_norm, args, &random);
      args.x = args.out = in_place.data();
      RunShuffled(level->rms_norm, args, &random);
      EXPECT_TRUE(SameBits(out, in_place)) << level->name;
      for (int64_t row = 0; row < num_rows; ++row) {
        double squares = 0;
        for (int64_t i = 0; i < width; ++i) squares += std::pow(static_cast<double>(x[Index(row * width + i)]), 2);
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(1e-5f));
        for (int64_t i = 0; i < width; ++i) {
          const double expected = static_cast<double>(x[Index(row * width + i)]) * inverse * weight[Index(i)];
          ASSERT_NEAR(out[Index(row * width + i)], expected, 2e-6 * (std::fabs(expected) + 1e-3)) << level->name;
        }
      }
    }
  }
}

TEST(SiluMulTest, MatchesFloat64OverTheWholeRange) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    const int64_t width = random.Integer(1, 999), num_rows = 30;
    std::vector<float> gate = random.Reals(num_rows * width, -30, 30), up = random.Reals(num_rows * width, -3, 3);
    const float extremes[] = {0.0f, -0.0f, -87.0f, 88.0f, -88.8f, -104.0f, -1e30f, 1e30f};
    for (size_t i = 0; i < std::size(extremes); ++i) gate[i * 3] = extremes[i];
    const std::vector<float> before = gate;
    const SiluMulArgs args = {gate.data(), up.data(), num_rows, width};
    RunShuffled(level->silu_mul, args, &random);
    for (size_t i = 0; i < gate.size(); ++i) {
      const double x = before[i];
      const double expected = x / (1 + std::exp(-x)) * up[i];
      ASSERT_NEAR(gate[i], expected, 1e-6 * std::fabs(expected) + 1e-30) << level->name << " x=" << x;
    }
  }
}

TEST(RopeTest, TableIsExactAtFarPositions) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    const int64_t rope_dim = 2 * random.Integer(1, 64), num_rows = 50;
    std::vector<double> frequencies;
    for (int64_t i = 0; i < rope_dim / 2; ++i) frequencies.push_back(std::pow(1e5, -2.0 * static_cast<double>(i) / 64));
    std::vector<int64_t> positions;
    for (int64_t row = 0; row < num_rows; ++row) positions.push_back(random.Integer(0, 2'000'000));
    std::vector<float> cos_sin(Index(num_rows * rope_dim), kNan);
    const RopeTableArgs args = {positions.data(), frequencies.data(), cos_sin.data(), num_rows, rope_dim};
    RunShuffled(level->rope_table, args, &random);
    for (int64_t i = 0; i < num_rows * rope_dim; ++i) {
      const double angle = static_cast<double>(positions[Index(i / rope_dim)]) * frequencies[Index(i % rope_dim / 2)];
      ASSERT_NEAR(cos_sin[Index(i)], i % 2 == 0 ? std::cos(angle) : std::sin(angle), 1e-7) << level->name;
    }
  }
}

TEST(RopeTest, RotatesPairsAndLeavesTheOtherChannels) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (int trial = 0; trial < kTrials; ++trial) {
      const int64_t head_dim = 8 * random.Integer(1, 16), rope_dim = 2 * random.Integer(1, head_dim / 2);
      const int64_t num_rows = random.Integer(1, 40), num_heads = random.Integer(1, 9);
      std::vector<float> x = random.Reals(num_rows * num_heads * head_dim, -3, 3);
      const std::vector<float> before = x;
      std::vector<float> cos_sin;
      for (int64_t i = 0; i < num_rows * rope_dim / 2; ++i) {
        const float angle = random.Real(-4, 4);
        cos_sin.push_back(std::cos(angle));
        cos_sin.push_back(std::sin(angle));
      }
      const RopeArgs args = {x.data(), cos_sin.data(), num_rows, num_heads, head_dim, rope_dim};
      RunShuffled(level->rope, args, &random);
      for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i) {
        const int64_t channel = i % head_dim, row = i / head_dim / num_heads;
        if (channel >= rope_dim) {
          ASSERT_EQ(x[Index(i)], before[Index(i)]);
          continue;
        }
        const int64_t even = i - channel % 2, table = row * rope_dim + channel - channel % 2;
        const double a = before[Index(even)], b = before[Index(even + 1)];
        const double cos = cos_sin[Index(table)], sin = cos_sin[Index(table + 1)];
        ASSERT_NEAR(x[Index(i)], channel % 2 == 0 ? a * cos - b * sin : a * sin + b * cos, 1e-6) << level->name;
      }
    }
  }
}

TEST(KvAppendTest, WritesRoundedValuesToTheSlotsAndNothingElse) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (const KvElement element : kAllKvElements) {
      KvLayerView cache = {.element = element,
                           .num_pages = 7,
                           .num_kv_heads = random.Integer(1, 4),
                           .page_tokens = random.Integer(1, 17),
                           .head_dim = 8 * random.Integer(1, 12)};
      std::vector<uint8_t> bytes(Index(cache.num_pages * cache.page_elements() * cache.element_bytes()), 0xff);
      cache.data = bytes.data();
      std::vector<KvSlot> slots;
      for (int32_t page = 0; page < 7; ++page) {
        for (int32_t token = 0; token < cache.page_tokens; ++token) slots.push_back({page, token});
      }
      random.Shuffle(&slots);
      slots.resize(Index(random.Integer(1, static_cast<int64_t>(slots.size()))));
      const int64_t num_rows = static_cast<int64_t>(slots.size());
      const int64_t row_floats = cache.num_kv_heads * cache.head_dim;
      std::vector<float> k = random.Reals(num_rows * row_floats, -9, 9), v = random.Reals(num_rows * row_floats, -9, 9);
      for (const float beyond : {449.0f, -1e30f, 1e-3f, -1e-7f, INFINITY}) {
        k[Index(random.Integer(0, num_rows * row_floats - 1))] = beyond;
      }
      k[0] = kNan;
      v[0] = std::bit_cast<float>(0x7f800001u);
      const KvAppendArgs args = {k.data(), v.data(), slots.data(), cache, num_rows};
      RunShuffled(level->kv_append, args, &random);

      std::vector<uint8_t> expected(bytes.size(), 0xff);
      for (int64_t i = 0; i < num_rows * row_floats * 2; ++i) {
        const bool is_value = i >= num_rows * row_floats;
        const int64_t source = i % (num_rows * row_floats);
        const KvSlot slot = slots[Index(source / row_floats)];
        const int64_t head = source % row_floats / cache.head_dim, channel = source % cache.head_dim;
        const int64_t element_index =
            (((slot.page * cache.num_kv_heads + head) * 2 + (is_value ? 1 : 0)) * cache.page_tokens + slot.token) *
                cache.head_dim +
            channel;
        const float value = is_value ? v[Index(source)] : k[Index(source)];
        StoreKvElement(element, expected.data(), element_index, value);
      }
      EXPECT_EQ(bytes, expected) << level->name;
    }
  }
}

}  // namespace
}  // namespace farspan::kernels
