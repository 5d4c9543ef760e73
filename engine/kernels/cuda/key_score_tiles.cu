// SPDX-License-Identifier: Apache-2.0
// Scores of the keys of lists on tensor cores: a warp takes 16 neighbouring positions at a time against all queries of
// its KV head, with the keys in registers, read once, and the queries in shared memory as they are multiplied.
#include <algorithm>

#include "engine/kernels/cuda/decode_elements.cuh"
#include "engine/kernels/cuda/key_scores.cuh"

namespace farspan::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpThreads;
constexpr int kTileTokens = 16, kTokenTiles = 2;  // a warp's positions, as two tiles of eight
constexpr int kTileRows = 16;
constexpr int kMaxRowTiles = 12;
constexpr int kMaxGroup = 16;

// What the rows of a block are: (query, head of the group), the group padded to a power of two.
struct RowPlan {
  int group_log2;
  int row_tiles;
  int column_log2;  // of its tokens, where they are at most a tile's
};

template <typename Element>
struct Products : decode::F16Element {};  // of f16 and of fp8, which f16 holds
template <>
struct Products<__nv_bfloat16> : decode::Bf16Element {
  __device__ static uint32_t FromBf16(uint32_t packed) { return packed; }
};

// Four neighbouring channels of a key as two fragment words.
__device__ uint2 LoadFour(const __nv_bfloat16* from) { return *reinterpret_cast<const uint2*>(from); }
__device__ uint2 LoadFour(const __half* from) { return *reinterpret_cast<const uint2*>(from); }
__device__ uint2 LoadFour(const __nv_fp8_e4m3* from) {
  const uint4 halves = Fp8ToHalf(make_uint2(*reinterpret_cast<const uint32_t*>(from), 0));
  return make_uint2(halves.x, halves.y);
}
__device__ uint4 LoadEight(const __nv_bfloat16* from) { return __ldcs(reinterpret_cast<const uint4*>(from)); }
__device__ uint4 LoadEight(const __half* from) { return __ldcs(reinterpret_cast<const uint4*>(from)); }
__device__ uint4 LoadEight(const __nv_fp8_e4m3* from) {
  return Fp8ToHalf(__ldcs(reinterpret_cast<const uint2*>(from)));
}

// One list's keys against the queries of its row and KV head. A step multiplies 16 channels: lane % 4 holds eight
// neighbouring ones of every 32 for two steps, and four of the last 16 where head_dim is no multiple of 32.
template <int kHeadDim, typename Element>
class TileScorer {
 public:
  static constexpr int kSteps = kHeadDim / 16;

  __device__ TileScorer(const KeyScoresArgs& args, RowPlan plan, uint4* fragments)
      : args_(args),
        plan_(plan),
        row_(args.rows[blockIdx.z]),
        kv_head_(static_cast<int>(blockIdx.y)),
        group_(static_cast<int>(args.common.num_heads / gridDim.y)),
        fragments_(fragments),
        lse_(reinterpret_cast<float*>(fragments + plan.row_tiles * kSteps * kWarpThreads)),
        pair_(static_cast<int>(threadIdx.x) % 4),
        place_(static_cast<int>(threadIdx.x) % kWarpThreads / 4) {}

  // All threads.
  __device__ void LoadQueries() const {
    for (int i = static_cast<int>(threadIdx.x); i < plan_.row_tiles * kSteps * kWarpThreads; i += kThreads) {
      const int lane = i % kWarpThreads, step = i / kWarpThreads % kSteps, tile = i / kWarpThreads / kSteps;
      const bool is_last = kHeadDim % 32 != 0 && step == kSteps - 1;
      const int channel = is_last ? kHeadDim - 16 + lane % 4 * 4 : step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
      const uint2 upper = QueryFour(tile * kTileRows + lane / 4, channel);
      const uint2 lower = QueryFour(tile * kTileRows + lane / 4 + 8, channel);
      fragments_[i] = make_uint4(upper.x, lower.x, upper.y, lower.y);
    }
    for (int row = static_cast<int>(threadIdx.x); row < plan_.row_tiles * kTileRows; row += kThreads) {
      lse_[row] = IsReal(row) && args_.score == KeyScore::kProbability ? args_.common.lse[Index(row)] : 0.0f;
    }
    __syncthreads();
  }

