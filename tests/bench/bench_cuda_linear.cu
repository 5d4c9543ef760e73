// SPDX-License-Identifier: Apache-2.0
// Speed of a layer's products on CUDA, each checked first against float64 on the device. `farspan-bench-cuda-linear`:
// "cold" is one launch after the L2 cache was overwritten, "graph" the mean of many in a CUDA graph over weights that
// do not fit the cache; GB/s counts each weight once.
#include <cstring>

#include "engine/backend/cuda_gemm.h"
#include "tests/bench/cuda_linear_scene.cuh"

namespace farspan {
namespace {

using kernels::cuda::LaunchAddLinear;
using kernels::cuda::LaunchGateRows;
using kernels::cuda::LaunchLogits;
using kernels::cuda::LaunchNormGateUp;
using kernels::cuda::LaunchNormLinear;
using kernels::cuda::LaunchNormRows;

// out[r][n] in float64 from float32 or bf16 rows; a block an output.
template <WeightType kType>
__global__ void Reference(const float* hidden, const float* norm, const uint16_t* x, const void* weight, double* out,
                          int columns, int64_t out_stride) {
  const int64_t row = blockIdx.y, output = blockIdx.x;
  __shared__ double sums[2][8];
  double squares = 0, sum = 0;
  for (int k = static_cast<int>(threadIdx.x); k < columns; k += 256) {
    double value;
    if (hidden != nullptr) {
      const double h = hidden[row * columns + k];
      squares += h * h;
      value = h * norm[k];
    } else {
      value = kernels::cuda::LoadBf16(x, row * columns + k);
    }
    sum += value * kernels::cuda::LoadWeightAt<kType>(weight, columns, output, k);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kernels::cuda::kWholeWarp, sum, offset);
    squares += __shfl_xor_sync(kernels::cuda::kWholeWarp, squares, offset);
  }
  if (threadIdx.x % 32 == 0) {
    sums[0][threadIdx.x / 32] = sum;
    sums[1][threadIdx.x / 32] = squares;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < 8; ++i) {
    sum += sums[0][i];
    squares += sums[1][i];
  }
  out[row * out_stride + output] = hidden == nullptr ? sum : sum / sqrt(squares / columns + double{kEpsilon});
}

std::vector<float> Download(const void* data, int64_t size, bool is_bf16) {
  std::vector<float> values(static_cast<size_t>(size));
  if (!is_bf16) {
    Require(cudaMemcpy(values.data(), data, values.size() * 4, cudaMemcpyDeviceToHost), "download");
    return values;
  }
  std::vector<uint16_t> bits(values.size());
  Require(cudaMemcpy(bits.data(), data, bits.size() * 2, cudaMemcpyDeviceToHost), "download");
  for (size_t i = 0; i < bits.size(); ++i) {
    const uint32_t wide = static_cast<uint32_t>(bits[i]) << 16;
    std::memcpy(&values[i], &wide, 4);
  }
  return values;
}

std::vector<double> ReferenceOf(const Scene& scene, const uint16_t* x, const WeightView& weight, int64_t rows) {
  auto* out = Allocate<double>(rows * weight.rows);
  const dim3 grid(static_cast<unsigned>(weight.rows), static_cast<unsigned>(rows));
  const float* hidden = x == nullptr ? scene.hidden : nullptr;
  const cudaError_t launched = kernels::cuda::WithWeightType(weight.type, [&]<WeightType kType>() {
    Reference<kType>
        <<<grid, 256>>>(hidden, scene.norm, x, weight.data, out, static_cast<int>(weight.columns), weight.rows);
    return cudaGetLastError();
  });
  Require(launched, "reference");
  std::vector<double> values(static_cast<size_t>(rows * weight.rows));
  Require(cudaMemcpy(values.data(), out, values.size() * 8, cudaMemcpyDeviceToHost), "reference");
  Require(cudaFree(out), "free");
  return values;
}

bool all_right = true;

void Report(const char* what, const Model& model, int64_t rows, const std::vector<float>& got,
            const std::vector<double>& expected, double bound) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double relative = std::sqrt(error / norm);
  const bool right = relative <= bound;  // false for NaN
  all_right = all_right && right;
  if (!right || rows == 1) {
    std::printf("%s %s rows %lld: error %.2e %s\n", model.name, what, static_cast<long long>(rows), relative,
                right ? "ok" : "WRONG");
  }
}

