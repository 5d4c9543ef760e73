// SPDX-License-Identifier: Apache-2.0
// One task is a run of a tile's queries for one KV head of a bf16 cache. A page of K (transposed) and V is widened to
// float32 once and read by every query and every head whose list is the same; blocks of sixteen (query, head) pairs
// take it, so that their softmax updates are one vector's work. A score is one chain of FMAs over the channels, an
// output one chain over the tokens that its query sees, a page one softmax update: so no result depends on which
// queries share a task.
#include <cmath>
#include <cstring>

#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx512/kernels.h"
#include "engine/kernels/cpu/avx512/simd.h"
#include "engine/kernels/cpu/prefill_walk.h"

namespace farspan::kernels::avx512 {
namespace {

constexpr int64_t kBlockPairs = 16;  // a lane each in softmax updates
constexpr int kScorePairs = 8;       // in a register tile of 8 x 2 vectors
constexpr int kValuePairs = 4;       // in a register tile of 4 x 4 vectors
constexpr int64_t kChannels = 32;

// Other elements and shapes are left to AVX2.
bool Fits(const AttentionCommon& common) {
  return common.cache.element == KvElement::kBf16 && common.cache.head_dim % kChannels == 0;
}

int64_t PaddedPairs(const AttentionCommon& common) {
  return (MaxPairs(common) + kBlockPairs - 1) / kBlockPairs * kBlockPairs;
}

// The heads of one KV head that read the same list, over the task's queries.
struct Walk {
  const AttentionCommon* common;
  PrefillTask task;
  int64_t head_dim;
  int64_t padded_tokens;
  uint32_t heads;     // bit h: head h of the group is among the pairs
  int64_t num_pairs;  // query-major; up to whole blocks, pairs beyond see nothing
  QueryTurner turner;
  QueryPair* pairs;
  TokenSpan* seen;      // [kBlockPairs], what each pair of the block sees of the entry at work
  float* keys;          // [head_dim][padded_tokens], transposed
  float* values;        // [padded_tokens][head_dim]
  float* scores;        // [kBlockPairs][padded_tokens]
  float* decays;        // [kBlockPairs]
  float* maxima;        // [pairs]
  float* denominators;  // [pairs]
  float* out;           // [pairs][head_dim]
  uint8_t* token_seen;  // [padded_tokens], 1 for tokens of the page that some query sees