  // Columns [first, end) of the list, which a warp has to itself.
  __device__ void Run(const KvEntry* entries, int64_t num_entries, float* scores, int64_t first, int64_t end) {
    const int64_t span = max(args_.column_tokens, int64_t{kTileTokens});
    scores_ = scores;
    cursor_ = FindEntry(entries, num_entries, first);
    for (int64_t begin = first; begin < end && cursor_ < num_entries; begin += span) {
      bool any = false;
      for (float& value : carry_) value = ScoreFoldStart(args_.over_columns);
      for (int64_t base = begin; base < begin + span; base += kTileTokens) {
        if (TakeTokens(entries, num_entries, base)) any = true, ScoreTokens(base);
      }
      if (args_.column_tokens > kTileTokens && any) {
        for (int half = 0; half < 2; ++half) {
          float* const cell = Cell(0, half);
          if (cell != nullptr && pair_ == 0) cell[begin / args_.column_tokens] = carry_[half];
        }
      }
    }
  }

 private:
  __device__ int QueryOf(int row) const { return row >> plan_.group_log2; }
  __device__ int HeadOf(int row) const { return row & ((1 << plan_.group_log2) - 1); }
  __device__ bool IsReal(int row) const { return HeadOf(row) < group_ && QueryOf(row) < row_.num_queries; }
  __device__ int64_t Index(int row) const {
    return (row_.row + QueryOf(row)) * args_.common.num_heads + kv_head_ * group_ + HeadOf(row);
  }
  __device__ bool folds_group() const { return args_.over_group != ScoreFold::kNone; }
  __device__ bool folds_queries() const { return args_.over_queries != ScoreFold::kNone; }

  __device__ uint2 QueryFour(int row, int channel) const {
    if (!IsReal(row)) return make_uint2(0, 0);
    const auto* q = static_cast<const uint16_t*>(args_.common.q) + Index(row) * kHeadDim + channel;
    const uint2 words = *reinterpret_cast<const uint2*>(q);
    return make_uint2(Products<Element>::FromBf16(words.x), Products<Element>::FromBf16(words.y));
  }

  // What the list has of positions [base, base + 16): a token a lane of the first 16. False where it has none.
  __device__ bool TakeTokens(const KvEntry* entries, int64_t num_entries, int64_t base) {
    const int64_t position = base + threadIdx.x % kTileTokens;
    bool present = false, ignores_window = false, turns = false;
    int64_t key = 0;
    uint32_t mask = 0;
    for (; cursor_ < num_entries; ++cursor_) {
      const KvEntry entry = entries[cursor_];
      if (entry.position >= base + kTileTokens) break;
      const int64_t offset = position - entry.position;
      if (offset >= 0 && offset < entry.num_valid) {
        present = true;
        const KvLayerView& cache = args_.common.cache;
        key = entry.page * cache.page_elements() + kv_head_ * 2 * cache.plane_elements() +
              (entry.first_valid + offset) * kHeadDim;
        mask = entry.head_mask, ignores_window = entry.ignores_left_window;
        turns = row_.first_position + row_.num_queries - 1 > entry.query_cap;
        cap_ = entry.query_cap;
      }
      if (entry.position + entry.num_valid >= base + kTileTokens) {
        if (entry.position + entry.num_valid == base + kTileTokens) ++cursor_;
        break;
      }
    }
    key_ = key, mask_ = mask;
    present_ = __ballot_sync(kWholeWarp, present) & 0xffffu;
    ignoring_ = __ballot_sync(kWholeWarp, present && ignores_window);
    turning_ = __ballot_sync(kWholeWarp, present && turns) & 0xffffu;
    const bool all_heads = __all_sync(kWholeWarp, mask == kAllHeads || threadIdx.x % kWarpThreads >= kTileTokens);
    const int64_t last_behind = row_.first_position + row_.num_queries - 1 - base;
    is_seen_ = all_heads && row_.first_position >= base + kTileTokens - 1 && last_behind < row_.left_window;
    return present_ != 0;
  }

