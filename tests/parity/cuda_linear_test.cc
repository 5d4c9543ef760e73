// SPDX-License-Identifier: Apache-2.0
// The products of a layer on CUDA against float64 on the host, on fresh random inputs with poisoned outputs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <iterator>

#include "engine/backend/cuda_backend.h"
#include "engine/backend/cuda_gemm.h"
#include "engine/kernels/cuda/linear.h"
#include "engine/kernels/weight_tiles.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels::cuda {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr WeightType kStreamedTypes[] = {WeightType::kBf16,   WeightType::kTiled4,    WeightType::kTiled4Min,
                                         WeightType::kTiled5, WeightType::kTiled5Min, WeightType::kTiled6,
                                         WeightType::kTiled8};
constexpr double kBf16Error = 0x1p-8;

float FromBf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

struct Shape {
  int64_t outputs, columns;
};

class CudaLinearTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    backend_ = *std::move(cuda);
  }

  template <typename T>
  T* Put(const std::vector<T>& host) {
    auto buffer = backend_->Allocate(static_cast<int64_t>(host.size() * sizeof(T)) + 1, MemoryKind::kActivations);
    EXPECT_TRUE(buffer.ok());
    EXPECT_TRUE(backend_->Upload((*buffer)->data(), std::as_bytes(std::span(host))).ok());
    buffers_.push_back(*std::move(buffer));
    return static_cast<T*>(buffers_.back()->data());
  }
  template <typename T>
  std::vector<T> Get(const T* device, size_t size) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<T> host(size);
    EXPECT_TRUE(backend_->Download(std::as_writable_bytes(std::span(host)), device).ok());
    return host;
  }
  std::vector<float> GetBf16(const uint16_t* device, int64_t size) {
    std::vector<float> values;
    for (const uint16_t bits : Get(device, static_cast<size_t>(size))) values.push_back(FromBf16(bits));
    return values;
  }
  static std::vector<uint16_t> PoisonBf16(int64_t size) {
    return std::vector<uint16_t>(static_cast<size_t>(size), 0x7fff);
  }
  static std::vector<float> Poison(int64_t size) { return std::vector<float>(static_cast<size_t>(size), kNan); }

  RandomWeight Weight(const Shape& shape) { return MakeWeight(type_, shape.outputs, shape.columns, &random_); }
  WeightView OnDevice(const RandomWeight& weight) {
    WeightView view = weight.view;
    view.data = Put(weight.bytes);
    return view;
  }
  WeightType RandomType() { return kStreamedTypes[random_.Integer(0, std::ssize(kStreamedTypes) - 1)]; }
  int64_t RandomOutputs(int64_t most) {
    return IsTiled(type_) ? kTileRows * random_.Integer(1, most / kTileRows) : random_.Integer(1, most);
  }
  int64_t RandomColumns(int64_t most) {
    return IsTiled(type_) ? kTileColumns * random_.Integer(1, most / kTileColumns) : 8 * random_.Integer(1, most / 8);
  }
  Shape RandomShape() { return {RandomOutputs(300), RandomColumns(1600)}; }
  std::vector<uint16_t> RandomBf16(int64_t size) {
    std::vector<uint16_t> values;
    for (const float value : random_.Reals(size, -2, 2)) {
      values.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    }
    return values;
  }

  // Row `row` of the residual stream, normed, in float64.
  struct Stream {
    std::vector<float> hidden, norm;
    int64_t columns;
    NormedRows on_device;

    std::vector<double> Normed(int64_t row) const {
      std::vector<double> values;
      double squares = 0;
      for (int64_t k = 0; k < columns; ++k) {
        const double value = hidden[static_cast<size_t>(row * columns + k)];
        squares += value * value;
        values.push_back(value * norm[static_cast<size_t>(k)]);
      }
      for (double& value : values) value /= std::sqrt(squares / static_cast<double>(columns) + kEpsilon);
      return values;
    }
  };
  Stream MakeStream(int64_t rows, int64_t columns) {
    Stream stream = {.hidden = random_.Reals(rows * columns, -3, 3),
                     .norm = random_.Reals(columns, -1, 1),
                     .columns = columns,
                     .on_device = {}};
    stream.on_device = {.hidden = Put(stream.hidden), .weight = Put(stream.norm), .epsilon = kEpsilon};
    return stream;
  }

  struct Product {
    double sum, magnitude;
  };
  static Product Multiply(const std::vector<double>& x, const RandomWeight& weight, int64_t output) {
    Product product = {0, 0};
    for (size_t k = 0; k < x.size(); ++k) {
      const double term = x[k] * weight.values[static_cast<size_t>(output) * x.size() + k];
      product.sum += term;
      product.magnitude += std::fabs(term);
    }
    return product;
  }
  static std::vector<double> RowOf(const std::vector<uint16_t>& x, int64_t row, int64_t columns) {
    std::vector<double> values;
    for (int64_t k = 0; k < columns; ++k) values.push_back(FromBf16(x[static_cast<size_t>(row * columns + k)]));
    return values;
  }

  WeightType type_ = WeightType::kBf16;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  Random random_;
};

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
      const std::vector<double> x = stream.Normed(row);
      int64_t at = row * outputs;
      for (const RandomWeight& weight : weights) {
        for (int64_t n = 0; n < weight.view.rows; ++n, ++at) {
          const Product expected = Multiply(x, weight, n);
          ASSERT_NEAR(got[static_cast<size_t>(at)], expected.sum, kBf16Error * (expected.magnitude + 1e-3))
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
      const std::vector<double> x = stream.Normed(at / shape.outputs);
      const Product g = Multiply(x, gate, at % shape.outputs), u = Multiply(x, up, at % shape.outputs);
      const double silu = g.sum / (1 + std::exp(-g.sum));
      const double scale = (g.magnitude + 1) * (u.magnitude + 1);
      ASSERT_NEAR(got[static_cast<size_t>(at)], silu * u.sum, 2 * kBf16Error * scale) << "at " << at;
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
        ASSERT_NEAR(got[at], expected.sum + old[at], 1e-6 * (expected.magnitude + 1))
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
      const std::vector<double> x = stream.Normed(chosen[static_cast<size_t>(at / shape.outputs)]);
      const Product expected = Multiply(x, weight, at % shape.outputs);
      ASSERT_NEAR(got[static_cast<size_t>(at)], expected.sum, kBf16Error * (expected.magnitude + 1e-3)) << "at " << at;
    }
  }
}

