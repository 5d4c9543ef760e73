// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "engine/kernels/weight_tiles.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels {
namespace {

constexpr WeightType kAllTypes[] = {WeightType::kF32,       WeightType::kBf16,   WeightType::kQ4_0,
                                    WeightType::kQ4_1,      WeightType::kQ8_0,   WeightType::kTiled4,
                                    WeightType::kTiled4Min, WeightType::kTiled5, WeightType::kTiled5Min,
                                    WeightType::kTiled6,    WeightType::kTiled8};

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
  const int64_t outputs = tiled ? kTileRows * random->Integer(1, 8) : random->Integer(1, 150);
  problem.weight = MakeWeight(type, outputs, columns, random);
  problem.num_rows = random->Integer(1, 20);
  problem.x = random->Reals(problem.num_rows * columns, -2, 2);
  problem.old_y = random->Reals(problem.num_rows * problem.weight.view.rows, -1, 1);
  problem.accumulate = random->OneIn(2);
  return problem;
}

std::vector<float> RunRows(const KernelTable& level, const Problem& problem, int64_t begin, int64_t end,
                           Random* random) {
  const WeightView& weight = problem.weight.view;
  std::vector<float> x(problem.x.begin() + begin * weight.columns, problem.x.begin() + end * weight.columns);
  std::vector<float> y(static_cast<size_t>((end - begin) * weight.rows), kNan);
  if (problem.accumulate)
    y.assign(problem.old_y.begin() + begin * weight.rows, problem.old_y.begin() + end * weight.rows);
  const LinearArgs args = {
      .x = x.data(), .weight = weight, .y = y.data(), .num_rows = end - begin, .accumulate = problem.accumulate};
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
          ASSERT_NEAR(y[static_cast<size_t>(i)], sum, 1e-6 * (magnitude + 1))
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

}  // namespace
}  // namespace farspan::kernels
