// SPDX-License-Identifier: Apache-2.0
// y = x W^T of panels and packed rows: sixteen outputs are sixteen lanes. The products of 32 columns are summed as
// integers, which is exact in any order; the blocks' sums are then added in ascending order, scaled, in float32. So a
// row never depends on how many others run beside it. Other weights are left to AVX2.
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx512/kernels.h"
#include "engine/kernels/cpu/avx512/packed_rows.h"
#include "engine/kernels/cpu/avx512/simd.h"
#include "engine/kernels/weight_panels.h"

namespace farspan::kernels::avx512 {
namespace {

constexpr int kTileRows = 8;  // of x at a time: as many integer and float32 sums, sixteen registers
constexpr int kPairs = 16;    // of columns in a panel
// How far ahead weights are asked for, into the second-level cache: the first has too few miss buffers for memory.
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kLineBytes = 64;

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

bool Fits(const LinearArgs& args) { return args.packed_x != nullptr && IsPanel(args.weight.type); }

int64_t StripBytes(const LinearArgs& args) {
  return kPanelRows * WeightRowBytes(args.weight.type, args.weight.columns);
}

// Strips of 16 outputs a task: enough tasks to share out, each long enough for memory to stream; with many rows of x,
// few enough strips for the first-level cache.
int64_t StripsPerTask(const LinearArgs& args) {
  constexpr int64_t kTasks = 16, kMinBytes = 16 << 10, kMaxBytes = 128 << 10, kCachedBytes = 20 << 10;
  const int64_t strip_bytes = StripBytes(args), total_bytes = args.weight.rows / kPanelRows * strip_bytes;
  const int64_t bytes = args.num_rows > kTileRows ? kCachedBytes : Min(kMaxBytes, Max(kMinBytes, total_bytes / kTasks));
  return Max(1, bytes / strip_bytes);
}

int64_t NumTasks(const LinearArgs& args) {
  if (!Fits(args)) return avx2::kLinear.num_tasks(args);
  const int64_t outputs = StripsPerTask(args) * kPanelRows;
  return (args.weight.rows + outputs - 1) / outputs;
}

int64_t ScratchBytes(const LinearArgs& args) { return Fits(args) ? 0 : avx2::kLinear.scratch_bytes(args); }

// The levels of a panel as pairs of 16 bits a lane, four or two pairs of columns at a time.
template <WeightType kType>
struct PanelPairs {
  static constexpr int kAtOnce = 4;
  static inline void Load(const uint8_t* levels, int first, __m512i (&pairs)[kAtOnce]) {
    const __m512i words = _mm512_loadu_si512(levels + first * 16), nibbles = _mm512_set1_epi32(0x000f000f);
    pairs[0] = _mm512_and_si512(words, nibbles);
    pairs[1] = _mm512_and_si512(_mm512_srli_epi32(words, 4), nibbles);
    pairs[2] = _mm512_and_si512(_mm512_srli_epi32(words, 8), nibbles);
    pairs[3] = _mm512_and_si512(_mm512_srli_epi32(words, 12), nibbles);
  }
};

template <>
struct PanelPairs<WeightType::kPanel8> {
  static constexpr int kAtOnce = 2;
  static inline void Load(const uint8_t* levels, int first, __m512i (&pairs)[kAtOnce]) {
    FARSPAN_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const auto* bytes = reinterpret_cast<const __m256i*>(levels + (first + i) * 32);
      pairs[i] = _mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes));
    }
  }
};

