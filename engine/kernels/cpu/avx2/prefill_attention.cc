// SPDX-License-Identifier: Apache-2.0
// One task is a run of a tile's queries for one KV head. A page of K (transposed) and V is widened to float32 once and
// read by every query and every head whose list is the same; small register tiles then do Q K^T and P V. A score is
// one chain of FMAs over the channels, an output one chain over the tokens, a page one softmax update: so no result
// depends on which queries share a task.
#include <cstring>

#include "engine/kernels/cpu/avx2/attention_tiles.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/prefill_walk.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kQueriesPerBlock = 3;  // (query, head) pairs in a register tile of 3 x 4 vectors

// The heads of one KV head that read the same list, over the task's queries.
struct Walk {
  const AttentionCommon* common;
  PrefillTask task;
  int64_t head_dim;
  int64_t padded_tokens;
  uint32_t heads;     // bit h: head h of the group is among the pairs
  int64_t num_pairs;  // query-major
  QueryTurner turner;
  QueryPair* pairs;
  SoftmaxSums* sums;    // [pairs]
  float* keys;          // [head_dim][padded_tokens], transposed
  float* values;        // [padded_tokens][head_dim]
  float* scores;        // [kQueriesPerBlock][padded_tokens]
  float* out;           // [pairs][head_dim]
  uint8_t* token_seen;  // [padded_tokens], 1 for tokens of the page that some query sees

  int64_t last_position() const { return task.first_position + task.num_queries - 1; }
};

int64_t ScratchBytes(const PrefillAttentionArgs& args) {
  const AttentionCommon& common = args.common;
  const int64_t head_dim = common.cache.head_dim, tokens = RoundUpToLanes(common.cache.page_tokens);
  const int64_t floats = 2 * head_dim * tokens + kQueriesPerBlock * tokens + MaxPairs(common) * head_dim;
  return MaxPairs(common) * static_cast<int64_t>(sizeof(QueryPair) + sizeof(SoftmaxSums)) +
         QueryTurnerScratchBytes(common) + floats * static_cast<int64_t>(sizeof(float)) + tokens;
}

void CarveScratch(void* scratch, Walk* walk) {
  const int64_t pairs = MaxPairs(*walk->common);
  walk->pairs = static_cast<QueryPair*>(scratch);
  walk->sums = reinterpret_cast<SoftmaxSums*>(walk->pairs + pairs);
  walk->turner = MakeQueryTurner(*walk->common, walk->task, walk->sums + pairs);
  walk->keys = walk->turner.turn + walk->common->rope_dim;
  walk->values = walk->keys + walk->head_dim * walk->padded_tokens;
  walk->scores = walk->values + walk->padded_tokens * walk->head_dim;
  walk->out = walk->scores + kQueriesPerBlock * walk->padded_tokens;
  walk->token_seen = reinterpret_cast<uint8_t*>(walk->out + pairs * walk->head_dim);
}