  __device__ void LoadKeys(uint32_t (&words)[kTokenTiles][kSteps][2]) const {
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int token = tile * 8 + place_;
      const int64_t offset = __shfl_sync(kWholeWarp, key_, token);
      const bool present = (present_ >> token & 1u) != 0;
      const Element* const key = static_cast<const Element*>(args_.common.cache.data) + offset;
#pragma unroll
      for (int block = 0; block < kHeadDim / 32; ++block) {
        const uint4 eight = present ? LoadEight(key + block * 32 + pair_ * 8) : make_uint4(0, 0, 0, 0);
        words[tile][2 * block][0] = eight.x, words[tile][2 * block][1] = eight.y;
        words[tile][2 * block + 1][0] = eight.z, words[tile][2 * block + 1][1] = eight.w;
      }
      if constexpr (kHeadDim % 32 != 0) {
        const uint2 four = present ? LoadFour(key + kHeadDim - 16 + pair_ * 4) : make_uint2(0, 0);
        words[tile][kSteps - 1][0] = four.x, words[tile][kSteps - 1][1] = four.y;
      }
    }
  }

  // values[tile][i]: row place + i / 2 * 8 of a tile of rows, token 2 * pair + i % 2 of a tile of tokens.
  using Values = float[kTokenTiles][4];

  __device__ void ScoreTokens(int64_t base) {
    uint32_t words[kTokenTiles][kSteps][2];
    LoadKeys(words);
    Values folded;
#pragma unroll
    for (auto& tile : folded) {
      for (float& value : tile) value = ScoreFoldStart(args_.over_queries);
    }
    for (int row_tile = 0; row_tile < plan_.row_tiles; ++row_tile) {
      Values values = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const uint4 loaded = fragments_[(row_tile * kSteps + step) * kWarpThreads + threadIdx.x % kWarpThreads];
        const uint32_t rows[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
        for (int tile = 0; tile < kTokenTiles; ++tile)
          Products<Element>::MultiplyAdd(values[tile], rows, words[tile][step]);
      }
      ToScores(base, row_tile, values);
      if (folds_group()) FoldGroup(values);
      if (!folds_queries()) {
        Store(base, row_tile, values);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kTokenTiles * 4; ++i) {
        if (QueryOf(row_tile * kTileRows + place_ + i % 4 / 2 * 8) >= row_.num_queries) continue;
        folded[i / 4][i % 4] = FoldScore(args_.over_queries, folded[i / 4][i % 4], values[i / 4][i % 4]);
      }
    }
    if (!folds_queries()) return;
    FoldLanes(args_.over_queries, 4 << min(plan_.group_log2, 3), kWarpThreads, folded);
    if (plan_.group_log2 < 4) FoldHalves(args_.over_queries, folded);
    Store(base, 0, folded);
  }

  // Products to scores.
  __device__ void ToScores(int64_t base, int row_tile, Values& values) const {
#pragma unroll
    for (int i = 0; i < kTokenTiles * 4; ++i) values[i / 4][i % 4] *= args_.common.scale;
    if (turning_ != 0) TurnLogits(row_tile, values);
    const bool is_logit = args_.score == KeyScore::kLogit;
    if (is_seen_) {
#pragma unroll
      for (int i = 0; i < kTokenTiles * 4; ++i) {
        const int row = row_tile * kTileRows + place_ + i % 4 / 2 * 8;
        float& value = values[i / 4][i % 4];
        if (!is_logit) value = __expf(value - lse_[row]);
        if (HeadOf(row) >= group_) value = ScoreFoldStart(args_.over_group);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kTokenTiles * 4; ++i) {
      const int row = row_tile * kTileRows + place_ + i % 4 / 2 * 8, token = i / 4 * 8 + pair_ * 2 + i % 2;
      const uint32_t mask = __shfl_sync(kWholeWarp, mask_, token);
      const int64_t behind = row_.first_position + QueryOf(row) - (base + token);
      const bool visible = (mask >> HeadOf(row) & 1u) != 0 && behind >= 0 &&
                           ((ignoring_ >> token & 1u) != 0 || behind < row_.left_window);
      float& value = values[i / 4][i % 4];
      if (is_logit) {
        value = visible ? value : -INFINITY;
      } else {
        value = visible ? __expf(value - lse_[row]) : 0.0f;
      }
      if (HeadOf(row) >= group_) value = ScoreFoldStart(args_.over_group);
    }
  }

  // Logits of queries that an entry turns, one after the other: turned queries are not rounded.
  __device__ void TurnLogits(int row_tile, Values& values) const {
    const Element* const keys = static_cast<const Element*>(args_.common.cache.data);
    for (int token = 0; token < kTileTokens; ++token) {
      if ((turning_ >> token & 1u) == 0) continue;
      const int64_t cap = __shfl_sync(kWholeWarp, cap_, token), offset = __shfl_sync(kWholeWarp, key_, token);
      const LanePairs key = LoadPairs(keys + offset, kHeadDim);
      for (int i = 0; i < kTileRows; ++i) {
        const int row = row_tile * kTileRows + i;
        if (!IsReal(row) || row_.first_position + QueryOf(row) <= cap) continue;
        LanePairs q = LoadPairs(static_cast<const __nv_bfloat16*>(args_.common.q) + Index(row) * kHeadDim, kHeadDim);
        Turn(args_.common, row_.row + QueryOf(row), cap, &q);
        const float logit = Product(q, key) * args_.common.scale;
        const bool mine = place_ == i % 8 && pair_ == token % 8 / 2;
#pragma unroll
        for (int j = 0; j < kTokenTiles * 4; ++j) {
          if (mine && j == token / 8 * 4 + i / 8 * 2 + token % 2) values[j / 4][j % 4] = logit;
        }
      }
    }
  }

  __device__ static void FoldLanes(ScoreFold fold, int begin, int end, Values& values) {
    for (int lanes = begin; lanes < end; lanes *= 2) {
#pragma unroll
      for (int i = 0; i < kTokenTiles * 4; ++i) {
        float& value = values[i / 4][i % 4];
        value = FoldScore(fold, value, __shfl_xor_sync(kWholeWarp, value, lanes));
      }
    }
  }
  __device__ static void FoldHalves(ScoreFold fold, Values& values) {
#pragma unroll
    for (auto& tile : values) {
      tile[0] = FoldScore(fold, tile[0], tile[2]);
      tile[1] = FoldScore(fold, tile[1], tile[3]);
    }
  }
  __device__ void FoldGroup(Values& values) const {
    FoldLanes(args_.over_group, 4, 4 << min(plan_.group_log2, 3), values);
    if (plan_.group_log2 == 4) FoldHalves(args_.over_group, values);
  }

  // Where a row's scores go, null where another lane's or nobody's do.
  __device__ float* Cell(int row_tile, int half) const {
    const int row = row_tile * kTileRows + place_ + half * 8, head = HeadOf(row), query = QueryOf(row);
    const bool is_cell =
        (folds_group() ? head == 0 : head < group_) && (folds_queries() ? query == 0 : query < row_.num_queries);
    if (!is_cell) return nullptr;
    const int64_t queries = folds_queries() ? 1 : args_.max_queries;
    return scores_ + ((folds_group() ? 0 : head) * queries + (folds_queries() ? 0 : query)) * args_.max_columns;
  }

  // Scores of the rows' cells to their columns, or to what is carried to the next tokens of a longer one.
  __device__ void Store(int64_t base, int row_tile, Values& values) {
    const int column_tokens = 1 << plan_.column_log2;
    if (column_tokens > 1) FoldColumns(column_tokens, values);
    for (int half = 0; half < 2; ++half) {
      if (args_.column_tokens > kTileTokens) {
        carry_[half] = FoldScore(args_.over_columns, carry_[half], values[0][2 * half]);
        continue;
      }
      float* const cell = Cell(row_tile, half);
      if (cell == nullptr) continue;
#pragma unroll
      for (int i = 0; i < kTokenTiles * 2; ++i) {
        const int token = i / 2 * 8 + pair_ * 2 + i % 2;
        const uint32_t column = ((1u << column_tokens) - 1) << token;
        if (token % column_tokens != 0 || (present_ & column) == 0) continue;
        cell[(base >> plan_.column_log2) + (token >> plan_.column_log2)] = values[i / 2][2 * half + i % 2];
      }
    }
  }

  // The first token of each column gets all of it.
  __device__ void FoldColumns(int column_tokens, Values& values) const {
    const ScoreFold fold = args_.over_columns;
#pragma unroll
    for (int i = 0; i < kTokenTiles * 4; ++i) {
      const int token = i / 4 * 8 + pair_ * 2 + i % 2;
      if ((present_ >> token & 1u) == 0) values[i / 4][i % 4] = ScoreFoldStart(fold);
    }
#pragma unroll
    for (auto& tile : values) {
      tile[0] = FoldScore(fold, tile[0], tile[1]);
      tile[2] = FoldScore(fold, tile[2], tile[3]);
    }
    FoldLanes(fold, 1, min(column_tokens / 2, 4), values);
    if (column_tokens < kTileTokens) return;
    values[0][0] = FoldScore(fold, values[0][0], values[1][0]);
    values[0][2] = FoldScore(fold, values[0][2], values[1][2]);
  }

  const KeyScoresArgs& args_;
  const RowPlan plan_;
  const KeyScoreRow row_;
  const int kv_head_, group_;
  uint4* const fragments_;  // [row tile][step][lane]
  float* const lse_;        // [row]
  const int pair_, place_;  // lane % 4, lane / 4
  float* scores_ = nullptr;
  float carry_[2] = {};
  int64_t cursor_ = 0;  // the first entry that ends behind the positions so far
  // Of the lane's token; the last three of all 16.
  int64_t key_ = 0, cap_ = 0;
  uint32_t mask_ = 0;
  uint32_t present_ = 0, ignoring_ = 0, turning_ = 0;
  bool is_seen_ = false;  // by every query of every head
};