  int64_t last_position() const { return task.first_position + task.num_queries - 1; }
};

int64_t ScratchBytes(const PrefillAttentionArgs& args) {
  const AttentionCommon& common = args.common;
  const int64_t head_dim = common.cache.head_dim, tokens = RoundUpToLanes(common.cache.page_tokens);
  const int64_t pairs = PaddedPairs(common);
  const int64_t floats = 2 * head_dim * tokens + kBlockPairs * tokens + kBlockPairs + 2 * pairs + pairs * head_dim;
  const int64_t own = floats * static_cast<int64_t>(sizeof(float)) + QueryTurnerScratchBytes(common) +
                      pairs * static_cast<int64_t>(sizeof(QueryPair)) +
                      kBlockPairs * static_cast<int64_t>(sizeof(TokenSpan)) + tokens;
  const int64_t other = avx2::kPrefillAttention.scratch_bytes(args);
  return own > other ? own : other;
}

void CarveScratch(void* scratch, Walk* walk) {
  const int64_t pairs = PaddedPairs(*walk->common);
  walk->keys = static_cast<float*>(scratch);
  walk->values = walk->keys + walk->head_dim * walk->padded_tokens;
  walk->out = walk->values + walk->padded_tokens * walk->head_dim;
  walk->scores = walk->out + pairs * walk->head_dim;
  walk->decays = walk->scores + kBlockPairs * walk->padded_tokens;
  walk->maxima = walk->decays + kBlockPairs;
  walk->denominators = walk->maxima + pairs;
  walk->pairs = reinterpret_cast<QueryPair*>(walk->denominators + pairs);
  walk->seen = reinterpret_cast<TokenSpan*>(walk->pairs + pairs);
  walk->turner = MakeQueryTurner(*walk->common, walk->task, walk->seen + kBlockPairs);
  walk->token_seen = reinterpret_cast<uint8_t*>(walk->turner.turn + walk->common->rope_dim);
}

// Lanes become rows: rows[i] receives lane i of each of the sixteen vectors.
inline void Transpose16(__m512 (&rows)[16]) {
  __m512 pairs[16], quads[16];
  FARSPAN_UNROLL
  for (int i = 0; i < 8; ++i) {
    pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  FARSPAN_UNROLL
  for (int i = 0; i < 4; ++i) {
    FARSPAN_UNROLL
    for (int j = 0; j < 2; ++j) {
      quads[4 * i + 2 * j] = _mm512_shuffle_ps(pairs[4 * i + j], pairs[4 * i + 2 + j], _MM_SHUFFLE(1, 0, 1, 0));
      quads[4 * i + 2 * j + 1] = _mm512_shuffle_ps(pairs[4 * i + j], pairs[4 * i + 2 + j], _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
  FARSPAN_UNROLL
  for (int i = 0; i < 4; ++i) {
    const __m512 low = _mm512_shuffle_f32x4(quads[i], quads[4 + i], 0x88);
    const __m512 high = _mm512_shuffle_f32x4(quads[8 + i], quads[12 + i], 0x88);
    const __m512 low_odd = _mm512_shuffle_f32x4(quads[i], quads[4 + i], 0xdd);
    const __m512 high_odd = _mm512_shuffle_f32x4(quads[8 + i], quads[12 + i], 0xdd);
    rows[i] = _mm512_shuffle_f32x4(low, high, 0x88);
    rows[8 + i] = _mm512_shuffle_f32x4(low, high, 0xdd);
    rows[4 + i] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
    rows[12 + i] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
  }
}

inline __m512 Widen16(const Bf16* values) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// Widens and transposes the seen tokens of the sixteen that start at `base`; the others become zeros and are never
// read from the page.
void WidenKeys(const Bf16* keys, int64_t base, const Walk& walk) {
  for (int64_t d = 0; d < walk.head_dim; d += kLanes) {
    __m512 rows[16];
    for (int64_t i = 0; i < kLanes; ++i) {
      const bool seen = walk.token_seen[base + i] != 0;
      rows[i] = seen ? Widen16(keys + (base + i) * walk.head_dim + d) : _mm512_setzero_ps();
    }
    Transpose16(rows);
    FARSPAN_UNROLL
    for (int i = 0; i < 16; ++i) _mm512_store_ps(walk.keys + (d + i) * walk.padded_tokens + base, rows[i]);
  }
}

// Widens what any query sees of the page run [begin, end); false where that is nothing.
bool WidenPage(const KvEntry* begin, const KvEntry* end, const Bf16* keys, const Walk& walk) {
  std::memset(walk.token_seen, 0, static_cast<size_t>(walk.padded_tokens));
  const Bf16* values = keys + walk.common->cache.plane_elements();
  bool any_seen = false;
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, walk.task.first_position, walk.last_position(), walk.task.left_window);
    if (span.begin >= span.end || (entry->head_mask & walk.heads) == 0) continue;
    std::memset(walk.token_seen + span.begin, 1, static_cast<size_t>(span.end - span.begin));
    for (int64_t i = span.begin * walk.head_dim; i < span.end * walk.head_dim; i += kLanes) {
      _mm512_store_ps(walk.values + i, Widen16(values + i));
    }
    any_seen = true;
  }
  for (int64_t base = 0; any_seen && base < walk.padded_tokens; base += kLanes) {
    uint64_t sixteen[2];
    std::memcpy(sixteen, walk.token_seen + base, sizeof(sixteen));
    if ((sixteen[0] | sixteen[1]) != 0) WidenKeys(keys, base, walk);
  }
  return any_seen;
}

// scores[pair][token] of kVectors * 16 tokens, kept where `seen` says so.
template <int kVectors>
inline void ScoreTile(const float* const* q, const float* keys, const Walk& walk, const TokenSpan* seen, int64_t token,
                      float* scores) {
  __m512 sums[kScorePairs][kVectors];
  FARSPAN_UNROLL
  for (int i = 0; i < kScorePairs; ++i) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_setzero_ps();
  }
  for (int64_t d = 0; d < walk.head_dim; ++d, keys += walk.padded_tokens) {
    __m512 key[kVectors];
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) key[v] = _mm512_load_ps(keys + v * kLanes);
    FARSPAN_UNROLL
    for (int i = 0; i < kScorePairs; ++i) {
      const __m512 channel = _mm512_set1_ps(q[i][d]);
      FARSPAN_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_fmadd_ps(channel, key[v], sums[i][v]);
    }
  }
  const __m512 scale = _mm512_set1_ps(walk.common->scale);
  FARSPAN_UNROLL
  for (int i = 0; i < kScorePairs; ++i) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t first = token + v * kLanes;
      const __mmask16 mask = LaneMask(seen[i].begin - first, seen[i].end - first);
      _mm512_mask_store_ps(scores + i * walk.padded_tokens + v * kLanes, mask, _mm512_mul_ps(sums[i][v], scale));
    }
  }
}

