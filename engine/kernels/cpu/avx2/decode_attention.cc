// SPDX-License-Identifier: Apache-2.0
// One task is one split: the query heads of a group walk the pages together, so that K and V are read once. Each query
// head's arithmetic is its own: a score is one chain of FMAs over the channels, a page is one softmax update.
#include <type_traits>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/avx2/attention_tiles.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kMaxGroup = 32;
constexpr int64_t kHeadsPerTile = 3;  // 3 heads x 4 tokens or vectors: twelve accumulators
constexpr int64_t kTokensPerTile = 4;

// A split at work.
struct Walk {
  const AttentionCommon* common;
  const DecodeRow* row;
  int64_t group;
  int64_t head_dim;
  int64_t padded_tokens;
  const float* q;      // [group][head_dim]
  float* turned_q;     // [group][head_dim], q as entries with `turned_cap` see it
  int64_t turned_cap;  // kNoQueryCap while turned_q holds nothing
  double* cap_cos_sin;
  float* turn;
  float* scores;          // [group][padded_tokens]
  const void* next_page;  // K of the page that follows in the list, or null
  float* out;             // [group][partial stride], the partials themselves
  int64_t out_stride;
  SoftmaxSums sums[kMaxGroup];
};

int64_t ScratchBytes(const DecodePass& pass) {
  const AttentionCommon& common = pass.args->common;
  const int64_t floats = DecodeGroup(common) * (common.cache.head_dim + RoundUpToLanes(common.cache.page_tokens));
  return common.rope_dim * static_cast<int64_t>(sizeof(double)) +
         (floats + common.rope_dim) * static_cast<int64_t>(sizeof(float));
}

void CarveScratch(void* scratch, Walk* walk) {
  walk->cap_cos_sin = static_cast<double*>(scratch);
  walk->turned_q = reinterpret_cast<float*>(walk->cap_cos_sin + walk->common->rope_dim);
  walk->scores = walk->turned_q + walk->group * walk->head_dim;
  walk->turn = walk->scores + walk->group * walk->padded_tokens;
}

// The group's queries as an entry with `cap` sees them.
const float* QueriesForCap(int64_t cap, Walk* walk) {
  if (walk->row->position <= cap) return walk->q;
  if (walk->turned_cap != cap) {
    const AttentionCommon& common = *walk->common;
    FillCapTable(common, cap, walk->cap_cos_sin);
    FillTurn(walk->cap_cos_sin, common.rope_cos_sin + walk->row->row * common.rope_dim, common.rope_dim, walk->turn);
    for (int64_t head = 0; head < walk->group; ++head) {
      TurnQuery(walk->q + head * walk->head_dim, walk->turn, common.rope_dim, walk->head_dim,
                walk->turned_q + head * walk->head_dim);
    }
    walk->turned_cap = cap;
  }
  return walk->turned_q;
}

// Scores of kTokens keys for kHeads queries, `scores` rows being score_stride apart.
template <int kHeads, int kTokens, typename Element>
inline void ScoreTile(const float* q, const Element* keys, int64_t head_dim, float scale, float* scores,
                      int64_t score_stride) {
  __m256 sums[kHeads][kTokens];
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    FARSPAN_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[h][t] = _mm256_setzero_ps();
  }
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    __m256 query[kHeads];
    FARSPAN_UNROLL
    for (int h = 0; h < kHeads; ++h) query[h] = _mm256_loadu_ps(q + h * head_dim + d);
    FARSPAN_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m256 key = LoadLanes(keys + t * head_dim + d);
      FARSPAN_UNROLL
      for (int h = 0; h < kHeads; ++h) sums[h][t] = _mm256_fmadd_ps(query[h], key, sums[h][t]);
    }
  }
  FARSPAN_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if constexpr (kTokens == 4) {
      const __m128 four = SumLanes4(sums[h][0], sums[h][1], sums[h][2], sums[h][3]);
      _mm_storeu_ps(scores + h * score_stride, _mm_mul_ps(four, _mm_set1_ps(scale)));
    } else {
      FARSPAN_UNROLL
      for (int t = 0; t < kTokens; ++t) scores[h * score_stride + t] = SumLanes(sums[h][t]) * scale;
    }
  }
}