// A grid of [splits][KV heads][rows]; each warp of a list's splits has as many neighbouring spans of positions.
template <int kHeadDim, typename Element>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 128 ? 2 : 1)
    TileScoresKernel(KeyScoresArgs args, RowPlan plan) {
  extern __shared__ uint4 fragments[];
  LetNextStart();
  WaitForPrevious();
  const int64_t task = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const KvList list = args.lists[task];
  if (list.num_entries == 0) return;
  TileScorer<kHeadDim, Element> scorer(args, plan, fragments);
  scorer.LoadQueries();
  const KvEntry* const entries = args.common.entries + list.entries_begin;
  const KvEntry& last = entries[list.num_entries - 1];
  const int64_t span = max(args.column_tokens, int64_t{kTileTokens});
  const int64_t first_span = entries[0].position / span,
                num_spans = (last.position + last.num_valid - 1) / span + 1 - first_span;
  const int64_t warps = int64_t{gridDim.x} * kWarps, warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpThreads;
  const int64_t first = num_spans * warp / warps, end = num_spans * (warp + 1) / warps;
  if (first == end) return;
  const int64_t group = args.common.num_heads / gridDim.y;
  const int64_t cells = (args.over_group == ScoreFold::kNone ? group : 1) *
                        (args.over_queries == ScoreFold::kNone ? args.max_queries : 1);
  scorer.Run(entries, list.num_entries, args.scores + task * cells * args.max_columns, (first_span + first) * span,
             (first_span + end) * span);
}