void CheckAll(const Scene& s, cudaStream_t stream, int64_t rows) {
  const Model& m = s.model;
  const auto sync = [&] { Require(cudaStreamSynchronize(stream), "kernel"); };
  const int64_t qkv_width = m.query_width + 2 * m.kv_width;
  s.Norm(rows, stream);
  Require(cudaMemset(s.y, 0xff, static_cast<size_t>(rows * qkv_width * 2)), "poison");
  Require(LaunchNormLinear(s.Qkv(0, rows), stream), "qkv");
  sync();
  Report("qkv", m, rows, Download(s.y, rows * qkv_width, true),
         ReferenceOf(s, nullptr, s.View(s.qkv[0], 0, qkv_width, m.width), rows), 4e-3);
  for (const auto& [name, args] : {std::pair("o", s.O(0, rows)), std::pair("down", s.Down(0, rows))}) {
    const std::vector<float> before = Download(s.hidden, rows * m.width, false);
    std::vector<double> expected = ReferenceOf(s, s.x, args.weight, rows);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    Require(LaunchAddLinear(args, stream), name);
    sync();
    Report(name, m, rows, Download(s.hidden, rows * m.width, false), expected, 1e-6);
    Require(cudaMemcpy(s.hidden, before.data(), before.size() * 4, cudaMemcpyHostToDevice), "restore");
  }
  const auto gate_up = s.GateUp(0, rows);
  std::vector<double> expected = ReferenceOf(s, nullptr, gate_up.gate, rows);
  const std::vector<double> up = ReferenceOf(s, nullptr, gate_up.up, rows);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = expected[i] / (1 + std::exp(-expected[i])) * up[i];
  Require(cudaMemset(s.y, 0xff, static_cast<size_t>(rows * m.inner * 2)), "poison");
  Require(LaunchNormGateUp(gate_up, stream), "gate_up");
  sync();
  Report("gate_up", m, rows, Download(s.y, rows * m.inner, true), expected, 6e-3);
  Require(cudaMemset(s.logits, 0xff, static_cast<size_t>(rows * m.vocab * 4)), "poison");
  Require(LaunchLogits(s.Head(rows), stream), "head");
  sync();
  Report("head", m, rows, Download(s.logits, rows * m.vocab, false), ReferenceOf(s, nullptr, s.Head(rows).weight, rows),
         3e-3);
}

// Every row of a batch has the bits that it has alone.
void CheckRowsAlone(const Scene& s, cudaStream_t stream) {
  const int64_t rows = 4, width = s.model.query_width + 2 * s.model.kv_width;
  Require(LaunchNormLinear(s.Qkv(0, rows), stream), "qkv");
  Require(cudaStreamSynchronize(stream), "kernel");
  const std::vector<float> together = Download(s.y, rows * width, true);
  bool same = true;
  for (int64_t row = 0; row < rows; ++row) {
    auto args = s.Qkv(0, 1);
    args.input.hidden += row * s.model.width;
    Require(LaunchNormLinear(args, stream), "qkv");
    Require(cudaStreamSynchronize(stream), "kernel");
    const std::vector<float> alone = Download(s.y, width, true);
    same = same && std::equal(alone.begin(), alone.end(), together.begin() + row * width);
  }
  all_right = all_right && same;
  std::printf("%s rows alone and together: %s\n", s.model.name, same ? "same bits" : "DIFFERENT");
}

