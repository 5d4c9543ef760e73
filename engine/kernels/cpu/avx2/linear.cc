// SPDX-License-Identifier: Apache-2.0
// y = x W^T. Every output is one chain of eight-lane FMAs over k in ascending order, then one lane sum, whether its
// weights are widened in registers (few rows: the weights' bytes are the cost) or first into a float32 tile that stays
// in cache (many rows: the FMAs are), so that a row never depends on how many others run beside it.
#include <type_traits>

#include "engine/kernels/cpu/avx2/blocks.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kMaxStreamedRows = 4;    // up to here weights are widened in registers, once for all rows
constexpr int64_t kTileRows = 4;           // of x in a register tile
constexpr int64_t kTileOutputs = 3;        // 4 x 3 accumulators, 3 weights, 1 x: all sixteen registers
constexpr int64_t kTileBytes = 192 << 10;  // of widened weights a task: well inside L2

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

bool Streams(const LinearArgs& args) { return args.num_rows <= kMaxStreamedRows; }

// Enough tasks to share out, yet each worth handing out.
int64_t StreamedOutputs(const LinearArgs& args) {
  constexpr int64_t kBytesPerTask = 16 << 10;
  const int64_t row_bytes = WeightRowBytes(args.weight.type, args.weight.columns);
  return Max(4, kBytesPerTask / Max(1, row_bytes) / 4 * 4);
}

int64_t TiledOutputs(const LinearArgs& args) {
  constexpr int64_t kMaxOutputs = 16 * kTileOutputs;
  const int64_t row_bytes = RoundUpToLanes(args.weight.columns) * static_cast<int64_t>(sizeof(float));
  const int64_t outputs = kTileBytes / Max(1, row_bytes) / kTileOutputs * kTileOutputs;
  return Min(kMaxOutputs, Max(4 * kTileOutputs, outputs));
}

int64_t OutputsPerTask(const LinearArgs& args) { return Streams(args) ? StreamedOutputs(args) : TiledOutputs(args); }

int64_t NumTasks(const LinearArgs& args) {
  const int64_t outputs = OutputsPerTask(args);
  return (args.weight.rows + outputs - 1) / outputs;
}

int64_t ScratchBytes(const LinearArgs& args) {
  if (Streams(args)) return 0;
  return TiledOutputs(args) * RoundUpToLanes(args.weight.columns) * static_cast<int64_t>(sizeof(float));
}

void Store(const LinearArgs& args, int64_t row, int64_t output, float sum) {
  float* y = args.y + row * args.weight.rows + output;
  *y = args.accumulate ? *y + sum : sum;
}

// Adds the products of k in [0, columns) of kOutputs weight rows with kRows rows of x to the accumulators.
template <WeightType kType, int kRows, int kOutputs>
inline void StreamProducts(const float* x, const uint8_t* const* weights, int64_t columns,
                           __m256 (&sums)[kRows][kOutputs]) {
  if constexpr (kType == WeightType::kF32 || kType == WeightType::kBf16) {
    using Element = std::conditional_t<kType == WeightType::kF32, float, uint16_t>;
    int64_t k = 0;
    for (; k + kLanes <= columns; k += kLanes) {
      for (int n = 0; n < kOutputs; ++n) {
        const __m256 w = LoadLanes(reinterpret_cast<const Element*>(weights[n]) + k);
        for (int r = 0; r < kRows; ++r) {
          sums[r][n] = _mm256_fmadd_ps(_mm256_loadu_ps(x + r * columns + k), w, sums[r][n]);
        }
      }
    }
    if (k == columns) return;
    for (int n = 0; n < kOutputs; ++n) {
      Element tail[kLanes] = {};
      const Element* row = reinterpret_cast<const Element*>(weights[n]);
      for (int64_t i = k; i < columns; ++i) tail[i - k] = row[i];
      for (int r = 0; r < kRows; ++r) {
        sums[r][n] = _mm256_fmadd_ps(LoadFirst(x + r * columns + k, columns - k), LoadLanes(tail), sums[r][n]);
      }
    }
  } else {
    for (int64_t block = 0; block < columns / kQuantBlock; ++block) {
      const float* x_block = x + block * kQuantBlock;
      for (int n = 0; n < kOutputs; ++n) {
        const BlockValues w = QuantBlock<kType>::Load(weights[n] + block * QuantBlock<kType>::kBytes);
        for (int i = 0; i < 4; ++i) {
          for (int r = 0; r < kRows; ++r) {
            sums[r][n] = _mm256_fmadd_ps(_mm256_loadu_ps(x_block + r * columns + i * kLanes), w.v[i], sums[r][n]);
          }
        }
      }
    }
  }
}

template <WeightType kType, int kRows, int kOutputs>
void StreamOutputs(const LinearArgs& args, int64_t output) {
  const int64_t columns = args.weight.columns, row_bytes = WeightRowBytes(kType, columns);
  const uint8_t* weights[kOutputs];
  for (int n = 0; n < kOutputs; ++n) {
    weights[n] = static_cast<const uint8_t*>(args.weight.data) + (output + n) * row_bytes;
  }
  __m256 sums[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kOutputs; ++n) sums[r][n] = _mm256_setzero_ps();
  }
  StreamProducts<kType, kRows, kOutputs>(args.x, weights, columns, sums);
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kOutputs; ++n) Store(args, r, output + n, SumLanes(sums[r][n]));
  }
}