inline __m512 LoadHalves(const uint8_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

inline __m512i AddChains(const __m512i (&chains)[1]) { return chains[0]; }
inline __m512i AddChains(const __m512i (&chains)[2]) { return _mm512_add_epi32(chains[0], chains[1]); }
inline __m512i AddChains(const __m512i (&chains)[4]) {
  return _mm512_add_epi32(_mm512_add_epi32(chains[0], chains[1]), _mm512_add_epi32(chains[2], chains[3]));
}

// kRows packed rows of x.
template <int kRows>
struct RowsOfX {
  const int16_t* levels[kRows];
  const float* scales[kRows];
  const float* scaled_sums[kRows];
  const int32_t* sums[kRows];
};

// Adds the products of one panel. With few rows each has several integer sums, so that their chains overlap.
template <WeightType kType, int kRows>
inline void AddPanel(const uint8_t* panel, const RowsOfX<kRows>& x, int64_t block, __m512 (&out)[kRows]) {
  constexpr PanelTraits kTraits = TraitsOfPanels(kType);
  constexpr int kAtOnce = PanelPairs<kType>::kAtOnce;
  constexpr int kChains = kRows == 1 ? kAtOnce : kRows <= 3 ? 2 : 1;
  __m512i sums[kRows][kChains];
  FARSPAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FARSPAN_UNROLL
    for (int c = 0; c < kChains; ++c) sums[r][c] = _mm512_setzero_si512();
    // The levels of what is not finite mean nothing, and their sum may wrap: the scale decides.
    if constexpr (kTraits.offset != 0) {
      const uint32_t offset = static_cast<uint32_t>(kTraits.offset) * static_cast<uint32_t>(x.sums[r][block]);
      sums[r][0] = _mm512_set1_epi32(static_cast<int32_t>(0u - offset));
    }
  }
  FARSPAN_UNROLL
  for (int first = 0; first < kPairs; first += kAtOnce) {
    __m512i pairs[kAtOnce];
    PanelPairs<kType>::Load(panel + kTraits.levels_at(), first, pairs);
    FARSPAN_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      FARSPAN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, x.levels[r] + block * kPanelColumns + 2 * (first + i), sizeof(pair));
        sums[r][i % kChains] = _mm512_dpwssd_epi32(sums[r][i % kChains], pairs[i], _mm512_set1_epi32(pair));
      }
    }
  }
  const __m512 scales = LoadHalves(panel);
  FARSPAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const __m512 sum = _mm512_cvtepi32_ps(AddChains(sums[r]));
    const __m512 scaled = _mm512_mul_ps(sum, _mm512_set1_ps(x.scales[r][block]));
    out[r] = _mm512_fmadd_ps(scaled, scales, out[r]);
    if constexpr (kTraits.has_min) {
      out[r] = _mm512_fmadd_ps(LoadHalves(panel + 32), _mm512_set1_ps(x.scaled_sums[r][block]), out[r]);
    }
  }
}

// kRows rows from `row` on by the strips [begin, end).
template <WeightType kType, int kRows>
void MultiplyRows(const LinearArgs& args, int64_t row, int64_t begin, int64_t end) {
  constexpr PanelTraits kTraits = TraitsOfPanels(kType);
  const int64_t columns = args.weight.columns, num_blocks = columns / kPanelColumns;
  RowsOfX<kRows> x;
  FARSPAN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const PackedRow packed = PackedRowAt(const_cast<void*>(args.packed_x), row + r, columns);
    x.levels[r] = packed.levels;
    x.scales[r] = packed.scales;
    x.scaled_sums[r] = packed.scaled_sums;
    x.sums[r] = packed.sums;
  }
  const uint8_t* panel = static_cast<const uint8_t*>(args.weight.data) + begin * num_blocks * kTraits.panel_bytes();
  for (int64_t strip = begin; strip < end; ++strip) {
    __m512 sums[kRows];
    FARSPAN_UNROLL
    for (int r = 0; r < kRows; ++r) sums[r] = _mm512_setzero_ps();
    for (int64_t block = 0; block < num_blocks; ++block, panel += kTraits.panel_bytes()) {
      for (int64_t line = 0; line < kTraits.panel_bytes(); line += kLineBytes) {
        _mm_prefetch(reinterpret_cast<const char*>(panel) + kPrefetchBytes + line, _MM_HINT_T1);
      }
      AddPanel<kType, kRows>(panel, x, block, sums);
    }
    FARSPAN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float* y = args.y + (row + r) * args.weight.rows + strip * kPanelRows;
      _mm512_storeu_ps(y, args.accumulate ? _mm512_add_ps(_mm512_loadu_ps(y), sums[r]) : sums[r]);
    }
  }
}

template <WeightType kType>
void MultiplyStrips(const LinearArgs& args, int64_t begin, int64_t end) {
  int64_t row = 0;
  for (; row + kTileRows <= args.num_rows; row += kTileRows) MultiplyRows<kType, kTileRows>(args, row, begin, end);
  const int64_t left = args.num_rows - row;
  if (left >= 4) {
    MultiplyRows<kType, 4>(args, row, begin, end);
    row += 4;
  }
  if (left % 4 >= 2) {
    MultiplyRows<kType, 2>(args, row, begin, end);
    row += 2;
  }
  if (left % 2 == 1) MultiplyRows<kType, 1>(args, row, begin, end);
}

void Run(const LinearArgs& args, int64_t task, void* scratch) {
  if (!Fits(args)) return avx2::kLinear.run(args, task, scratch);
  const int64_t strips = StripsPerTask(args), begin = task * strips;
  const int64_t end = Min(begin + strips, args.weight.rows / kPanelRows);
  switch (args.weight.type) {
    case WeightType::kPanel4:
      return MultiplyStrips<WeightType::kPanel4>(args, begin, end);
    case WeightType::kPanel4Min:
      return MultiplyStrips<WeightType::kPanel4Min>(args, begin, end);
    default:
      return MultiplyStrips<WeightType::kPanel8>(args, begin, end);
  }
}

}  // namespace

constinit const KernelOp<LinearArgs> kLinear = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx512
