// SPDX-License-Identifier: Apache-2.0
// y = x W^T. Every output is one chain of eight-lane FMAs over k in ascending order, then one lane sum, whether its
// weights are widened in registers (few rows: the weights' bytes are the cost) or first into a float32 tile that stays
// in cache (many rows: the FMAs are), so that a row never depends on how many others run beside it.
#include <type_traits>

#include "engine/kernels/cpu/avx2/blocks.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/weight_panels.h"
#include "engine/kernels/weight_tiles.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kMaxStreamedRows = 4;    // up to here weights are widened in registers, once for all rows
constexpr int64_t kRunOutputs = 8;         // weight rows whose scales are converted together
constexpr int64_t kTileRows = 4;           // of x in a register tile
constexpr int64_t kTileOutputs = 3;        // 4 x 3 accumulators, 3 weights, 1 x: all sixteen registers
constexpr int64_t kTileBytes = 192 << 10;  // of widened weights a task: well inside L2
// How far ahead weights are asked for, beyond the run at work: rows are short and several are read at once, so that
// hardware prefetchers lag. The first pass over a run, for its scales, must find it in cache.
constexpr int64_t kPrefetchBytes = 1024;

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

bool Streams(const LinearArgs& args) {
  return args.num_rows <= kMaxStreamedRows && !IsTiled(args.weight.type) && !IsPanel(args.weight.type);
}

// Enough tasks to share out, yet each worth handing out.
int64_t StreamedOutputs(const LinearArgs& args) {
  constexpr int64_t kBytesPerTask = 16 << 10;
  const int64_t row_bytes = WeightRowBytes(args.weight.type, args.weight.columns);
  return Max(kRunOutputs, kBytesPerTask / Max(1, row_bytes) / kRunOutputs * kRunOutputs);
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
  const int64_t columns = args.weight.columns, blocks = columns / kQuantBlock;
  const int64_t floats = Streams(args) ? ScaleFloats(kRunOutputs * blocks)
                                       : TiledOutputs(args) * RoundUpToLanes(columns) + ScaleFloats(blocks);
  return floats * static_cast<int64_t>(sizeof(float));
}

void Store(const LinearArgs& args, int64_t row, int64_t output, float sum) {
  float* y = args.y + row * args.weight.rows + output;
  *y = args.accumulate ? *y + sum : sum;
}

void StoreFour(const LinearArgs& args, int64_t row, int64_t output, __m128 sums) {
  float* y = args.y + row * args.weight.rows + output;
  _mm_storeu_ps(y, args.accumulate ? _mm_add_ps(_mm_loadu_ps(y), sums) : sums);
}

// A run of weight rows that few rows of x multiply.
struct Stream {
  const float* x;
  const uint8_t* weights;  // of the first row of the run
  int64_t row_bytes;
  int64_t columns;
  const float* scales;  // of every block of the run; quantised types only
  int64_t prefetch_bytes;
};

template <WeightType kType, int kRows, int kOutputs>
inline void AddBlockProducts(const Stream& stream, __m256 (&sums)[kRows][kOutputs]) {
  using Block = QuantBlock<kType>;
  const int64_t num_blocks = stream.columns / kQuantBlock;
  for (int64_t block = 0; block < num_blocks; ++block) {
    const float* x = stream.x + block * kQuantBlock;
    FARSPAN_UNROLL
    for (int n = 0; n < kOutputs; ++n) {
      const uint8_t* bytes = stream.weights + n * stream.row_bytes + block * Block::kBytes;
      _mm_prefetch(reinterpret_cast<const char*>(bytes) + stream.prefetch_bytes, _MM_HINT_T0);
      const BlockValues w = Block::Load(bytes, stream.scales + (n * num_blocks + block) * Block::kHalves);
      FARSPAN_UNROLL
      for (int i = 0; i < 4; ++i) {
        FARSPAN_UNROLL
        for (int r = 0; r < kRows; ++r) {
          sums[r][n] = _mm256_fmadd_ps(_mm256_loadu_ps(x + r * stream.columns + i * kLanes), w.v[i], sums[r][n]);
        }
      }
    }
  }
}