// What each pair of the block sees of `entry`; whether that is all of it for each pair that is one. Queries between two
// that see all of it do too.
bool FindSeen(const KvEntry& entry, int64_t first_pair, const Walk& walk) {
  const int64_t past = first_pair + kBlockPairs < walk.num_pairs ? first_pair + kBlockPairs : walk.num_pairs;
  const int64_t first = walk.pairs[first_pair].position, last = walk.pairs[past - 1].position;
  const TokenSpan by_first = VisibleTokens(entry, first, walk.task.left_window);
  const TokenSpan by_last = VisibleTokens(entry, last, walk.task.left_window);
  const bool read_by_all = (entry.head_mask & walk.heads) == walk.heads;
  if (read_by_all && by_first.end - by_first.begin == entry.num_valid && by_last.begin == by_first.begin &&
      by_last.end == by_first.end) {
    for (int64_t i = 0; i < kBlockPairs; ++i) walk.seen[i] = by_first;
    return true;
  }
  bool all = true;
  for (int64_t i = 0; i < kBlockPairs; ++i) {
    walk.seen[i] = {0, 0};
    if (first_pair + i >= walk.num_pairs) continue;
    const QueryPair& pair = walk.pairs[first_pair + i];
    if (ReadsEntry(entry, pair.head_in_group)) {
      walk.seen[i] = VisibleTokens(entry, pair.position, walk.task.left_window);
    }
    all = all && walk.seen[i].end - walk.seen[i].begin == entry.num_valid;
  }
  return all;
}

void ScoreEntry(const KvEntry& entry, int64_t first_pair, TokenSpan span, Walk* walk) {
  for (int64_t half = 0; half < kBlockPairs; half += kScorePairs) {
    const float* q[kScorePairs];
    for (int64_t i = 0; i < kScorePairs; ++i) {
      const int64_t wanted = first_pair + half + i, index = wanted < walk->num_pairs ? wanted : first_pair;
      q[i] = QueryForCap(index, entry.query_cap, &walk->pairs[index], &walk->turner);
    }
    float* scores = walk->scores + half * walk->padded_tokens;
    int64_t token = span.begin / kLanes * kLanes;
    for (; token + kLanes < span.end; token += 2 * kLanes) {
      ScoreTile<2>(q, walk->keys + token, *walk, walk->seen + half, token, scores + token);
    }
    if (token < span.end) ScoreTile<1>(q, walk->keys + token, *walk, walk->seen + half, token, scores + token);
  }
}

// Lane i: the largest, or the sum, of row i of sixteen rows of padded_tokens.
template <typename Fold>
inline __m512 FoldRows(const float* rows, int64_t padded_tokens, const Fold& fold) {
  __m512 folded[16];
  for (int64_t i = 0; i < 16; ++i) {
    folded[i] = _mm512_load_ps(rows + i * padded_tokens);
    for (int64_t t = kLanes; t < padded_tokens; t += kLanes) {
      folded[i] = fold(folded[i], _mm512_load_ps(rows + i * padded_tokens + t));
    }
  }
  Transpose16(folded);
  FARSPAN_UNROLL
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) folded[i] = fold(folded[i], folded[i + width]);
  }
  return folded[0];
}

// NaN where either is.
inline __m512 MaxOrNan(__m512 a, __m512 b) {
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a);
}

// One softmax update of each pair of the block: scores become weights relative to the new maxima, `decays` the factors
// by which outputs shrink. A page of which a pair sees nothing gives zeros and one; a NaN gives NaNs.
void UpdateSoftmax(int64_t first_pair, Walk* walk) {
  const int64_t tokens = walk->padded_tokens;
  float* maxima = walk->maxima + first_pair;
  float* denominators = walk->denominators + first_pair;
  const __m512 page = FoldRows(walk->scores, tokens, MaxOrNan), old = _mm512_load_ps(maxima);
  const __mmask16 unseen = _mm512_cmp_ps_mask(page, _mm512_set1_ps(kNegativeInfinity), _CMP_EQ_OQ);
  const __mmask16 larger = _mm512_cmp_ps_mask(page, old, _CMP_GT_OQ);
  const __m512 maximum = _mm512_mask_mov_ps(old, larger, page);
  // Nothing seen so far: infinities would meet.
  const __m512 decay = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), larger, Exp(_mm512_sub_ps(old, maximum)));
  // Unseen pages are all -infinity: any finite maximum makes their weights zero.
  _mm512_store_ps(maxima, _mm512_mask_mov_ps(maximum, unseen, _mm512_setzero_ps()));
  for (int64_t i = 0; i < kBlockPairs; ++i) {
    const __m512 pair_maximum = _mm512_set1_ps(maxima[i]);
    for (int64_t t = 0; t < tokens; t += kLanes) {
      float* scores = walk->scores + i * tokens + t;
      _mm512_store_ps(scores, Exp(_mm512_sub_ps(_mm512_load_ps(scores), pair_maximum)));
    }
  }
  _mm512_store_ps(maxima, maximum);
  const __m512 total = FoldRows(walk->scores, tokens, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
  _mm512_store_ps(denominators, _mm512_add_ps(_mm512_mul_ps(_mm512_load_ps(denominators), decay), total));
  _mm512_store_ps(walk->decays, decay);
}