template <WeightType kType, int kRows>
void Stream(const LinearArgs& args, int64_t begin, int64_t end) {
  constexpr int kOutputs = kRows <= 2 ? 4 : 2;
  int64_t output = begin;
  for (; output + kOutputs <= end; output += kOutputs) StreamOutputs<kType, kRows, kOutputs>(args, output);
  for (; output < end; ++output) StreamOutputs<kType, kRows, 1>(args, output);
}

template <WeightType kType>
void StreamRows(const LinearArgs& args, int64_t begin, int64_t end) {
  switch (args.num_rows) {
    case 1:
      return Stream<kType, 1>(args, begin, end);
    case 2:
      return Stream<kType, 2>(args, begin, end);
    case 3:
      return Stream<kType, 3>(args, begin, end);
    case 4:
      return Stream<kType, 4>(args, begin, end);
    default:
      return;
  }
}

void RunStreamed(const LinearArgs& args, int64_t begin, int64_t end) {
  switch (args.weight.type) {
    case WeightType::kF32:
      return StreamRows<WeightType::kF32>(args, begin, end);
    case WeightType::kBf16:
      return StreamRows<WeightType::kBf16>(args, begin, end);
    case WeightType::kQ4_0:
      return StreamRows<WeightType::kQ4_0>(args, begin, end);
    case WeightType::kQ4_1:
      return StreamRows<WeightType::kQ4_1>(args, begin, end);
    case WeightType::kQ8_0:
      return StreamRows<WeightType::kQ8_0>(args, begin, end);
  }
}

// kRows rows of x by kOutputs widened weight rows, `stride` apart.
template <int kRows, int kOutputs>
void MultiplyTile(const LinearArgs& args, int64_t row, const float* weights, int64_t stride, int64_t output) {
  const int64_t columns = args.weight.columns;
  const float* x = args.x + row * columns;
  __m256 sums[kOutputs][kRows];
  for (int n = 0; n < kOutputs; ++n) {
    for (int r = 0; r < kRows; ++r) sums[n][r] = _mm256_setzero_ps();
  }
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    __m256 w[kOutputs];
    for (int n = 0; n < kOutputs; ++n) w[n] = _mm256_loadu_ps(weights + n * stride + k);
    for (int r = 0; r < kRows; ++r) {
      const __m256 values = _mm256_loadu_ps(x + r * columns + k);
      for (int n = 0; n < kOutputs; ++n) sums[n][r] = _mm256_fmadd_ps(values, w[n], sums[n][r]);
    }
  }
  if (k < columns) {
    for (int r = 0; r < kRows; ++r) {
      const __m256 values = LoadFirst(x + r * columns + k, columns - k);
      for (int n = 0; n < kOutputs; ++n) {
        sums[n][r] = _mm256_fmadd_ps(values, _mm256_loadu_ps(weights + n * stride + k), sums[n][r]);
      }
    }
  }
  for (int n = 0; n < kOutputs; ++n) {
    if constexpr (kRows == 4) {
      float four[4];
      _mm_storeu_ps(four, SumLanes4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]));
      for (int r = 0; r < 4; ++r) Store(args, row + r, output + n, four[r]);
    } else {
      for (int r = 0; r < kRows; ++r) Store(args, row + r, output + n, SumLanes(sums[n][r]));
    }
  }
}

template <int kRows>
void MultiplyRows(const LinearArgs& args, int64_t row, const float* weights, int64_t stride, int64_t begin,
                  int64_t end) {
  int64_t output = begin;
  for (; output + kTileOutputs <= end; output += kTileOutputs) {
    MultiplyTile<kRows, kTileOutputs>(args, row, weights + (output - begin) * stride, stride, output);
  }
  for (; output < end; ++output) {
    MultiplyTile<kRows, 1>(args, row, weights + (output - begin) * stride, stride, output);
  }
}

void RunTiled(const LinearArgs& args, int64_t begin, int64_t end, float* weights) {
  const int64_t stride = RoundUpToLanes(args.weight.columns);
  for (int64_t output = begin; output < end; ++output) {
    DequantizeRow(args.weight, output, weights + (output - begin) * stride);
  }
  int64_t row = 0;
  for (; row + kTileRows <= args.num_rows; row += kTileRows) {
    MultiplyRows<kTileRows>(args, row, weights, stride, begin, end);
  }
  for (; row < args.num_rows; ++row) MultiplyRows<1>(args, row, weights, stride, begin, end);
}

void Run(const LinearArgs& args, int64_t task, void* scratch) {
  const int64_t outputs = OutputsPerTask(args), begin = task * outputs;
  const int64_t end = Min(begin + outputs, args.weight.rows);
  if (Streams(args)) {
    RunStreamed(args, begin, end);
  } else {
    RunTiled(args, begin, end, static_cast<float*>(scratch));
  }
}

}  // namespace

constinit const KernelOp<LinearArgs> kLinear = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx2