template <typename Element, int kRows, int kOutputs>
inline void AddFloatProducts(const Stream& stream, __m256 (&sums)[kRows][kOutputs]) {
  const int64_t columns = stream.columns;
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    FARSPAN_UNROLL
    for (int n = 0; n < kOutputs; ++n) {
      const Element* values = reinterpret_cast<const Element*>(stream.weights + n * stream.row_bytes) + k;
      _mm_prefetch(reinterpret_cast<const char*>(values) + stream.prefetch_bytes, _MM_HINT_T0);
      const __m256 w = LoadLanes(values);
      FARSPAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        sums[r][n] = _mm256_fmadd_ps(_mm256_loadu_ps(stream.x + r * columns + k), w, sums[r][n]);
      }
    }
  }
  if (k == columns) return;
  FARSPAN_UNROLL
  for (int n = 0; n < kOutputs; ++n) {
    Element tail[kLanes] = {};
    const Element* row = reinterpret_cast<const Element*>(stream.weights + n * stream.row_bytes);
    for (int64_t i = k; i < columns; ++i) tail[i - k] = row[i];
    FARSPAN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sums[r][n] = _mm256_fmadd_ps(LoadFirst(stream.x + r * columns + k, columns - k), LoadLanes(tail), sums[r][n]);
    }
  }
}

// The first kOutputs weight rows of the run.
template <WeightType kType, int kRows, int kOutputs>
inline void StreamOutputs(const LinearArgs& args, const Stream& stream, int64_t output) {
  __m256 sums[kRows][kOutputs];
  FARSPAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FARSPAN_UNROLL
    for (int n = 0; n < kOutputs; ++n) sums[r][n] = _mm256_setzero_ps();
  }
  if constexpr (kType == WeightType::kF32) {
    AddFloatProducts<float>(stream, sums);
  } else if constexpr (kType == WeightType::kBf16) {
    AddFloatProducts<uint16_t>(stream, sums);
  } else {
    AddBlockProducts<kType>(stream, sums);
  }
  FARSPAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kOutputs % 4 == 0) {
      FARSPAN_UNROLL
      for (int n = 0; n < kOutputs; n += 4) {
        StoreFour(args, r, output + n, SumLanes4(sums[r][n], sums[r][n + 1], sums[r][n + 2], sums[r][n + 3]));
      }
    } else {
      FARSPAN_UNROLL
      for (int n = 0; n < kOutputs; ++n) Store(args, r, output + n, SumLanes(sums[r][n]));
    }
  }
}

template <WeightType kType, int kRows>
void StreamRun(const LinearArgs& args, int64_t begin, int64_t end, float* scales) {
  constexpr int kOutputs = kRows <= 2 ? 4 : 2;
  Stream stream = {
      .x = args.x,
      .weights = static_cast<const uint8_t*>(args.weight.data) + begin * WeightRowBytes(kType, args.weight.columns),
      .row_bytes = WeightRowBytes(kType, args.weight.columns),
      .columns = args.weight.columns,
      .scales = scales};
  stream.prefetch_bytes = kRunOutputs * stream.row_bytes + kPrefetchBytes;
  int64_t scales_per_row = 0;
  if constexpr (kType != WeightType::kF32 && kType != WeightType::kBf16) {
    scales_per_row = stream.columns / kQuantBlock * QuantBlock<kType>::kHalves;
    LoadScales<kType>(stream.weights, (end - begin) * (stream.columns / kQuantBlock), scales);
  }
  for (int64_t output = begin; output < end;) {
    const int64_t taken = output + kOutputs <= end ? kOutputs : 1;
    if (taken == kOutputs) {
      StreamOutputs<kType, kRows, kOutputs>(args, stream, output);
    } else {
      StreamOutputs<kType, kRows, 1>(args, stream, output);
    }
    stream.weights += taken * stream.row_bytes;
    stream.scales += taken * scales_per_row;
    output += taken;
  }
}

