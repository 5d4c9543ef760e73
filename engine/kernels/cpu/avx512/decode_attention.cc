// SPDX-License-Identifier: Apache-2.0
// One task is one split of a bf16 cache: the query heads of a group walk the pages together, so that K and V are read
// once. Values stay in the order in which 32 of them are widened, even ones before odd ones, until the end. Each query
// head's arithmetic is its own: a score is one chain of FMAs over the channels, a page one softmax update.
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx512/kernels.h"
#include "engine/kernels/cpu/avx512/softmax.h"
#include "engine/kernels/cpu/decode_walk.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx512 {
namespace {

constexpr int64_t kMaxGroup = 32;
constexpr int64_t kChannels = 32;  // of one vector of bf16 values
constexpr int64_t kTileTokens = 8;

// Other elements and shapes are left to AVX2. Keys are read in whole tiles of a page.
bool Fits(const AttentionCommon& common) {
  return common.cache.element == KvElement::kBf16 && common.cache.head_dim % kChannels == 0 &&
         common.cache.page_tokens % kTileTokens == 0;
}

// A split at work.
struct Walk {
  GroupQueries queries;
  int64_t group;
  int64_t head_dim;
  int64_t padded_tokens;
  const float* packed_for;  // the queries that packed_q holds
  float* packed_q;          // [head_dim / 16][group][even 8 twice | odd 8 twice]
  float* scores;            // [group][padded_tokens]
  float* out;               // [group][head_dim], of each 32 channels the even ones first
  PagePrefetch prefetch;
  SoftmaxSums sums[kMaxGroup];
};

int64_t ScratchBytes(const DecodePass& pass) {
  const AttentionCommon& common = pass.args->common;
  const int64_t group = DecodeGroup(common), head_dim = common.cache.head_dim;
  const int64_t floats = group * (2 * head_dim + RoundUpToLanes(common.cache.page_tokens) + head_dim);
  const int64_t own = floats * static_cast<int64_t>(sizeof(float)) + GroupQueriesScratchBytes(common);
  const int64_t other = avx2::kDecodePartials.scratch_bytes(pass);
  return own > other ? own : other;
}

// Each 16 channels of each head as two vectors: the even ones and the odd ones, either twice.
void PackQueries(const float* q, Walk* walk) {
  if (walk->packed_for == q) return;
  walk->packed_for = q == walk->queries.q ? q : nullptr;  // turned ones change in place
  float* out = walk->packed_q;
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
  for (int64_t d = 0; d < walk->head_dim; d += kLanes) {
    for (int64_t head = 0; head < walk->group; ++head, out += 2 * kLanes) {
      const __m512 values = _mm512_loadu_ps(q + head * walk->head_dim + d);
      _mm512_store_ps(out, _mm512_permutexvar_ps(even, values));
      _mm512_store_ps(out + kLanes, _mm512_permutexvar_ps(_mm512_add_epi32(even, _mm512_set1_epi32(1)), values));
    }
  }
}

inline __m512 AddHalves(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

// Within each half of each vector, the sum of its eight lanes; tokens 0, 2, 4, 6, then 1, 3, 5, 7 in lanes 0 to 3 and 8
// to 11.
inline __m512 SumTokens(const __m512 (&sums)[4]) {
  const __m512d a = _mm512_castps_pd(AddHalves(sums[0], sums[1]));
  const __m512d b = _mm512_castps_pd(AddHalves(sums[2], sums[3]));
  const __m512 quads =
      _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  return _mm512_add_ps(quads, _mm512_shuffle_f32x4(quads, quads, _MM_SHUFFLE(2, 3, 0, 1)));
}

// Scores of eight keys, of which those of `kept` are written, for kHeads queries.
template <int kHeads>
inline void ScoreTile(const Walk& walk, int64_t head, const Bf16* keys, __mmask8 kept, float* scores) {
  __m512 sums[kHeads][4];
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FARSPAN_UNROLL
    for (int t = 0; t < 4; ++t) sums[h][t] = _mm512_setzero_ps();
  }
  const float* q = walk.packed_q + head * 2 * kLanes;
  for (int64_t d = 0; d < walk.head_dim; d += kLanes, q += walk.group * 2 * kLanes) {
    FARSPAN_UNROLL
    for (int t = 0; t < 4; ++t) {
      const auto* even_token = reinterpret_cast<const __m256i*>(keys + 2 * t * walk.head_dim + d);
      const auto* odd_token = reinterpret_cast<const __m256i*>(keys + (2 * t + 1) * walk.head_dim + d);
      const __m512i pair =
          _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(even_token)), _mm256_loadu_si256(odd_token), 1);
      const __m512 even = WidenEven(pair), odd = WidenOdd(pair);
      FARSPAN_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        sums[h][t] = _mm512_fmadd_ps(_mm512_load_ps(q + h * 2 * kLanes), even, sums[h][t]);
        sums[h][t] = _mm512_fmadd_ps(_mm512_load_ps(q + h * 2 * kLanes + kLanes), odd, sums[h][t]);
      }
    }
  }
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11);
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    const __m512 ordered = _mm512_permutexvar_ps(order, SumTokens(sums[h]));
    const __m256 scaled = _mm256_mul_ps(_mm512_castps512_ps256(ordered), _mm256_set1_ps(walk.queries.common->scale));
    _mm256_mask_storeu_ps(scores + h * walk.padded_tokens, kept, scaled);
  }
}