// Columns lie within 16 positions or consist of as many.
bool Supports(const KeyScoresArgs& args, const RowPlan& plan) {
  const int64_t tokens = args.column_tokens;
  const bool fits = tokens <= kTileTokens ? kTileTokens % tokens == 0 : tokens % kTileTokens == 0;
  const bool carries = tokens <= kTileTokens || plan.row_tiles == 1 || args.over_queries != ScoreFold::kNone;
  return fits && carries && args.common.activation == Activation::kBf16 && plan.group_log2 <= 4 &&
         plan.row_tiles <= kMaxRowTiles && CurrentDeviceTraits().compute_major >= 8;
}

template <int kHeadDim>
cudaError_t Launch(const KeyScoresArgs& args, const RowPlan& plan, cudaStream_t stream) {
  const KvLayerView& cache = args.common.cache;
  const size_t shared_bytes =
      static_cast<size_t>(plan.row_tiles) * (kHeadDim / 16 * kWarpThreads * sizeof(uint4) + kTileRows * sizeof(float));
  constexpr size_t kMaxSharedBytes = 48 << 10;
  if (shared_bytes > kMaxSharedBytes) return cudaErrorInvalidValue;
  const int64_t lists = args.num_rows * cache.num_kv_heads;
  const int64_t resident = (kHeadDim <= 128 ? 2 : 1) * CurrentDeviceTraits().num_multiprocessors;
  const int64_t tiles = (args.max_columns * args.column_tokens + kTileTokens - 1) / kTileTokens;
  const int64_t splits = std::clamp<int64_t>(resident / lists, 1, (tiles + kWarps - 1) / kWarps);
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(cache.num_kv_heads),
                  static_cast<unsigned>(args.num_rows));
  const auto launch = [&]<typename Element>() {
    return LaunchKernel(TileScoresKernel<kHeadDim, Element>, grid, kThreads, shared_bytes, stream, args, plan);
  };
  switch (cache.element) {
    case KvElement::kBf16:
      return launch.template operator()<__nv_bfloat16>();
    case KvElement::kF16:
      return launch.template operator()<__half>();
    case KvElement::kF8E4M3:
      return launch.template operator()<__nv_fp8_e4m3>();
    case KvElement::kF32:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchKeyScoreTiles(const KeyScoresArgs& args, cudaStream_t stream) {
  RowPlan plan = {};
  const int64_t group = args.common.num_heads / args.common.cache.num_kv_heads;
  while ((int64_t{1} << plan.group_log2) < std::min<int64_t>(group, kMaxGroup + 1)) ++plan.group_log2;
  const int64_t rows = args.max_queries << plan.group_log2;
  plan.row_tiles = static_cast<int>(std::min<int64_t>((rows + kTileRows - 1) / kTileRows, kMaxRowTiles + 1));
  while (int64_t{1} << plan.column_log2 < std::min<int64_t>(args.column_tokens, kTileTokens)) ++plan.column_log2;
  if (!Supports(args, plan)) return cudaErrorInvalidValue;
  switch (args.common.cache.head_dim) {
    case 64:
      return Launch<64>(args, plan, stream);
    case 80:
      return Launch<80>(args, plan, stream);
    case 96:
      return Launch<96>(args, plan, stream);
    case 128:
      return Launch<128>(args, plan, stream);
    case 256:
      return Launch<256>(args, plan, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace farspan::kernels::cuda