void TimeProducts(const Scene& s, cudaStream_t stream, int64_t rows) {
  struct Product {
    const char* name;
    int64_t outputs, columns;
    Work work;
  };
  const Model& m = s.model;
  const Product products[] = {
      {"qkv", m.query_width + 2 * m.kv_width, m.width,
       [&](int64_t i, cudaStream_t to) {
         s.Norm(rows, to);
         Require(LaunchNormLinear(s.Qkv(i, rows), to), "qkv");
       }},
      {"o", m.width, m.query_width,
       [&](int64_t i, cudaStream_t to) { Require(LaunchAddLinear(s.O(i, rows), to), "o"); }},
      {"gate_up", 2 * m.inner, m.width,
       [&](int64_t i, cudaStream_t to) {
         s.Norm(rows, to);
         Require(LaunchNormGateUp(s.GateUp(i, rows), to), "gate_up");
       }},
      {"down", m.width, m.inner,
       [&](int64_t i, cudaStream_t to) { Require(LaunchAddLinear(s.Down(i, rows), to), "down"); }},
      {"head", m.vocab, m.width, [&](int64_t, cudaStream_t to) { Require(LaunchLogits(s.Head(rows), to), "head"); }}};
  for (const Product& product : products) {
    const float cold = ColdMicroseconds(s, stream, product.work);
    const float graph = GraphMicroseconds(stream, 2 * static_cast<int>(s.num_layers), product.work);
    const auto bytes = static_cast<double>(product.outputs * kernels::WeightRowBytes(s.type, product.columns));
    std::printf("%-8s M=%-3lld %-8s cold %7.2f us %5.0f GB/s   graph %7.2f us %5.0f GB/s\n", m.name,
                static_cast<long long>(rows), product.name, cold, bytes / cold / 1e3, graph, bytes / graph / 1e3);
  }
}

void TimeStep(const Scene& s, cudaStream_t stream, int64_t rows) {
  const Model& m = s.model;
  const float us = GraphMicroseconds(stream, 1, [&](int64_t, cudaStream_t to) {
    for (int64_t layer = 0; layer < m.layers; ++layer) {
      s.Norm(rows, to);
      Require(LaunchNormLinear(s.Qkv(layer, rows), to), "qkv");
      Require(LaunchAddLinear(s.O(layer, rows), to), "o");
      s.Norm(rows, to);
      Require(LaunchNormGateUp(s.GateUp(layer, rows), to), "gate_up");
      Require(LaunchAddLinear(s.Down(layer, rows), to), "down");
    }
    Require(LaunchLogits(s.Head(rows), to), "head");
  });
  const int64_t rows_of_width = m.layers * (m.query_width * 2 + 2 * m.kv_width + 3 * m.inner) + m.vocab;
  const auto bytes = static_cast<double>(rows_of_width * kernels::WeightRowBytes(s.type, m.width));
  std::printf("%-8s M=%-3lld all linear layers of a step: %.3f ms, %.0f GB/s\n", m.name, static_cast<long long>(rows),
              us / 1e3, bytes / us / 1e3);
}

// The same products where there are more rows.
class GemmLayer {
 public:
  GemmLayer(const Scene& scene, CudaGemm* gemm, int64_t rows)
      : s_(scene),
        gemm_(*gemm),
        rows_(rows),
        qkv_width_(scene.model.query_width + 2 * scene.model.kv_width),
        normed_(Allocate<uint16_t>(rows * scene.model.width)),
        inner_(Allocate<uint16_t>(rows * scene.model.inner)) {}

  void Qkv(int64_t i, cudaStream_t on) {
    Multiply(normed_, s_.Of(s_.qkv, i), s_.y, true, qkv_width_, s_.model.width, on);
  }
  void O(int64_t i, cudaStream_t on) {
    Multiply(s_.x, s_.Of(s_.o, i), s_.hidden, false, s_.model.width, s_.model.query_width, on);
  }
  void GateUp(int64_t i, cudaStream_t on) {
    Multiply(normed_, s_.Of(s_.gate_up, i), s_.y, true, 2 * s_.model.inner, s_.model.width, on);
  }
  void Down(int64_t i, cudaStream_t on) {
    Multiply(inner_, s_.Of(s_.down, i), s_.hidden, false, s_.model.width, s_.model.inner, on);
  }
  void Norm(cudaStream_t on) {
    Require(LaunchNormRows({.input = {.hidden = s_.hidden, .weight = s_.norm, .epsilon = kEpsilon},
                            .out = normed_,
                            .num_rows = rows_,
                            .width = s_.model.width},
                           on),
            "norm");
  }
  void Gate(cudaStream_t on) {
    Require(LaunchGateRows({.gate_up = s_.y, .inner = inner_, .num_rows = rows_, .width = s_.model.inner}, on), "gate");
  }
  void Step(cudaStream_t on) {
    for (int64_t i = 0; i < s_.model.layers; ++i) {
      Norm(on);
      Qkv(i, on);
      O(i, on);
      Norm(on);
      GateUp(i, on);
      Gate(on);
      Down(i, on);
    }
    Norm(on);
    Multiply(normed_, s_.head, s_.logits, false, s_.model.vocab, s_.model.width, on);
  }

