// SPDX-License-Identifier: Apache-2.0
// What tests of the products of a layer on CUDA share: arrays on the device, random weights and rows, and products in
// float64 with the error that float32 sums may have.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <iterator>

#include "engine/backend/cuda_backend.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cuda/linear.h"
#include "engine/kernels/weight_tiles.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan::kernels::cuda {

inline constexpr float kEpsilon = 1e-5f;
inline constexpr WeightType kStreamedTypes[] = {WeightType::kBf16,   WeightType::kTiled4,    WeightType::kTiled4Min,
                                                WeightType::kTiled5, WeightType::kTiled5Min, WeightType::kTiled6,
                                                WeightType::kTiled8};
// Of rounding to bf16: half a step.
inline constexpr double kBf16Error = 0x1p-8;
// Products of bf16 and levels are exact in float32; what differs from float64 is where sums are rounded, each by 2^-24
// of a partial sum, or cut off, by up to 2^-22 within a tensor core. Errors of rounding add up as independent ones do,
// so they are held to the root of the terms' squares; those of cutting off lean one way, which a factor of 4 leaves
// room for.
inline constexpr double kSumError = 0x1p-18;
// Of what a row's own factor and the gate's function add, relative.
inline constexpr double kFactorError = 0x1p-20;

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
    for (const uint16_t bits : Get(device, static_cast<size_t>(size))) values.push_back(Bf16ToFloat(bits));
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

  // Row `row` of the residual stream as a product has it: weighted, in bf16, to be multiplied by `factor` afterwards.
  struct NormedRow {
    std::vector<double> values;
    double factor;
  };
  struct Stream {
    std::vector<float> hidden, norm;
    int64_t columns;
    NormedRows on_device;

    NormedRow Normed(int64_t row) const {
      NormedRow normed = {};
      double squares = 0;
      for (int64_t k = 0; k < columns; ++k) {
        const float value = hidden[static_cast<size_t>(row * columns + k)];
        squares += static_cast<double>(value) * value;
        normed.values.push_back(Bf16ToFloat(FloatToBf16(value * norm[static_cast<size_t>(k)])));
      }
      normed.factor = 1 / std::sqrt(squares / static_cast<double>(columns) + kEpsilon);
      return normed;
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

  // With the error that a float32 sum may have.
  struct Product {
    double sum, error;
  };
  static Product Multiply(const std::vector<double>& x, const RandomWeight& weight, int64_t output, double factor = 1) {
    double sum = 0, squares = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      const double term = x[k] * weight.values[static_cast<size_t>(output) * x.size() + k];
      sum += term;
      squares += term * term;
    }
    return {sum * factor, factor * (kSumError * std::sqrt(squares) + kFactorError * std::fabs(sum)) + 1e-30};
  }
  static Product Multiply(const NormedRow& x, const RandomWeight& weight, int64_t output) {
    return Multiply(x.values, weight, output, x.factor);
  }
  // The most that a product stored as bf16 may be off.
  static double Bf16Bound(const Product& product) {
    return product.error + kBf16Error * (std::fabs(product.sum) + product.error);
  }
  static std::vector<double> RowOf(const std::vector<uint16_t>& x, int64_t row, int64_t columns) {
    std::vector<double> values;
    for (int64_t k = 0; k < columns; ++k) values.push_back(Bf16ToFloat(x[static_cast<size_t>(row * columns + k)]));
    return values;
  }

  WeightType type_ = WeightType::kBf16;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  Random random_;
};

}  // namespace farspan::kernels::cuda