TEST_F(CudaLinearTest, ARowHasTheSameBitsAloneAndInAnyBatch) {
  for (int trial = 0; trial < 8; ++trial) {
    type_ = trial == 0 ? WeightType::kBf16 : RandomType();
    const Shape shape = trial % 3 == 0 ? Shape{64, 4096} : trial % 3 == 1 ? Shape{48, 14336} : RandomShape();
    const RandomWeight weight = Weight(shape);
    const WeightView view = OnDevice(weight);
    const std::vector<uint16_t> x = RandomBf16(kMaxStreamedRows * shape.columns);
    const uint16_t* on_device = Put(x);
    const auto run = [&](int64_t first, int64_t rows) {
      float* hidden = Put(std::vector<float>(static_cast<size_t>(rows * shape.outputs)));
      EXPECT_EQ(
          LaunchAddLinear({.x = on_device + first * shape.columns, .weight = view, .hidden = hidden, .num_rows = rows},
                          nullptr),
          cudaSuccess);
      return Get(hidden, static_cast<size_t>(rows * shape.outputs));
    };
    for (int64_t rows = 1; rows <= kMaxStreamedRows; ++rows) {
      const std::vector<float> together = run(0, rows);
      const int64_t row = random_.Integer(0, rows - 1);
      const std::vector<float> own(together.begin() + row * shape.outputs,
                                   together.begin() + (row + 1) * shape.outputs);
      ASSERT_TRUE(SameBits(run(row, 1), own)) << "row " << row << " of " << rows << " columns " << shape.columns;
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
      ASSERT_NEAR(got[static_cast<size_t>(at)], expected.sum, kBf16Error * (expected.magnitude + 1e-3)) << "at " << at;
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
      ASSERT_NEAR(got[i], expected, kBf16Error * std::fabs(expected) + 1e-7) << static_cast<int>(type) << " at " << i;
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
      const std::vector<double> expected = stream.Normed(row);
      for (int64_t i = 0; i < width; ++i) {
        const double value = expected[static_cast<size_t>(i)];
        ASSERT_NEAR(got[static_cast<size_t>(row * width + i)], value, kBf16Error * std::fabs(value) + 1e-6);
      }
    }
    const std::vector<uint16_t> gate_up = RandomBf16(rows * 2 * width);
    auto* inner = Put(PoisonBf16(rows * width));
    ASSERT_EQ(LaunchGateRows({.gate_up = Put(gate_up), .inner = inner, .num_rows = rows, .width = width}, nullptr),
              cudaSuccess);
    const std::vector<float> gated = GetBf16(inner, rows * width);
    for (int64_t at = 0; at < rows * width; ++at) {
      const int64_t gate_at = at / width * 2 * width + at % width;
      const double gate = FromBf16(gate_up[static_cast<size_t>(gate_at)]);
      const double value = gate / (1 + std::exp(-gate)) * FromBf16(gate_up[static_cast<size_t>(gate_at + width)]);
      ASSERT_NEAR(gated[static_cast<size_t>(at)], value, kBf16Error * std::fabs(value) + 1e-6);
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
        ASSERT_NEAR(got[at], sum, (bf16 ? kBf16Error : 1e-6) * (expected.magnitude + 1)) << "at " << at;
      }
    }
  }
}

}  // namespace
}  // namespace farspan::kernels::cuda