template <WeightType kType>
void StreamRows(const LinearArgs& args, int64_t begin, int64_t end, float* scales) {
  for (int64_t run = begin; run < end; run += kRunOutputs) {
    const int64_t run_end = Min(run + kRunOutputs, end);
    switch (args.num_rows) {
      case 1:
        StreamRun<kType, 1>(args, run, run_end, scales);
        break;
      case 2:
        StreamRun<kType, 2>(args, run, run_end, scales);
        break;
      case 3:
        StreamRun<kType, 3>(args, run, run_end, scales);
        break;
      default:
        StreamRun<kType, 4>(args, run, run_end, scales);
        break;
    }
  }
}

void RunStreamed(const LinearArgs& args, int64_t begin, int64_t end, float* scales) {
  switch (args.weight.type) {
    case WeightType::kF32:
      return StreamRows<WeightType::kF32>(args, begin, end, scales);
    case WeightType::kBf16:
      return StreamRows<WeightType::kBf16>(args, begin, end, scales);
    case WeightType::kQ4_0:
      return StreamRows<WeightType::kQ4_0>(args, begin, end, scales);
    case WeightType::kQ4_1:
      return StreamRows<WeightType::kQ4_1>(args, begin, end, scales);
    case WeightType::kQ8_0:
      return StreamRows<WeightType::kQ8_0>(args, begin, end, scales);
    default:
      return;
  }
}

// kRows rows of x by kOutputs widened weight rows, `stride` apart.
template <int kRows, int kOutputs>
void MultiplyTile(const LinearArgs& args, int64_t row, const float* weights, int64_t stride, int64_t output) {
  const int64_t columns = args.weight.columns;
  const float* x = args.x + row * columns;
  __m256 sums[kOutputs][kRows];
  FARSPAN_UNROLL
  for (int n = 0; n < kOutputs; ++n) {
    FARSPAN_UNROLL
    for (int r = 0; r < kRows; ++r) sums[n][r] = _mm256_setzero_ps();
  }
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    __m256 w[kOutputs];
    FARSPAN_UNROLL
    for (int n = 0; n < kOutputs; ++n) w[n] = _mm256_loadu_ps(weights + n * stride + k);
    FARSPAN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m256 values = _mm256_loadu_ps(x + r * columns + k);
      FARSPAN_UNROLL
      for (int n = 0; n < kOutputs; ++n) sums[n][r] = _mm256_fmadd_ps(values, w[n], sums[n][r]);
    }
  }
  if (k < columns) {
    FARSPAN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const __m256 values = LoadFirst(x + r * columns + k, columns - k);
      FARSPAN_UNROLL
      for (int n = 0; n < kOutputs; ++n) {
        sums[n][r] = _mm256_fmadd_ps(values, _mm256_loadu_ps(weights + n * stride + k), sums[n][r]);
      }
    }
  }
  FARSPAN_UNROLL
  for (int n = 0; n < kOutputs; ++n) {
    if constexpr (kRows == 4) {
      float four[4];
      _mm_storeu_ps(four, SumLanes4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]));
      FARSPAN_UNROLL
      for (int r = 0; r < 4; ++r) Store(args, row + r, output + n, four[r]);
    } else {
      FARSPAN_UNROLL
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
  float* scales = weights + TiledOutputs(args) * stride;
  for (int64_t output = begin; output < end; ++output) {
    DequantizeRow(args.weight, output, scales, weights + (output - begin) * stride);
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
    RunStreamed(args, begin, end, static_cast<float*>(scratch));
  } else {
    RunTiled(args, begin, end, static_cast<float*>(scratch));
  }
}

}  // namespace

constinit const KernelOp<LinearArgs> kLinear = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx2
