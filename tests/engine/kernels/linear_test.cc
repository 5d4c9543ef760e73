// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/kernels/weight_panels.h"
#include "engine/kernels/weight_tiles.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {
namespace {

constexpr WeightType kAllTypes[] = {
    WeightType::kF32,    WeightType::kBf16,      WeightType::kQ4_0,      WeightType::kQ4_1,      WeightType::kQ8_0,
    WeightType::kTiled4, WeightType::kTiled4Min, WeightType::kTiled5,    WeightType::kTiled5Min, WeightType::kTiled6,
    WeightType::kTiled8, WeightType::kPanel4,    WeightType::kPanel4Min, WeightType::kPanel8};

struct Problem {
  RandomWeight weight;
  std::vector<float> x;
  std::vector<float> old_y;
  int64_t num_rows;
  bool accumulate;
};

Problem MakeProblem(WeightType type, Random* random) {
  const bool quantised = type != WeightType::kF32 && type != WeightType::kBf16;
  const bool tiled = IsTiled(type);
  const int64_t columns = tiled       ? kTileColumns * random->Integer(1, 8)
                          : quantised ? 32 * random->Integer(1, 20)
                                      : random->Integer(1, 300);
  Problem problem;
  const bool in_sixteens = tiled || IsPanel(type);
  const int64_t outputs = in_sixteens ? kTileRows * random->Integer(1, 8) : random->Integer(1, 150);
  problem.weight = MakeWeight(type, outputs, columns, random);
  problem.num_rows = random->Integer(1, 20);
  problem.x = random->Reals(problem.num_rows * columns, -2, 2);
  problem.old_y = random->Reals(problem.num_rows * problem.weight.view.rows, -1, 1);
  problem.accumulate = random->OneIn(2);
  return problem;
}

// Whether the level multiplies such weights by packed rows.
bool Packs(const KernelTable& level, WeightType type) { return level.pack_rows.run != nullptr && IsPanel(type); }

// What packing may change: half a scale of each block, once for each weight.
double PackingError(const Problem& problem, int64_t row, int64_t output) {
  const int64_t columns = problem.weight.view.columns;
  double error = 0;
  for (int64_t begin = 0; begin < columns; begin += kQuantBlock) {
    double largest = 0, weights = 0;
    for (int64_t k = begin; k < begin + kQuantBlock; ++k) {
      largest = std::max(largest, std::fabs(static_cast<double>(problem.x[static_cast<size_t>(row * columns + k)])));
      weights += std::fabs(problem.weight.values[static_cast<size_t>(output * columns + k)]);
    }
    error += largest * 0x1p-15 / 2 * weights;
  }
  return error;
}

std::vector<float> RunRows(const KernelTable& level, const Problem& problem, int64_t begin, int64_t end,
                           Random* random) {
  const WeightView& weight = problem.weight.view;
  std::vector<float> x(problem.x.begin() + begin * weight.columns, problem.x.begin() + end * weight.columns);
  std::vector<float> y(static_cast<size_t>((end - begin) * weight.rows), kNan);
  if (problem.accumulate)
    y.assign(problem.old_y.begin() + begin * weight.rows, problem.old_y.begin() + end * weight.rows);
  LinearArgs args = {
      .x = x.data(), .weight = weight, .y = y.data(), .num_rows = end - begin, .accumulate = problem.accumulate};
  std::vector<uint8_t> packed;
  if (Packs(level, weight.type)) {
    packed.assign(static_cast<size_t>((end - begin) * PackedRowBytes(weight.columns)), 0xff);
    args.packed_x = packed.data();
    const PackRowsArgs rows = {
        .x = x.data(), .num_rows = end - begin, .columns = weight.columns, .packed = packed.data()};
    RunShuffled(level.pack_rows, rows, random);
  }
  RunShuffled(level.linear, args, random);
  return y;
}

TEST(LinearTest, MatchesFloat64ForEveryWeightType) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (const WeightType type : kAllTypes) {
      for (int trial = 0; trial < 12; ++trial) {
        const Problem problem = MakeProblem(type, &random);
        const std::vector<float> y = RunRows(*level, problem, 0, problem.num_rows, &random);
        const int64_t outputs = problem.weight.view.rows, columns = problem.weight.view.columns;
        for (int64_t i = 0; i < problem.num_rows * outputs; ++i) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < columns; ++k) {
            const double product = static_cast<double>(problem.x[static_cast<size_t>(i / outputs * columns + k)]) *
                                   problem.weight.values[static_cast<size_t>(i % outputs * columns + k)];
            sum += product;
            magnitude += std::fabs(product);
          }
          if (problem.accumulate) sum += static_cast<double>(problem.old_y[static_cast<size_t>(i)]);
          const double packing = Packs(*level, type) ? 1.01 * PackingError(problem, i / outputs, i % outputs) : 0;
          ASSERT_NEAR(y[static_cast<size_t>(i)], sum, packing + 1e-6 * (magnitude + 1))
              << level->name << " type " << static_cast<int>(type) << " rows " << problem.num_rows << " outputs "
              << outputs << " columns " << columns << " at " << i;
        }
      }
    }
  }
}

TEST(LinearTest, RowIsTheSameAloneAndInAnyBatch) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (const WeightType type : kAllTypes) {
      for (int trial = 0; trial < 12; ++trial) {
        const Problem problem = MakeProblem(type, &random);
        const int64_t outputs = problem.weight.view.rows;
        const std::vector<float> whole = RunRows(*level, problem, 0, problem.num_rows, &random);
        for (int64_t begin = 0; begin < problem.num_rows;) {
          const int64_t end = std::min(problem.num_rows, begin + random.Integer(1, 6));
          const std::vector<float> part = RunRows(*level, problem, begin, end, &random);
          const std::vector<float> expected(whole.begin() + begin * outputs, whole.begin() + end * outputs);
          ASSERT_TRUE(SameBits(part, expected))
              << level->name << " type " << static_cast<int>(type) << " rows [" << begin << ", " << end << ") of "
              << problem.num_rows << " outputs " << outputs << " columns " << problem.weight.view.columns;
          begin = end;
        }
      }
    }
  }
}

TEST(LinearTest, ARowThatIsNotFiniteTouchesNoOther) {
  Random random;
  for (const KernelTable* level : KernelLevels()) {
    for (const WeightType type : {WeightType::kPanel4, WeightType::kPanel4Min, WeightType::kPanel8}) {
      Problem problem = MakeProblem(type, &random);
      problem.num_rows = 3;
      const int64_t columns = problem.weight.view.columns, outputs = problem.weight.view.rows;
      problem.x = random.Reals(3 * columns, -2, 2);
      problem.old_y = random.Reals(3 * outputs, -1, 1);
      const float bad = random.OneIn(2) ? kNan : std::numeric_limits<float>::infinity();
      problem.x[static_cast<size_t>(columns + random.Integer(0, columns - 1))] = bad;
      const std::vector<float> y = RunRows(*level, problem, 0, 3, &random);
      for (int64_t i = 0; i < 3 * outputs; ++i) {
        const bool finite = std::isfinite(y[static_cast<size_t>(i)]);
        // A weight may be zero: infinity times it is a NaN, and infinity times another an infinity.
        ASSERT_EQ(finite, i / outputs != 1) << level->name << " type " << static_cast<int>(type) << " at " << i;
      }
    }
  }
}

}  // namespace
}  // namespace farspan::kernels
