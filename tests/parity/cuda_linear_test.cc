// SPDX-License-Identifier: Apache-2.0
// The products of a layer on CUDA against float64 on the host, on fresh random inputs with poisoned outputs.
#include "engine/backend/cuda_gemm.h"
#include "tests/parity/cuda_linear_fixture.h"

namespace farspan::kernels::cuda {
namespace {

TEST_F(CudaLinearTest, JoinedProductsOfNormedRows) {
  for (int trial = 0; trial < 40; ++trial) {
    type_ = RandomType();
    const int64_t rows = random_.Integer(1, kMaxStreamedRows), columns = 64 * random_.Integer(1, 25);
    const Stream stream = MakeStream(rows, columns);
    NormLinearArgs args = {.input = stream.on_device, .weights = {}, .num_weights = 3, .y = nullptr, .num_rows = rows};
    std::vector<RandomWeight> weights;
    int64_t outputs = 0;
    for (int64_t i = 0; i < args.num_weights; ++i) {
      if (random_.OneIn(4)) type_ = RandomType();
      weights.push_back(Weight({RandomOutputs(120), columns}));
      args.weights[i] = OnDevice(weights.back());
      outputs += weights.back().view.rows;
    }
    auto* y = Put(PoisonBf16(rows * outputs));
    args.y = y;
    ASSERT_EQ(LaunchNormLinear(args, nullptr), cudaSuccess);
    const std::vector<float> got = GetBf16(y, rows * outputs);
    for (int64_t row = 0; row < rows; ++row) {
      const NormedRow x = stream.Normed(row);
      int64_t at = row * outputs;
      for (const RandomWeight& weight : weights) {
        for (int64_t n = 0; n < weight.view.rows; ++n, ++at) {
          const Product expected = Multiply(x, weight, n);
          ASSERT_NEAR(got[static_cast<size_t>(at)], expected.sum, Bf16Bound(expected))
              << rows << " rows of " << columns << " at " << at;
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, GatedProductsOfNormedRows) {
  for (int trial = 0; trial < 40; ++trial) {
    type_ = RandomType();
    const int64_t rows = random_.Integer(1, kMaxStreamedRows);
    const Shape shape = RandomShape();
    const Stream stream = MakeStream(rows, shape.columns);
    const RandomWeight gate = Weight(shape), up = Weight(shape);
    auto* inner = Put(PoisonBf16(rows * shape.outputs));
    ASSERT_EQ(
        LaunchNormGateUp(
            {.input = stream.on_device, .gate = OnDevice(gate), .up = OnDevice(up), .inner = inner, .num_rows = rows},
            nullptr),
        cudaSuccess);
    const std::vector<float> got = GetBf16(inner, rows * shape.outputs);
    for (int64_t at = 0; at < rows * shape.outputs; ++at) {
      const NormedRow x = stream.Normed(at / shape.outputs);
      const Product g = Multiply(x, gate, at % shape.outputs), u = Multiply(x, up, at % shape.outputs);
      const double silu = g.sum / (1 + std::exp(-g.sum)), value = silu * u.sum;
      // silu is nowhere steeper than 1.1.
      const double error = 1.1 * g.error * std::fabs(u.sum) + (std::fabs(silu) + g.error) * u.error;
      const double bound = error + (kBf16Error + kFactorError) * std::fabs(value);
      ASSERT_NEAR(got[static_cast<size_t>(at)], value, bound * (1 + kBf16Error)) << "at " << at;
    }
  }
}

TEST_F(CudaLinearTest, ProductsAddedToTheResidualStream) {
  std::vector<std::pair<WeightType, Shape>> cases;
  for (const WeightType type : kStreamedTypes) {
    type_ = type;
    for (const Shape& shape : {Shape{576, 576}, Shape{192, 1536}, Shape{32, 14336}, RandomShape(), RandomShape()}) {
      cases.emplace_back(type, shape);
    }
  }
  for (const auto& [type, shape] : cases) {
    type_ = type;
    const int64_t rows = random_.Integer(1, kMaxStreamedRows);
    const RandomWeight weight = Weight(shape);
    const std::vector<uint16_t> x = RandomBf16(rows * shape.columns);
    const std::vector<float> old = random_.Reals(rows * shape.outputs, -1, 1);
    float* hidden = Put(old);
    ASSERT_EQ(LaunchAddLinear({.x = Put(x), .weight = OnDevice(weight), .hidden = hidden, .num_rows = rows}, nullptr),
              cudaSuccess);
    const std::vector<float> got = Get(hidden, old.size());
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<double> values = RowOf(x, row, shape.columns);
      for (int64_t n = 0; n < shape.outputs; ++n) {
        const auto at = static_cast<size_t>(row * shape.outputs + n);
        const Product expected = Multiply(values, weight, n);
        ASSERT_NEAR(got[at], expected.sum + old[at], expected.error + 0x1p-23 * std::fabs(expected.sum + old[at]))
            << rows << " x " << shape.outputs << " x " << shape.columns << " at " << at;
      }
    }
  }
}

TEST_F(CudaLinearTest, LogitsOfChosenRows) {
  for (int trial = 0; trial < 30; ++trial) {
    type_ = RandomType();
    const int64_t rows = random_.Integer(1, kMaxStreamedRows), hidden_rows = rows + random_.Integer(0, 20);
    const Shape shape = RandomShape();
    const Stream stream = MakeStream(hidden_rows, shape.columns);
    const RandomWeight weight = Weight(shape);
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < rows; ++i) chosen.push_back(random_.Integer(0, hidden_rows - 1));
    float* logits = Put(Poison(rows * shape.outputs));
    ASSERT_EQ(LaunchLogits({.hidden = stream.on_device.hidden,
                            .rows = Put(chosen),
                            .norm_weight = stream.on_device.weight,
                            .epsilon = kEpsilon,
                            .weight = OnDevice(weight),
                            .normed = nullptr,
                            .logits = logits,
                            .num_rows = rows},
                           nullptr),
              cudaSuccess);
    const std::vector<float> got = Get(logits, static_cast<size_t>(rows * shape.outputs));
    for (int64_t at = 0; at < rows * shape.outputs; ++at) {
      const NormedRow x = stream.Normed(chosen[static_cast<size_t>(at / shape.outputs)]);
      const Product expected = Multiply(x, weight, at % shape.outputs);
      ASSERT_NEAR(got[static_cast<size_t>(at)], expected.sum, expected.error) << "at " << at;
    }
  }
}

TEST_F(CudaLinearTest, ShapesBeyondTheKernelAreRefused) {
  const AddLinearArgs right = {
      .x = nullptr, .weight = {.type = WeightType::kBf16, .rows = 8, .columns = 64}, .hidden = nullptr, .num_rows = 1};
  AddLinearArgs wrong = right;
  wrong.weight.columns = 60;
  EXPECT_EQ(LaunchAddLinear(wrong, nullptr), cudaErrorInvalidValue);
  wrong = right;
  wrong.num_rows = kMaxStreamedRows + 1;
  EXPECT_EQ(LaunchAddLinear(wrong, nullptr), cudaErrorInvalidValue);
}

TEST_F(CudaLinearTest, NormedRowsMayBeGiven) {
  for (int trial = 0; trial < 20; ++trial) {
    type_ = RandomType();
    const int64_t rows = random_.Integer(1, kMaxStreamedRows);
    const Shape shape = RandomShape();
    const RandomWeight weight = Weight(shape);
    const std::vector<uint16_t> x = RandomBf16(rows * shape.columns);
    auto* y = Put(PoisonBf16(rows * shape.outputs));
    const NormLinearArgs args = {
        .input = {.normed = Put(x)}, .weights = {OnDevice(weight)}, .num_weights = 1, .y = y, .num_rows = rows};
    ASSERT_EQ(LaunchNormLinear(args, nullptr), cudaSuccess);
    const std::vector<float> got = GetBf16(y, rows * shape.outputs);
    for (int64_t at = 0; at < rows * shape.outputs; ++at) {
      const Product expected = Multiply(RowOf(x, at / shape.outputs, shape.columns), weight, at % shape.outputs);
      ASSERT_NEAR(got[static_cast<size_t>(at)], expected.sum, Bf16Bound(expected)) << "at " << at;
    }
  }
}

TEST_F(CudaLinearTest, TilesToBf16) {
  for (const WeightType type : kStreamedTypes) {
    if (!IsTiled(type)) continue;
    type_ = type;
    const Shape shape = {64, RandomColumns(1600)};
    const RandomWeight weight = Weight(shape);
    const int64_t first = 16 * random_.Integer(0, 3), rows = 64 - first;
    auto* out = Put(PoisonBf16(rows * shape.columns));
    ASSERT_EQ(LaunchDequantize({.weight = OnDevice(weight), .first_row = first, .num_rows = rows, .out = out}, nullptr),
              cudaSuccess);
    const std::vector<float> got = GetBf16(out, rows * shape.columns);
    for (size_t i = 0; i < got.size(); ++i) {
      const double expected = weight.values[static_cast<size_t>(first * shape.columns) + i];
      ASSERT_NEAR(got[i], expected, kBf16Error * (1 + kFactorError) * std::fabs(expected) + 1e-30)
          << static_cast<int>(type) << " at " << i;
    }
  }
}

TEST_F(CudaLinearTest, NormedAndGatedRows) {
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t rows = random_.Integer(1, 70), width = 8 * random_.Integer(1, 1100);
    const Stream stream = MakeStream(rows, width);
    auto* normed = Put(PoisonBf16(rows * width));
    ASSERT_EQ(LaunchNormRows({.input = stream.on_device, .out = normed, .num_rows = rows, .width = width}, nullptr),
              cudaSuccess);
    const std::vector<float> got = GetBf16(normed, rows * width);
    for (int64_t row = 0; row < rows; ++row) {
      const double factor = stream.Normed(row).factor;
      for (int64_t i = 0; i < width; ++i) {
        const auto at = static_cast<size_t>(row * width + i);
        const double value = factor * stream.hidden[at] * stream.norm[static_cast<size_t>(i)];
        ASSERT_NEAR(got[at], value, (kBf16Error + kFactorError) * std::fabs(value) + 1e-30);
      }
    }
    const std::vector<uint16_t> gate_up = RandomBf16(rows * 2 * width);
    auto* inner = Put(PoisonBf16(rows * width));
    ASSERT_EQ(LaunchGateRows({.gate_up = Put(gate_up), .inner = inner, .num_rows = rows, .width = width}, nullptr),
              cudaSuccess);
    const std::vector<float> gated = GetBf16(inner, rows * width);
    for (int64_t at = 0; at < rows * width; ++at) {
      const int64_t gate_at = at / width * 2 * width + at % width;
      const double gate = Bf16ToFloat(gate_up[static_cast<size_t>(gate_at)]);
      const double value = gate / (1 + std::exp(-gate)) * Bf16ToFloat(gate_up[static_cast<size_t>(gate_at + width)]);
      ASSERT_NEAR(gated[static_cast<size_t>(at)], value, (kBf16Error + kFactorError) * std::fabs(value) + 1e-30);
    }
  }
}

TEST_F(CudaLinearTest, ProductsOfManyRows) {
  const std::vector<uint8_t> scratch(static_cast<size_t>(CudaGemm::kWorkspaceBytes));
  auto gemm = CudaGemm::Create({Put(scratch), CudaGemm::kWorkspaceBytes});
  ASSERT_TRUE(gemm.ok()) << gemm.status();
  for (int trial = 0; trial < 12; ++trial) {
    const int64_t rows = random_.Integer(1, 200), gap = 8 * random_.Integer(0, 3);
    const Shape shape = {8 * random_.Integer(1, 40), 8 * random_.Integer(1, 100)};
    const int64_t stride = shape.outputs + gap;
    const bool bf16 = random_.OneIn(2), accumulate = !bf16 && random_.OneIn(2);
    const RandomWeight weight = Weight(shape);
    const std::vector<uint16_t> x = RandomBf16(rows * shape.columns);
    const std::vector<float> old = accumulate ? random_.Reals(rows * stride, -1, 1) : Poison(rows * stride);
    void* y = bf16 ? static_cast<void*>(Put(PoisonBf16(rows * stride))) : Put(old);
    const CudaGemmArgs args = {.x = Put(x),
                               .weight = Put(weight.bytes),
                               .y = y,
                               .y_is_bf16 = bf16,
                               .accumulate = accumulate,
                               .num_rows = rows,
                               .num_outputs = shape.outputs,
                               .num_columns = shape.columns,
                               .y_stride = stride};
    const absl::Status status = (*gemm)->Run(args, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    const std::vector<float> got = bf16 ? GetBf16(static_cast<uint16_t*>(y), rows * stride)
                                        : Get(static_cast<float*>(y), static_cast<size_t>(rows * stride));
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<double> values = RowOf(x, row, shape.columns);
      for (int64_t n = 0; n < stride; ++n) {
        const auto at = static_cast<size_t>(row * stride + n);
        if (n >= shape.outputs) {
          ASSERT_TRUE(accumulate ? got[at] == old[at] : std::isnan(got[at])) << "between rows";
          continue;
        }
        const Product expected = Multiply(values, weight, n);
        const double sum = expected.sum + (accumulate ? double{old[at]} : 0);
        const double bound = bf16 ? Bf16Bound(expected) : expected.error + 0x1p-23 * std::fabs(sum);
        ASSERT_NEAR(got[at], sum, bound) << "at " << at;
      }
    }
  }
}

}  // namespace
}  // namespace farspan::kernels::cuda
