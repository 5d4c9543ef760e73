// SPDX-License-Identifier: Apache-2.0
// One task is one split: the query heads of a group walk the pages together, so that K and V are read once. Each query
// head's arithmetic is its own: a score is one chain of FMAs over the channels, a page is one softmax update.
#include "engine/kernels/cpu/avx2/attention_tiles.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/decode_walk.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kMaxGroup = 32;
constexpr int64_t kTokensPerTile = 4;  // 3 heads x 4 tokens or vectors: twelve accumulators

// A split at work.
struct Walk {
  GroupQueries queries;
  int64_t group;
  int64_t head_dim;
  int64_t padded_tokens;
  float* scores;  // [group][padded_tokens]
  float* out;     // [group][partial stride], the partials themselves
  int64_t out_stride;
  PagePrefetch prefetch;
  SoftmaxSums sums[kMaxGroup];
};

int64_t ScratchBytes(const DecodePass& pass) {
  const AttentionCommon& common = pass.args->common;
  const int64_t floats = DecodeGroup(common) * RoundUpToLanes(common.cache.page_tokens);
  return GroupQueriesScratchBytes(common) + floats * static_cast<int64_t>(sizeof(float));
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

template <int kHeads, typename Element>
void ScoreSpan(const float* q, const Element* keys, TokenSpan span, Walk* walk, float* scores) {
  const int64_t head_dim = walk->head_dim, lines = LinesOf<Element>(kTokensPerTile * head_dim);
  const float scale = walk->queries.common->scale;
  int64_t token = span.begin;
  for (; token + kTokensPerTile <= span.end; token += kTokensPerTile) {
    walk->prefetch.Take(lines);
    ScoreTile<kHeads, kTokensPerTile>(q, keys + token * head_dim, head_dim, scale, scores + token, walk->padded_tokens);
  }
  for (; token < span.end; ++token) {
    ScoreTile<kHeads, 1>(q, keys + token * head_dim, head_dim, scale, scores + token, walk->padded_tokens);
  }
}

template <typename Element>
void ScorePage(const KvEntry* begin, const KvEntry* end, const Element* keys, Walk* walk) {
  for (int64_t i = 0; i < walk->group * walk->padded_tokens; i += kLanes) {
    _mm256_storeu_ps(walk->scores + i, _mm256_set1_ps(kNegativeInfinity));
  }
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, walk->queries.row->position, walk->queries.row->left_window);
    if (span.begin >= span.end) continue;
    const float* q = QueriesForCap(entry->query_cap, &walk->queries);
    ForHeadTiles(walk->group, [&](int64_t head, auto heads) {
      if (!AnyHeadReads(*entry, head, heads)) return;
      float* scores = walk->scores + head * walk->padded_tokens;
      ScoreSpan<heads>(q + head * walk->head_dim, keys, span, walk, scores);
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
      const TokenSpan span = VisibleTokens(*entry, walk->queries.row->position, walk->queries.row->left_window);
      if (span.begin >= span.end) continue;
      walk->prefetch.Take(LinesOf<Element>((span.end - span.begin) * walk->head_dim));
      AddValuesAllChannels<heads>(walk->scores + head * walk->padded_tokens, walk->padded_tokens, values,
                                  walk->head_dim, span, out, walk->out_stride);
    }
  });
}

template <typename Element>
void WalkPages(const DecodePass& pass, int64_t task, Walk* walk) {
  const KvLayerView& cache = pass.args->common.cache;
  const DecodeSplit& split = pass.splits[task];
  const Element* data = static_cast<const Element*>(cache.data);
  const KvEntry* entries = pass.args->common.entries + split.list.entries_begin;
  for (int64_t begin = 0; begin < split.list.num_entries;) {
    const int64_t end = PageRunEnd(entries, begin, split.list.num_entries);
    walk->prefetch = PrefetchAhead(pass, task, end);
    const Element* keys = data + KeyOffset(cache, entries[begin].page, split.kv_head);
    ScorePage(entries + begin, entries + end, keys, walk);
    AddPage(entries + begin, entries + end, keys + cache.plane_elements(), walk);
    begin = end;
  }
}

int64_t NumPartialTasks(const DecodePass& pass) { return pass.num_splits; }

void RunPartials(const DecodePass& pass, int64_t task, void* scratch) {
  const AttentionCommon& common = pass.args->common;
  Walk walk;
  walk.group = DecodeGroup(common);
  walk.head_dim = common.cache.head_dim;
  walk.padded_tokens = RoundUpToLanes(common.cache.page_tokens);
  walk.out_stride = DecodePartialFloats(common);
  walk.out = pass.partials + task * walk.group * walk.out_stride;
  walk.scores = static_cast<float*>(scratch);
  walk.queries = MakeGroupQueries(pass, pass.splits[task], walk.scores + walk.group * walk.padded_tokens);
  for (int64_t i = 0; i < walk.group * walk.out_stride; ++i) walk.out[i] = 0;
  WithKvElement(common.cache.element, [&]<typename Element>() { WalkPages<Element>(pass, task, &walk); });
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
  ForMergedHeads(pass, task, [&](int64_t first, int64_t last, int64_t head, float* out, float* lse) {
    MergeHead(pass, first, last, head, out, lse);
  });
}

}  // namespace

constinit const KernelOp<DecodePass> kDecodePartials = {NumPartialTasks, ScratchBytes, RunPartials};
constinit const KernelOp<DecodePass> kDecodeMerge = {NumMergeTasks, NoScratch, RunMerge};

}  // namespace farspan::kernels::avx2