// out[pair][d] += weights[pair][token] * values[token][d] for the tokens of `span` in ascending order, kPairs pairs and
// kVectors * 16 channels.
template <int kPairs, int kVectors>
inline void AddValues(const Walk& walk, const float* weights, int64_t channel, TokenSpan span, float* out) {
  const int64_t head_dim = walk.head_dim;
  __m512 sums[kPairs][kVectors];
  FARSPAN_UNROLL
  for (int i = 0; i < kPairs; ++i) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_load_ps(out + i * head_dim + channel + v * kLanes);
  }
  const float* values = walk.values + span.begin * head_dim + channel;
  for (int64_t token = span.begin; token < span.end; ++token, values += head_dim) {
    __m512 value[kVectors];
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) value[v] = _mm512_load_ps(values + v * kLanes);
    FARSPAN_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const __m512 weight = _mm512_set1_ps(weights[i * walk.padded_tokens + token]);
      FARSPAN_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_fmadd_ps(weight, value[v], sums[i][v]);
    }
  }
  FARSPAN_UNROLL
  for (int i = 0; i < kPairs; ++i) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) _mm512_store_ps(out + i * head_dim + channel + v * kLanes, sums[i][v]);
  }
}

template <int kPairs>
void AddValuesAllChannels(const Walk& walk, int64_t pair, int64_t first_pair, TokenSpan span) {
  const float* weights = walk.scores + pair * walk.padded_tokens;
  float* out = walk.out + (first_pair + pair) * walk.head_dim;
  int64_t d = 0;
  for (; d + 4 * kLanes <= walk.head_dim; d += 4 * kLanes) AddValues<kPairs, 4>(walk, weights, d, span, out);
  if (d < walk.head_dim) AddValues<kPairs, 2>(walk, weights, d, span, out);
}

void ScaleOut(int64_t first_pair, const Walk& walk) {
  for (int64_t i = 0; i < kBlockPairs; ++i) {
    if (walk.decays[i] == 1.0f) continue;
    float* out = walk.out + (first_pair + i) * walk.head_dim;
    for (int64_t d = 0; d < walk.head_dim; d += kLanes) {
      _mm512_store_ps(out + d, _mm512_mul_ps(_mm512_load_ps(out + d), _mm512_set1_ps(walk.decays[i])));
    }
  }
}

// Folds the page run [begin, end) into a block of pairs. Where pairs see different tokens each takes its own alone: a
// weight of zero would let an infinite value that it does not see through.
void FoldPage(const KvEntry* begin, const KvEntry* end, int64_t first_pair, Walk* walk) {
  for (int64_t i = 0; i < kBlockPairs * walk->padded_tokens; i += kLanes) {
    _mm512_store_ps(walk->scores + i, _mm512_set1_ps(kNegativeInfinity));
  }
  const int64_t last_pair =
      (first_pair + kBlockPairs < walk->num_pairs ? first_pair + kBlockPairs : walk->num_pairs) - 1;
  const int64_t first = walk->pairs[first_pair].position, last = walk->pairs[last_pair].position;
  const auto span_of = [&](const KvEntry& entry) {
    if ((entry.head_mask & walk->heads) == 0) return TokenSpan{0, 0};
    return VisibleTokens(entry, first, last, walk->task.left_window);
  };
  bool any_seen = false;
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = span_of(*entry);
    if (span.begin >= span.end) continue;
    FindSeen(*entry, first_pair, *walk);
    ScoreEntry(*entry, first_pair, span, walk);
    any_seen = true;
  }
  if (!any_seen) return;
  UpdateSoftmax(first_pair, walk);
  ScaleOut(first_pair, *walk);
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = span_of(*entry);
    if (span.begin >= span.end) continue;
    if (FindSeen(*entry, first_pair, *walk)) {
      for (int64_t i = 0; i < kBlockPairs; i += kValuePairs)
        AddValuesAllChannels<kValuePairs>(*walk, i, first_pair, span);
      continue;
    }
    for (int64_t i = 0; i < kBlockPairs; ++i) {
      if (walk->seen[i].begin < walk->seen[i].end) AddValuesAllChannels<1>(*walk, i, first_pair, walk->seen[i]);
    }
  }
}