 private:
  void Multiply(const void* x, const void* weight, void* y, bool is_bf16, int64_t outputs, int64_t columns,
                cudaStream_t on) {
    Require(gemm_.Run({.x = x,
                       .weight = weight,
                       .y = y,
                       .y_is_bf16 = is_bf16,
                       .accumulate = y == s_.hidden,
                       .num_rows = rows_,
                       .num_outputs = outputs,
                       .num_columns = columns,
                       .y_stride = outputs},
                      on),
            "gemm");
  }

  const Scene& s_;
  CudaGemm& gemm_;
  const int64_t rows_, qkv_width_;
  uint16_t* const normed_;
  uint16_t* const inner_;
};

void TimeGemmStep(const Scene& s, cudaStream_t stream, CudaGemm* gemm, int64_t rows) {
  GemmLayer layer(s, gemm, rows);
  const Model& m = s.model;
  const int64_t qkv_width = m.query_width + 2 * m.kv_width;
  const auto sync = [&] { Require(cudaStreamSynchronize(stream), "gemm"); };
  layer.Norm(stream);
  sync();
  const std::vector<float> before = Download(s.hidden, rows * m.width, false);
  layer.Qkv(0, stream);
  sync();
  Report("gemm qkv", m, rows, Download(s.y, rows * qkv_width, true),
         ReferenceOf(s, nullptr, s.View(s.qkv[0], 0, qkv_width, m.width), rows), 5e-3);
  std::vector<double> expected = ReferenceOf(s, s.x, s.O(0, rows).weight, rows);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
  layer.O(0, stream);
  sync();
  Report("gemm o", m, rows, Download(s.hidden, rows * m.width, false), expected, 1e-6);
  const int n = 2 * static_cast<int>(s.num_layers);
  const auto time = [&](void (GemmLayer::*op)(int64_t, cudaStream_t)) {
    return GraphMicroseconds(stream, n, [&](int64_t i, cudaStream_t on) { (layer.*op)(i, on); });
  };
  const float norm = GraphMicroseconds(stream, n, [&](int64_t, cudaStream_t on) { layer.Norm(on); });
  const float gate = GraphMicroseconds(stream, n, [&](int64_t, cudaStream_t on) { layer.Gate(on); });
  std::printf("%-8s M=%-3lld gemm in graph, us: qkv %.2f o %.2f gate_up %.2f down %.2f norm %.2f gate %.2f\n", m.name,
              static_cast<long long>(rows), time(&GemmLayer::Qkv), time(&GemmLayer::O), time(&GemmLayer::GateUp),
              time(&GemmLayer::Down), norm, gate);
  const float us = GraphMicroseconds(stream, 1, [&](int64_t, cudaStream_t on) { layer.Step(on); });
  std::printf("%-8s M=%-3lld all linear layers of a step by gemm: %.3f ms\n", m.name, static_cast<long long>(rows),
              us / 1e3);
  Require(cudaMemcpy(s.hidden, before.data(), before.size() * 4, cudaMemcpyHostToDevice), "restore");
}

void TimeCopy(const Scene& s, cudaStream_t stream) {
  auto* from = Allocate<uint8_t>(int64_t{1} << 30);
  auto* to = Allocate<uint8_t>(int64_t{1} << 30);
  const float us = ColdMicroseconds(s, stream, [&](int64_t, cudaStream_t on) {
    Require(cudaMemcpyAsync(to, from, size_t{1} << 30, cudaMemcpyDeviceToDevice, on), "copy");
  });
  std::printf("copy of 1 GiB: %.0f GB/s, read and written\n", 2 * 1073741824.0 / us / 1e3);
}

template <WeightType kBlocks, WeightType kTiles>
__global__ void CountDifferences(WeightView blocks, const void* tiles, int* differences) {
  const int64_t columns = blocks.columns, index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= blocks.rows * columns) return;
  const float block = kernels::cuda::LoadWeightAt<kBlocks>(blocks.data, columns, index / columns, index % columns);
  const float tile = kernels::cuda::LoadWeightAt<kTiles>(tiles, columns, index / columns, index % columns);
  if (__float_as_uint(block) != __float_as_uint(tile) && !(isnan(block) && isnan(tile))) atomicAdd(differences, 1);
}