void ScorePage(const KvEntry* begin, const KvEntry* end, const Bf16* keys, Walk* walk) {
  for (int64_t i = 0; i < walk->group * walk->padded_tokens; i += kLanes) {
    _mm512_store_ps(walk->scores + i, _mm512_set1_ps(kNegativeInfinity));
  }
  const DecodeRow& row = *walk->queries.row;
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, row.position, row.left_window);
    if (span.begin >= span.end) continue;
    PackQueries(QueriesForCap(entry->query_cap, &walk->queries), walk);
    ForHeadTiles(walk->group, [&](int64_t head, auto heads) {
      if (!AnyHeadReads(*entry, head, heads)) return;
      float* scores = walk->scores + head * walk->padded_tokens;
      for (int64_t token = span.begin / kTileTokens * kTileTokens; token < span.end; token += kTileTokens) {
        walk->prefetch.Take(LinesOf<Bf16>(kTileTokens * walk->head_dim));
        const auto kept = static_cast<__mmask8>(LaneMask(span.begin - token, span.end - token));
        ScoreTile<heads>(*walk, head, keys + token * walk->head_dim, kept, scores + token);
      }
      for (int64_t h = 0; h < heads; ++h) {
        if (ReadsEntry(*entry, head + h)) continue;
        for (int64_t t = span.begin; t < span.end; ++t) scores[h * walk->padded_tokens + t] = kNegativeInfinity;
      }
    });
  }
}

// out[h] += weights[h][token] * values[token] for the tokens of `span` in ascending order and kVectors * 32 channels.
template <int kHeads, int kVectors>
inline void AddValues(const float* weights, const Bf16* values, TokenSpan span, Walk* walk, float* out) {
  __m512 sums[kHeads][2 * kVectors];
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FARSPAN_UNROLL
    for (int v = 0; v < 2 * kVectors; ++v) sums[h][v] = _mm512_load_ps(out + h * walk->head_dim + v * kLanes);
  }
  for (int64_t token = span.begin; token < span.end; ++token) {
    walk->prefetch.Take(kVectors);
    __m512 weight[kHeads];
    FARSPAN_UNROLL
    for (int h = 0; h < kHeads; ++h) weight[h] = _mm512_set1_ps(weights[h * walk->padded_tokens + token]);
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __m512i value = _mm512_loadu_si512(values + token * walk->head_dim + v * kChannels);
      FARSPAN_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        sums[h][2 * v] = _mm512_fmadd_ps(weight[h], WidenEven(value), sums[h][2 * v]);
        sums[h][2 * v + 1] = _mm512_fmadd_ps(weight[h], WidenOdd(value), sums[h][2 * v + 1]);
      }
    }
  }
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FARSPAN_UNROLL
    for (int v = 0; v < 2 * kVectors; ++v) _mm512_store_ps(out + h * walk->head_dim + v * kLanes, sums[h][v]);
  }
}

void ScaleVector(float* values, int64_t size, float factor) {
  if (factor == 1.0f) return;
  for (int64_t i = 0; i < size; i += kLanes) {
    _mm512_store_ps(values + i, _mm512_mul_ps(_mm512_load_ps(values + i), _mm512_set1_ps(factor)));
  }
}