void WalkPages(const KvList& list, Walk* walk) {
  const KvLayerView& cache = walk->common->cache;
  const Bf16* data = static_cast<const Bf16*>(cache.data);
  const KvEntry* entries = walk->common->entries + list.entries_begin;
  for (int64_t begin = 0; begin < list.num_entries;) {
    const int64_t end = PageRunEnd(entries, begin, list.num_entries);
    const Bf16* keys = data + KeyOffset(cache, entries[begin].page, walk->task.kv_head);
    if (WidenPage(entries + begin, entries + end, keys, *walk)) {
      for (int64_t pair = 0; pair < walk->num_pairs; pair += kBlockPairs) {
        FoldPage(entries + begin, entries + end, pair, walk);
      }
    }
    begin = end;
  }
}

// As FinishHead of AVX2: adding zero makes negative zeros positive.
void FinishPair(const Walk& walk, int64_t index, float* out, float* lse) {
  const float denominator = walk.denominators[index];
  const __m512 inverse = _mm512_set1_ps(denominator > 0 ? 1.0f / denominator : 0.0f);
  for (int64_t d = 0; d < walk.head_dim; d += kLanes) {
    const __m512 scaled = _mm512_mul_ps(_mm512_load_ps(walk.out + index * walk.head_dim + d), inverse);
    _mm512_storeu_ps(out + d, _mm512_add_ps(scaled, _mm512_setzero_ps()));
  }
  if (lse != nullptr) *lse = walk.maxima[index] + std::log(denominator);
}

// The heads [first_head, end_head) of the group, which read the same entries: those of `list`.
void RunHeads(const PrefillAttentionArgs& args, int64_t list, int64_t first_head, int64_t end_head, Walk* walk) {
  const AttentionCommon& common = args.common;
  const int64_t first_index = walk->task.kv_head * PrefillGroup(common), head_dim = walk->head_dim;
  walk->num_pairs = 0;
  walk->heads = 0;
  walk->turner.table_cap = kNoQueryCap;
  for (int64_t head = first_head; head < end_head; ++head) walk->heads |= 1u << head;
  for (int64_t query = 0; query < walk->task.num_queries; ++query) {
    for (int64_t head = first_head; head < end_head; ++head) {
      const int64_t index = (walk->task.row + query) * common.num_heads + first_index + head;
      walk->pairs[walk->num_pairs++] = {walk->task.first_position + query, head, common.q_f32() + index * head_dim,
                                        kNoQueryCap};
    }
  }
  const int64_t padded_pairs = (walk->num_pairs + kBlockPairs - 1) / kBlockPairs * kBlockPairs;
  for (int64_t i = 0; i < padded_pairs; ++i) {
    walk->maxima[i] = kNegativeInfinity;
    walk->denominators[i] = 0;
  }
  for (int64_t i = 0; i < padded_pairs * head_dim; i += kLanes) _mm512_store_ps(walk->out + i, _mm512_setzero_ps());
  ForEachKeptPart(args, list, [&](const KvList& part) { WalkPages(part, walk); });
  for (int64_t p = 0; p < walk->num_pairs; ++p) {
    const QueryPair& pair = walk->pairs[p];
    const int64_t row = walk->task.row + pair.position - walk->task.first_position;
    const int64_t index = row * common.num_heads + first_index + pair.head_in_group;
    FinishPair(*walk, p, common.out_f32() + index * head_dim, common.lse == nullptr ? nullptr : common.lse + index);
  }
}

void Run(const PrefillAttentionArgs& args, int64_t task, void* scratch) {
  if (!Fits(args.common)) return avx2::kPrefillAttention.run(args, task, scratch);
  Walk walk = {};
  walk.task = PrefillTaskAt(args, task);
  if (walk.task.num_queries == 0) return;
  walk.common = &args.common;
  walk.head_dim = args.common.cache.head_dim;
  walk.padded_tokens = RoundUpToLanes(args.common.cache.page_tokens);
  CarveScratch(scratch, &walk);
  ForHeadRuns(args, walk.task, [&](int64_t list, int64_t first_head, int64_t end_head) {
    RunHeads(args, list, first_head, end_head, &walk);
  });
}

}  // namespace

constinit const KernelOp<PrefillAttentionArgs> kPrefillAttention = {NumPrefillTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx512