// Lanes become rows: out[i] receives lane i of each of the eight vectors.
inline void Transpose8(const __m256 (&rows)[8], float* out, int64_t stride) {
  __m256 pairs[8], quads[8];
  FARSPAN_UNROLL
  for (int i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  FARSPAN_UNROLL
  for (int i = 0; i < 2; ++i) {
    FARSPAN_UNROLL
    for (int j = 0; j < 2; ++j) {
      quads[4 * i + 2 * j] = _mm256_shuffle_ps(pairs[4 * i + j], pairs[4 * i + 2 + j], _MM_SHUFFLE(1, 0, 1, 0));
      quads[4 * i + 2 * j + 1] = _mm256_shuffle_ps(pairs[4 * i + j], pairs[4 * i + 2 + j], _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
  FARSPAN_UNROLL
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * stride, _mm256_permute2f128_ps(quads[i], quads[4 + i], 0x20));
    _mm256_storeu_ps(out + (4 + i) * stride, _mm256_permute2f128_ps(quads[i], quads[4 + i], 0x31));
  }
}

// Widens and transposes the seen tokens of the group of eight that starts at `base`; the others become zeros and are
// never read from the page.
template <typename Element>
void WidenEightKeys(const Element* keys, int64_t base, const Walk& walk) {
  for (int64_t d = 0; d < walk.head_dim; d += kLanes) {
    __m256 rows[8];
    for (int64_t i = 0; i < kLanes; ++i) {
      const bool seen = walk.token_seen[base + i] != 0;
      rows[i] = seen ? LoadLanes(keys + (base + i) * walk.head_dim + d) : _mm256_setzero_ps();
    }
    Transpose8(rows, walk.keys + d * walk.padded_tokens + base, walk.padded_tokens);
  }
}

template <typename Element>
void WidenValues(const Element* values, TokenSpan span, const Walk& walk) {
  for (int64_t i = span.begin * walk.head_dim; i < span.end * walk.head_dim; i += kLanes) {
    _mm256_storeu_ps(walk.values + i, LoadLanes(values + i));
  }
}

// Widens what any query sees of the page run [begin, end); false where that is nothing.
template <typename Element>
bool WidenPage(const KvEntry* begin, const KvEntry* end, const Element* keys, const Walk& walk) {
  std::memset(walk.token_seen, 0, static_cast<size_t>(walk.padded_tokens));
  bool any_seen = false;
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, walk.task.first_position, walk.last_position(), walk.task.left_window);
    if (span.begin >= span.end || (entry->head_mask & walk.heads) == 0) continue;
    std::memset(walk.token_seen + span.begin, 1, static_cast<size_t>(span.end - span.begin));
    WidenValues(keys + walk.common->cache.plane_elements(), span, walk);
    any_seen = true;
  }
  for (int64_t base = 0; any_seen && base < walk.padded_tokens; base += kLanes) {
    uint64_t eight_seen;
    std::memcpy(&eight_seen, walk.token_seen + base, sizeof(eight_seen));
    if (eight_seen != 0) WidenEightKeys(keys, base, walk);
  }
  return any_seen;
}

// scores[q][token] of kVectors * 8 tokens, kept where `seen` says so.
template <int kQueries, int kVectors>
inline void ScoreTile(const float* const* q, const float* keys, const Walk& walk, const TokenSpan* seen, int64_t token,
                      float* scores) {
  __m256 sums[kQueries][kVectors];
  FARSPAN_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm256_setzero_ps();
  }
  for (int64_t d = 0; d < walk.head_dim; ++d) {
    __m256 channel[kQueries];
    FARSPAN_UNROLL
    for (int i = 0; i < kQueries; ++i) channel[i] = _mm256_broadcast_ss(q[i] + d);
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __m256 key = _mm256_loadu_ps(keys + d * walk.padded_tokens + v * kLanes);
      FARSPAN_UNROLL
      for (int i = 0; i < kQueries; ++i) sums[i][v] = _mm256_fmadd_ps(channel[i], key, sums[i][v]);
    }
  }
  FARSPAN_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    FARSPAN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int64_t first = token + v * kLanes;
      float* out = scores + i * walk.padded_tokens + v * kLanes;
      const __m256 scaled = _mm256_mul_ps(sums[i][v], _mm256_set1_ps(walk.common->scale));
      const __m256 mask = _mm256_castsi256_ps(LaneMask(seen[i].begin - first, seen[i].end - first));
      _mm256_storeu_ps(out, _mm256_blendv_ps(_mm256_loadu_ps(out), scaled, mask));
    }
  }
}

template <int kQueries>
void ScoreEntry(const KvEntry& entry, int64_t first_pair, TokenSpan span, Walk* walk) {
  const float* q[kQueries];
  TokenSpan seen[kQueries];
  FARSPAN_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    QueryPair& pair = walk->pairs[first_pair + i];
    q[i] = QueryForCap(first_pair + i, entry.query_cap, &pair, &walk->turner);
    const bool reads = ReadsEntry(entry, pair.head_in_group);
    seen[i] = reads ? VisibleTokens(entry, pair.position, walk->task.left_window) : TokenSpan{0, 0};
  }
  int64_t token = span.begin / kLanes * kLanes;
  for (; token + 3 * kLanes < span.end; token += 4 * kLanes) {
    ScoreTile<kQueries, 4>(q, walk->keys + token, *walk, seen, token, walk->scores + token);
  }
  for (; token < span.end; token += kLanes) {
    ScoreTile<kQueries, 1>(q, walk->keys + token, *walk, seen, token, walk->scores + token);
  }
}