// Tiles made of random bytes as blocks stand for the same values.
template <WeightType kBlocks, WeightType kTiles>
void CheckPacking(cudaStream_t stream) {
  constexpr int64_t kRows = 64, kColumns = 576;
  const int64_t bytes = kRows * WeightRowBytes(kBlocks, kColumns);
  const WeightView blocks = {.data = RandomBf16(bytes / 2, 1), .type = kBlocks, .rows = kRows, .columns = kColumns};
  auto* tiles = Allocate<uint8_t>(bytes);
  auto* differences = Allocate<int>(1);
  Require(cudaMemset(differences, 0, sizeof(int)), "memset");
  Require(cudaDeviceSynchronize(), "fill");
  Require(kernels::cuda::LaunchPackTiles({.blocks = blocks, .tiles = tiles}, stream), "pack");
  CountDifferences<kBlocks, kTiles><<<kRows * kColumns / 64, 64, 0, stream>>>(blocks, tiles, differences);
  int count = -1;
  Require(cudaStreamSynchronize(stream), "count");
  Require(cudaMemcpy(&count, differences, sizeof(count), cudaMemcpyDeviceToHost), "count");
  all_right = all_right && count == 0;
  if (count != 0) std::printf("packing: %d DIFFERENT\n", count);
}

void TimeDequantize(const Scene& s, cudaStream_t stream) {
  auto* out = Allocate<uint16_t>(s.model.inner * s.model.width);
  const float us = ColdMicroseconds(s, stream, [&](int64_t i, cudaStream_t to) {
    const WeightView weight = s.GateUp(i, 1).up;
    const kernels::cuda::DequantizeArgs args = {.weight = weight, .first_row = 0, .num_rows = weight.rows, .out = out};
    Require(kernels::cuda::LaunchDequantize(args, to), "dequantize");
  });
  std::printf("%-8s one of gate and up to bf16: cold %.2f us\n", s.model.name, us);
}

void Run() {
  cudaStream_t stream;
  Require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  auto gemm = CudaGemm::Create({Allocate<uint8_t>(CudaGemm::kWorkspaceBytes), CudaGemm::kWorkspaceBytes});
  Require(gemm.status(), "cublasLt");
  CheckPacking<WeightType::kQ4_0, WeightType::kTiled4>(stream);
  CheckPacking<WeightType::kQ8_0, WeightType::kTiled8>(stream);
  for (const Model& model : {kLlama8B, kSmolLm2}) {
    const Scene scene(model, WeightType::kBf16);
    Require(cudaDeviceSynchronize(), "fill");
    for (const int64_t rows : {1, 2, 4, 5, 8, 9, 15, 16}) CheckAll(scene, stream, rows);
    CheckRowsAlone(scene, stream);
    if (model.layers == kLlama8B.layers) TimeCopy(scene, stream);
    for (const int64_t rows : {1, 8, 15}) TimeProducts(scene, stream, rows);
    for (const int64_t rows : {1, 2, 4, 8, 15, 16}) TimeStep(scene, stream, rows);
    for (const int64_t rows : {16, 32, 64}) TimeGemmStep(scene, stream, gemm->get(), rows);
    std::fflush(stdout);
  }
  for (const WeightType type : {WeightType::kTiled4, WeightType::kTiled4Min, WeightType::kTiled5,
                                WeightType::kTiled5Min, WeightType::kTiled6, WeightType::kTiled8}) {
    std::printf("tiles of %d bits%s\n", kernels::TraitsOfTiles(type).low_bits + kernels::TraitsOfTiles(type).high_bits,
                kernels::TraitsOfTiles(type).has_min ? " with a minimum" : "");
    const Scene scene(kLlama8B, type);
    Require(cudaDeviceSynchronize(), "fill");
    for (const int64_t rows : {1, 4, 9}) CheckAll(scene, stream, rows);
    TimeProducts(scene, stream, 1);
    for (const int64_t rows : {1, 4, 8, 15}) TimeStep(scene, stream, rows);
    TimeDequantize(scene, stream);
    std::fflush(stdout);
  }
  std::printf("%s\n", all_right ? "all right" : "SOMETHING IS WRONG");
}

}  // namespace
}  // namespace farspan

int main() {
  farspan::Run();
  return farspan::all_right ? 0 : 1;
}
