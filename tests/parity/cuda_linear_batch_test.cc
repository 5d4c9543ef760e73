// SPDX-License-Identifier: Apache-2.0
// A row's products on CUDA have the same bits whatever rows stand beside it.
#include <functional>

#include "tests/parity/cuda_linear_fixture.h"

namespace farspan::kernels::cuda {
namespace {

// Every product on rows [first, first + rows) of kMaxStreamedRows: its outputs row by row, as the bits of float32.
class CudaLinearBatchTest : public CudaLinearTest {
 protected:
  using Run = std::function<std::vector<float>(int64_t first, int64_t rows)>;

  void ExpectSameBitsInAnyBatch(const char* what, const Shape& shape, const Run& run) {
    for (int64_t rows = 1; rows <= kMaxStreamedRows; ++rows) {
      const std::vector<float> together = run(0, rows);
      const int64_t row = random_.Integer(0, rows - 1), width = static_cast<int64_t>(together.size()) / rows;
      const std::vector<float> own(together.begin() + row * width, together.begin() + (row + 1) * width);
      ASSERT_TRUE(SameBits(run(row, 1), own)) << what << ": row " << row << " of " << rows << ", type "
                                              << static_cast<int>(type_) << ", columns " << shape.columns;
    }
  }

  NormedRows RowsFrom(const Stream& stream, const uint16_t* normed, int64_t first) const {
    if (normed != nullptr) return {.normed = normed + first * stream.columns};
    NormedRows rows = stream.on_device;
    rows.hidden += first * stream.columns;
    return rows;
  }

  void CheckShape(const Shape& shape) {
    const RandomWeight weight = Weight(shape), other = Weight(shape);
    const WeightView view = OnDevice(weight), partner = OnDevice(other);
    const uint16_t* x = Put(RandomBf16(kMaxStreamedRows * shape.columns));
    const Stream stream = MakeStream(kMaxStreamedRows, shape.columns);
    ExpectSameBitsInAnyBatch("added", shape, [&](int64_t first, int64_t rows) {
      float* hidden = Put(std::vector<float>(static_cast<size_t>(rows * shape.outputs)));
      EXPECT_EQ(LaunchAddLinear({.x = x + first * shape.columns, .weight = view, .hidden = hidden, .num_rows = rows},
                                nullptr),
                cudaSuccess);
      return Get(hidden, static_cast<size_t>(rows * shape.outputs));
    });
    for (const uint16_t* normed : {static_cast<const uint16_t*>(nullptr), x}) {
      if (normed == nullptr && shape.columns > 8192) continue;  // such rows are normed before
      ExpectSameBitsInAnyBatch("normed", shape, [&](int64_t first, int64_t rows) {
        auto* y = Put(PoisonBf16(rows * 2 * shape.outputs));
        EXPECT_EQ(LaunchNormLinear({.input = RowsFrom(stream, normed, first),
                                    .weights = {view, partner},
                                    .num_weights = 2,
                                    .y = y,
                                    .num_rows = rows},
                                   nullptr),
                  cudaSuccess);
        return GetBf16(y, rows * 2 * shape.outputs);
      });
      ExpectSameBitsInAnyBatch("gated", shape, [&](int64_t first, int64_t rows) {
        auto* inner = Put(PoisonBf16(rows * shape.outputs));
        EXPECT_EQ(LaunchNormGateUp({.input = RowsFrom(stream, normed, first),
                                    .gate = view,
                                    .up = partner,
                                    .inner = inner,
                                    .num_rows = rows},
                                   nullptr),
                  cudaSuccess);
        return GetBf16(inner, rows * shape.outputs);
      });
      ExpectSameBitsInAnyBatch("logits", shape, [&](int64_t first, int64_t rows) {
        float* logits = Put(Poison(rows * shape.outputs));
        const NormedRows input = RowsFrom(stream, normed, first);
        EXPECT_EQ(LaunchLogits({.hidden = input.hidden,
                                .rows = nullptr,
                                .norm_weight = input.weight,
                                .epsilon = kEpsilon,
                                .weight = view,
                                .normed = const_cast<void*>(input.normed),
                                .logits = logits,
                                .num_rows = rows},
                               nullptr),
                  cudaSuccess);
        return Get(logits, static_cast<size_t>(rows * shape.outputs));
      });
    }
  }
};

TEST_F(CudaLinearBatchTest, ARowHasTheSameBitsAloneAndInAnyBatch) {
  for (const WeightType type : kStreamedTypes) {
    type_ = type;
    CheckShape(RandomShape());
    CheckShape(random_.OneIn(2) ? Shape{64, 4096} : Shape{48, 14336});
    if (HasFatalFailure()) return;
    buffers_.clear();
  }
}

}  // namespace
}  // namespace farspan::kernels::cuda