// Asks for four tokens of K and V of the page after this one. Pages lie scattered and hardware prefetchers stop at
// their borders; asked for all at once, the lines would fill every miss buffer and stall this page's loads.
template <typename Element>
inline void PrefetchNextPage(const Walk& walk, int64_t token) {
  constexpr int64_t kLineBytes = 64;
  if (walk.next_page == nullptr) return;
  const Element* keys = static_cast<const Element*>(walk.next_page) + token * walk.head_dim;
  const char* key_bytes = reinterpret_cast<const char*>(keys);
  const char* value_bytes = reinterpret_cast<const char*>(keys + walk.common->cache.plane_elements());
  const int64_t size_bytes = kTokensPerTile * walk.head_dim * static_cast<int64_t>(sizeof(Element));
  for (int64_t offset = 0; offset < size_bytes; offset += kLineBytes) {
    _mm_prefetch(key_bytes + offset, _MM_HINT_T0);
    _mm_prefetch(value_bytes + offset, _MM_HINT_T0);
  }
}

template <int kHeads, typename Element>
void ScoreSpan(const Walk& walk, const float* q, const Element* keys, TokenSpan span, float* scores) {
  int64_t token = span.begin;
  for (; token + kTokensPerTile <= span.end; token += kTokensPerTile) {
    PrefetchNextPage<Element>(walk, token);
    ScoreTile<kHeads, kTokensPerTile>(q, keys + token * walk.head_dim, walk.head_dim, walk.common->scale,
                                      scores + token, walk.padded_tokens);
  }
  for (; token < span.end; ++token) {
    ScoreTile<kHeads, 1>(q, keys + token * walk.head_dim, walk.head_dim, walk.common->scale, scores + token,
                         walk.padded_tokens);
  }
}

bool AnyHeadReads(const KvEntry& entry, int64_t first_head, int64_t num_heads) {
  const uint64_t heads = ((uint64_t{1} << num_heads) - 1) << first_head;
  return (entry.head_mask & heads) != 0;
}

// The group is taken in tiles of up to three heads: calls body(first head, integral constant of the heads in the tile).
template <typename Body>
inline void ForHeadTiles(int64_t group, const Body& body) {
  int64_t head = 0;
  for (; head + kHeadsPerTile <= group; head += kHeadsPerTile) body(head, std::integral_constant<int, 3>());
  if (group - head == 2) body(head, std::integral_constant<int, 2>());
  if (group - head == 1) body(head, std::integral_constant<int, 1>());
}

template <typename Element>
void ScorePage(const KvEntry* begin, const KvEntry* end, const Element* keys, Walk* walk) {
  for (int64_t i = 0; i < walk->group * walk->padded_tokens; i += kLanes) {
    _mm256_storeu_ps(walk->scores + i, _mm256_set1_ps(kNegativeInfinity));
  }
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, walk->row->position, walk->row->left_window);
    if (span.begin >= span.end) continue;
    const float* q = QueriesForCap(entry->query_cap, walk);
    ForHeadTiles(walk->group, [&](int64_t head, auto heads) {
      if (!AnyHeadReads(*entry, head, heads)) return;
      float* scores = walk->scores + head * walk->padded_tokens;
      ScoreSpan<heads>(*walk, q + head * walk->head_dim, keys, span, scores);
      for (int64_t h = 0; h < heads; ++h) {
        if (ReadsEntry(*entry, head + h)) continue;
        for (int64_t t = span.begin; t < span.end; ++t) scores[h * walk->padded_tokens + t] = kNegativeInfinity;
      }
    });
  }
}

template <typename Element>
void AddPage(const KvEntry* begin, const KvEntry* end, const Element* values, Walk* walk) {
  ForHeadTiles(walk->group, [&](int64_t head, auto heads) {
    float* out = walk->out + head * walk->out_stride;
    for (int64_t h = 0; h < heads; ++h) {
      const float decay =
          UpdateSoftmax(walk->scores + (head + h) * walk->padded_tokens, walk->padded_tokens, &walk->sums[head + h]);
      ScaleVector(out + h * walk->out_stride, walk->head_dim, decay);
    }
    for (const KvEntry* entry = begin; entry < end; ++entry) {
      if (!AnyHeadReads(*entry, head, heads)) continue;
      const TokenSpan span = VisibleTokens(*entry, walk->row->position, walk->row->left_window);
      if (span.begin >= span.end) continue;
      AddValuesAllChannels<heads>(walk->scores + head * walk->padded_tokens, walk->padded_tokens, values,
                                  walk->head_dim, span, out, walk->out_stride);
    }
  });
}