// Folds the page run [begin, end) into kQueries pairs.
template <int kQueries>
void FoldPage(const KvEntry* begin, const KvEntry* end, int64_t first_pair, Walk* walk) {
  for (int64_t i = 0; i < kQueries * walk->padded_tokens; i += kLanes) {
    _mm256_storeu_ps(walk->scores + i, _mm256_set1_ps(kNegativeInfinity));
  }
  uint32_t heads = 0;
  FARSPAN_UNROLL
  for (int i = 0; i < kQueries; ++i) heads |= 1u << walk->pairs[first_pair + i].head_in_group;
  const int64_t first = walk->pairs[first_pair].position, last = walk->pairs[first_pair + kQueries - 1].position;
  bool any_seen = false;
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, first, last, walk->task.left_window);
    if (span.begin >= span.end || (entry->head_mask & heads) == 0) continue;
    ScoreEntry<kQueries>(*entry, first_pair, span, walk);
    any_seen = true;
  }
  if (!any_seen) return;
  float* out = walk->out + first_pair * walk->head_dim;
  FARSPAN_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const float decay =
        UpdateSoftmax(walk->scores + i * walk->padded_tokens, walk->padded_tokens, &walk->sums[first_pair + i]);
    ScaleVector(out + i * walk->head_dim, walk->head_dim, decay);
  }
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, first, last, walk->task.left_window);
    if (span.begin >= span.end || (entry->head_mask & heads) == 0) continue;
    AddValuesAllChannels<kQueries>(walk->scores, walk->padded_tokens, walk->values, walk->head_dim, span, out,
                                   walk->head_dim);
  }
}

template <typename Element>
void WalkPages(const KvList& list, Walk* walk) {
  const KvLayerView& cache = walk->common->cache;
  const Element* data = static_cast<const Element*>(cache.data);
  const KvEntry* entries = walk->common->entries + list.entries_begin;
  for (int64_t begin = 0; begin < list.num_entries;) {
    const int64_t end = PageRunEnd(entries, begin, list.num_entries);
    const Element* keys = data + KeyOffset(cache, entries[begin].page, walk->task.kv_head);
    if (WidenPage(entries + begin, entries + end, keys, *walk)) {
      int64_t pair = 0;
      for (; pair + kQueriesPerBlock <= walk->num_pairs; pair += kQueriesPerBlock) {
        FoldPage<kQueriesPerBlock>(entries + begin, entries + end, pair, walk);
      }
      for (; pair < walk->num_pairs; ++pair) FoldPage<1>(entries + begin, entries + end, pair, walk);
    }
    begin = end;
  }
}

// The heads [first_head, end_head) of the group, which read the same entries: those of `list`.
void RunHeads(const PrefillAttentionArgs& args, int64_t list, int64_t first_head, int64_t end_head, Walk* walk) {
  const AttentionCommon& common = args.common;
  const int64_t first_index = walk->task.kv_head * PrefillGroup(common);
  walk->num_pairs = 0;
  walk->heads = 0;
  walk->turner.table_cap = kNoQueryCap;
  for (int64_t head = first_head; head < end_head; ++head) walk->heads |= 1u << head;
  for (int64_t query = 0; query < walk->task.num_queries; ++query) {
    for (int64_t head = first_head; head < end_head; ++head) {
      const int64_t index = (walk->task.row + query) * common.num_heads + first_index + head;
      walk->sums[walk->num_pairs] = SoftmaxSums();
      walk->pairs[walk->num_pairs++] = {walk->task.first_position + query, head,
                                        common.q_f32() + index * walk->head_dim, kNoQueryCap};
    }
  }
  for (int64_t i = 0; i < walk->num_pairs * walk->head_dim; ++i) walk->out[i] = 0;
  ForEachKeptPart(args, list, [&](const KvList& part) {
    WithKvElement(common.cache.element, [&]<typename Element>() { WalkPages<Element>(part, walk); });
  });
  for (int64_t p = 0; p < walk->num_pairs; ++p) {
    const QueryPair& pair = walk->pairs[p];
    const int64_t row = walk->task.row + pair.position - walk->task.first_position;
    const int64_t index = row * common.num_heads + first_index + pair.head_in_group;
    FinishHead(walk->sums[p], walk->out + p * walk->head_dim, walk->head_dim, common.out_f32() + index * walk->head_dim,
               common.lse == nullptr ? nullptr : common.lse + index);
  }
}

void Run(const PrefillAttentionArgs& args, int64_t task, void* scratch) {
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

}  // namespace farspan::kernels::avx2