void AddPage(const KvEntry* begin, const KvEntry* end, const Bf16* values, Walk* walk) {
  const DecodeRow& row = *walk->queries.row;
  ForHeadTiles(walk->group, [&](int64_t head, auto heads) {
    float* out = walk->out + head * walk->head_dim;
    const float* weights = walk->scores + head * walk->padded_tokens;
    for (int64_t h = 0; h < heads; ++h) {
      const float decay =
          UpdateSoftmax(walk->scores + (head + h) * walk->padded_tokens, walk->padded_tokens, &walk->sums[head + h]);
      ScaleVector(out + h * walk->head_dim, walk->head_dim, decay);
    }
    for (const KvEntry* entry = begin; entry < end; ++entry) {
      if (!AnyHeadReads(*entry, head, heads)) continue;
      const TokenSpan span = VisibleTokens(*entry, row.position, row.left_window);
      if (span.begin >= span.end) continue;
      int64_t d = 0;
      for (; d + 2 * kChannels <= walk->head_dim; d += 2 * kChannels) {
        AddValues<heads, 2>(weights, values + d, span, walk, out + d);
      }
      if (d < walk->head_dim) AddValues<heads, 1>(weights, values + d, span, walk, out + d);
    }
  });
}

void WalkPages(const DecodePass& pass, int64_t task, Walk* walk) {
  const KvLayerView& cache = pass.args->common.cache;
  const DecodeSplit& split = pass.splits[task];
  const Bf16* data = static_cast<const Bf16*>(cache.data);
  const KvEntry* entries = pass.args->common.entries + split.list.entries_begin;
  for (int64_t begin = 0; begin < split.list.num_entries;) {
    const int64_t end = PageRunEnd(entries, begin, split.list.num_entries);
    walk->prefetch = PrefetchAhead(pass, task, end);
    const Bf16* keys = data + KeyOffset(cache, entries[begin].page, split.kv_head);
    ScorePage(entries + begin, entries + end, keys, walk);
    AddPage(entries + begin, entries + end, keys + cache.plane_elements(), walk);
    begin = end;
  }
}

// The partial state of one head, its channels in order.
void StorePartial(const Walk& walk, int64_t head, float* partial) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int64_t d = 0; d < walk.head_dim; d += kChannels) {
    const __m512 even = _mm512_load_ps(walk.out + head * walk.head_dim + d);
    const __m512 odd = _mm512_load_ps(walk.out + head * walk.head_dim + d + kLanes);
    _mm512_storeu_ps(partial + d, _mm512_permutex2var_ps(even, low, odd));
    _mm512_storeu_ps(partial + d + kLanes, _mm512_permutex2var_ps(even, high, odd));
  }
  partial[walk.head_dim] = walk.sums[head].maximum;
  partial[walk.head_dim + 1] = walk.sums[head].denominator;
}

int64_t NumTasks(const DecodePass& pass) { return pass.num_splits; }

void Run(const DecodePass& pass, int64_t task, void* scratch) {
  const AttentionCommon& common = pass.args->common;
  if (!Fits(common)) return avx2::kDecodePartials.run(pass, task, scratch);
  Walk walk;
  walk.group = DecodeGroup(common);
  walk.head_dim = common.cache.head_dim;
  walk.padded_tokens = RoundUpToLanes(common.cache.page_tokens);
  walk.packed_for = nullptr;
  walk.packed_q = static_cast<float*>(scratch);
  walk.scores = walk.packed_q + walk.group * 2 * walk.head_dim;
  walk.out = walk.scores + walk.group * walk.padded_tokens;
  walk.queries = MakeGroupQueries(pass, pass.splits[task], walk.out + walk.group * walk.head_dim);
  for (int64_t i = 0; i < walk.group * walk.head_dim; i += kLanes) _mm512_store_ps(walk.out + i, _mm512_setzero_ps());
  WalkPages(pass, task, &walk);
  const int64_t stride = DecodePartialFloats(common);
  for (int64_t head = 0; head < walk.group; ++head) {
    StorePartial(walk, head, pass.partials + (task * walk.group + head) * stride);
  }
}

}  // namespace

constinit const KernelOp<DecodePass> kDecodePartials = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx512