template <typename Element>
void WalkPages(const KvList& list, int64_t kv_head, Walk* walk) {
  const KvLayerView& cache = walk->common->cache;
  const Element* data = static_cast<const Element*>(cache.data);
  const KvEntry* entries = walk->common->entries + list.entries_begin;
  for (int64_t begin = 0; begin < list.num_entries;) {
    const int64_t end = PageRunEnd(entries, begin, list.num_entries);
    walk->next_page = end < list.num_entries ? data + KeyOffset(cache, entries[end].page, kv_head) : nullptr;
    const Element* keys = data + KeyOffset(cache, entries[begin].page, kv_head);
    ScorePage(entries + begin, entries + end, keys, walk);
    AddPage(entries + begin, entries + end, keys + cache.plane_elements(), walk);
    begin = end;
  }
}

int64_t NumPartialTasks(const DecodePass& pass) { return pass.num_splits; }

void RunPartials(const DecodePass& pass, int64_t task, void* scratch) {
  const AttentionCommon& common = pass.args->common;
  const DecodeSplit& split = pass.splits[task];
  Walk walk;
  walk.common = &common;
  walk.row = &pass.args->rows[split.row_index];
  walk.group = DecodeGroup(common);
  walk.head_dim = common.cache.head_dim;
  walk.padded_tokens = RoundUpToLanes(common.cache.page_tokens);
  walk.q = common.q_f32() + (walk.row->row * common.num_heads + split.kv_head * walk.group) * walk.head_dim;
  walk.turned_cap = kNoQueryCap;
  walk.out_stride = DecodePartialFloats(common);
  walk.out = pass.partials + task * walk.group * walk.out_stride;
  CarveScratch(scratch, &walk);
  for (int64_t i = 0; i < walk.group * walk.out_stride; ++i) walk.out[i] = 0;
  WithKvElement(common.cache.element,
                [&]<typename Element>() { WalkPages<Element>(split.list, split.kv_head, &walk); });
  for (int64_t head = 0; head < walk.group; ++head) {
    walk.out[head * walk.out_stride + walk.head_dim] = walk.sums[head].maximum;
    walk.out[head * walk.out_stride + walk.head_dim + 1] = walk.sums[head].denominator;
  }
}

int64_t NumMergeTasks(const DecodePass& pass) { return pass.args->num_rows; }

// Merges the partials [first, last) of one query head in list order, in `out`.
void MergeHead(const DecodePass& pass, int64_t first, int64_t last, int64_t head, float* out, float* lse) {
  const AttentionCommon& common = pass.args->common;
  const int64_t head_dim = common.cache.head_dim, stride = DecodePartialFloats(common);
  const int64_t group = DecodeGroup(common);
  SoftmaxSums merged;
  for (int64_t split = first; split < last; ++split) {
    const float maximum = pass.partials[(split * group + head) * stride + head_dim];
    if (maximum > merged.maximum) merged.maximum = maximum;
  }
  for (int64_t i = 0; i < head_dim; ++i) out[i] = 0;
  for (int64_t split = first; split < last; ++split) {
    const float* partial = pass.partials + (split * group + head) * stride;
    if (partial[head_dim + 1] == 0) continue;
    const float weight = Exp(partial[head_dim] - merged.maximum);
    merged.denominator += weight * partial[head_dim + 1];
    for (int64_t i = 0; i < head_dim; i += kLanes) {
      _mm256_storeu_ps(out + i,
                       _mm256_fmadd_ps(_mm256_set1_ps(weight), _mm256_loadu_ps(partial + i), _mm256_loadu_ps(out + i)));
    }
  }
  FinishHead(merged, out, head_dim, out, lse);
}

void RunMerge(const DecodePass& pass, int64_t task, void*) {
  const AttentionCommon& common = pass.args->common;
  const int64_t group = DecodeGroup(common), num_kv_heads = common.cache.num_kv_heads;
  for (int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
    const int64_t* first_split = pass.first_split + task * num_kv_heads + kv_head;
    for (int64_t head = 0; head < group; ++head) {
      const int64_t index = pass.args->rows[task].row * common.num_heads + kv_head * group + head;
      float* lse = common.lse == nullptr ? nullptr : common.lse + index;
      MergeHead(pass, first_split[0], first_split[1], head, common.out_f32() + index * common.cache.head_dim, lse);
    }
  }
}

}  // namespace

constinit const KernelOp<DecodePass> kDecodePartials = {NumPartialTasks, ScratchBytes, RunPartials};
constinit const KernelOp<DecodePass> kDecodeMerge = {NumMergeTasks, NoScratch, RunMerge};

}  // namespace farspan::kernels::avx2
