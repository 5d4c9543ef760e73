// SPDX-License-Identifier: Apache-2.0
// One task is a run of a tile's queries for one KV head. A page of K (transposed) and V is widened to float32 once and
// read by every query and every head whose list is the same; small register tiles then do Q K^T and P V. A score is
// one chain of FMAs over the channels, an output one chain over the tokens, a page one softmax update: so no result
// depends on which queries share a task.
#include <cstring>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/avx2/attention_tiles.h"
#include "engine/kernels/cpu/avx2/kernels.h"

namespace farspan::kernels::avx2 {
namespace {

constexpr int64_t kQueriesPerBlock = 3;  // (query, head) pairs in a register tile of 3 x 4 vectors
constexpr int64_t kMaxPairs = 128;       // (query, head) pairs of a task

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t Group(const AttentionCommon& common) { return common.num_heads / common.cache.num_kv_heads; }

int64_t QueriesPerTask(const AttentionCommon& common) { return Min(32, Max(4, kMaxPairs / Group(common))); }

int64_t TasksPerTile(const AttentionCommon& common) {
  const int64_t queries = QueriesPerTask(common);
  return (kPrefillTileQueries + queries - 1) / queries;
}

// What one head of one query carries through the list.
struct Pair {
  int64_t position;
  int64_t head_in_group;
  const float* q;      // rotated to its own position
  int64_t turned_cap;  // the cap for which the walk's turned_q holds this query; kNoQueryCap for none
  SoftmaxSums sums;
};

// The heads of one KV head that read the same list, over the task's queries.
struct Walk {
  const AttentionCommon* common;
  int64_t kv_head;
  int64_t left_window;
  int64_t row;  // of the first query
  int64_t first_position;
  int64_t num_queries;
  int64_t head_dim;
  int64_t padded_tokens;
  uint32_t heads;     // bit h: head h of the group is among the pairs
  int64_t table_cap;  // the cap that cap_cos_sin holds; kNoQueryCap for none
  int64_t num_pairs;  // query-major
  Pair* pairs;
  double* cap_cos_sin;  // [rope_dim]
  float* turn;          // [rope_dim]
  float* keys;          // [head_dim][padded_tokens], transposed
  float* values;        // [padded_tokens][head_dim]
  float* scores;        // [kQueriesPerBlock][padded_tokens]
  float* out;           // [pairs][head_dim]
  float* turned_q;      // [pairs][head_dim]
  uint8_t* token_seen;  // [padded_tokens], 1 for tokens of the page that some query sees

  int64_t last_position() const { return first_position + num_queries - 1; }
};

int64_t MaxPairs(const AttentionCommon& common) { return QueriesPerTask(common) * Group(common); }

int64_t ScratchBytes(const PrefillAttentionArgs& args) {
  const AttentionCommon& common = args.common;
  const int64_t head_dim = common.cache.head_dim, tokens = RoundUpToLanes(common.cache.page_tokens);
  const int64_t floats =
      common.rope_dim + 2 * head_dim * tokens + kQueriesPerBlock * tokens + 2 * MaxPairs(common) * head_dim;
  return MaxPairs(common) * static_cast<int64_t>(sizeof(Pair)) +
         common.rope_dim * static_cast<int64_t>(sizeof(double)) + floats * static_cast<int64_t>(sizeof(float)) + tokens;
}

void CarveScratch(void* scratch, Walk* walk) {
  walk->pairs = static_cast<Pair*>(scratch);
  walk->cap_cos_sin = reinterpret_cast<double*>(walk->pairs + MaxPairs(*walk->common));
  walk->keys = reinterpret_cast<float*>(walk->cap_cos_sin + walk->common->rope_dim);
  walk->values = walk->keys + walk->head_dim * walk->padded_tokens;
  walk->scores = walk->values + walk->padded_tokens * walk->head_dim;
  walk->out = walk->scores + kQueriesPerBlock * walk->padded_tokens;
  walk->turned_q = walk->out + MaxPairs(*walk->common) * walk->head_dim;
  walk->turn = walk->turned_q + MaxPairs(*walk->common) * walk->head_dim;
  walk->token_seen = reinterpret_cast<uint8_t*>(walk->turn + walk->common->rope_dim);
}

// The query of pair `index` as an entry with `cap` sees it.
const float* QueryForCap(int64_t index, int64_t cap, Walk* walk) {
  Pair& pair = walk->pairs[index];
  if (pair.position <= cap) return pair.q;
  float* turned = walk->turned_q + index * walk->head_dim;
  if (pair.turned_cap == cap) return turned;
  const AttentionCommon& common = *walk->common;
  if (walk->table_cap != cap) FillCapTable(common, cap, walk->cap_cos_sin);
  walk->table_cap = cap;
  const int64_t row = walk->row + pair.position - walk->first_position;
  FillTurn(walk->cap_cos_sin, common.rope_cos_sin + row * common.rope_dim, common.rope_dim, walk->turn);
  TurnQuery(pair.q, walk->turn, common.rope_dim, walk->head_dim, turned);
  pair.turned_cap = cap;
  return turned;
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
    const TokenSpan span = VisibleTokens(*entry, walk.first_position, walk.last_position(), walk.left_window);
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
    const Pair& pair = walk->pairs[first_pair + i];
    q[i] = QueryForCap(first_pair + i, entry.query_cap, walk);
    const bool reads = ReadsEntry(entry, pair.head_in_group);
    seen[i] = reads ? VisibleTokens(entry, pair.position, walk->left_window) : TokenSpan{0, 0};
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
    const TokenSpan span = VisibleTokens(*entry, first, last, walk->left_window);
    if (span.begin >= span.end || (entry->head_mask & heads) == 0) continue;
    ScoreEntry<kQueries>(*entry, first_pair, span, walk);
    any_seen = true;
  }
  if (!any_seen) return;
  float* out = walk->out + first_pair * walk->head_dim;
  FARSPAN_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const float decay =
        UpdateSoftmax(walk->scores + i * walk->padded_tokens, walk->padded_tokens, &walk->pairs[first_pair + i].sums);
    ScaleVector(out + i * walk->head_dim, walk->head_dim, decay);
  }
  for (const KvEntry* entry = begin; entry < end; ++entry) {
    const TokenSpan span = VisibleTokens(*entry, first, last, walk->left_window);
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
    const Element* keys = data + KeyOffset(cache, entries[begin].page, walk->kv_head);
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
  const int64_t group = Group(common), first_index = walk->kv_head * group;
  walk->num_pairs = 0;
  walk->heads = 0;
  walk->table_cap = kNoQueryCap;
  for (int64_t head = first_head; head < end_head; ++head) walk->heads |= 1u << head;
  for (int64_t query = 0; query < walk->num_queries; ++query) {
    for (int64_t head = first_head; head < end_head; ++head) {
      const float* q = common.q_f32() + ((walk->row + query) * common.num_heads + first_index + head) * walk->head_dim;
      walk->pairs[walk->num_pairs++] = {walk->first_position + query, head, q, kNoQueryCap, SoftmaxSums()};
    }
  }
  for (int64_t i = 0; i < walk->num_pairs * walk->head_dim; ++i) walk->out[i] = 0;
  ForEachKeptPart(args, list, [&](const KvList& part) {
    WithKvElement(common.cache.element, [&]<typename Element>() { WalkPages<Element>(part, walk); });
  });
  for (int64_t p = 0; p < walk->num_pairs; ++p) {
    const Pair& pair = walk->pairs[p];
    const int64_t row = walk->row + pair.position - walk->first_position;
    const int64_t index = row * common.num_heads + first_index + pair.head_in_group;
    FinishHead(pair.sums, walk->out + p * walk->head_dim, walk->head_dim, common.out_f32() + index * walk->head_dim,
               common.lse == nullptr ? nullptr : common.lse + index);
  }
}

// Whether lists `a` and `b` name the same entries in the same place, through the same part of the block mask.
bool SameList(const PrefillAttentionArgs& args, int64_t a, int64_t b) {
  const KvList &list_a = args.lists[a], &list_b = args.lists[b];
  if (list_a.entries_begin != list_b.entries_begin || list_a.num_entries != list_b.num_entries) return false;
  if (args.kept_ranges == nullptr) return true;
  const BlockRange &range_a = args.kept_ranges[a], &range_b = args.kept_ranges[b];
  return range_a.num_blocks == range_b.num_blocks &&
         (range_a.begin == range_b.begin || range_a.num_blocks == kAllBlocks);
}

int64_t NumTasks(const PrefillAttentionArgs& args) {
  return args.num_tiles * TasksPerTile(args.common) * args.common.cache.num_kv_heads;
}

// The last queries of a tile see most: they go first, so that no thread is left with them alone.
void Run(const PrefillAttentionArgs& args, int64_t task, void* scratch) {
  const AttentionCommon& common = args.common;
  const int64_t num_kv_heads = common.cache.num_kv_heads, group = Group(common);
  const int64_t piece = args.num_tiles * TasksPerTile(common) - 1 - task / num_kv_heads;
  const int64_t tile_index = piece / TasksPerTile(common);
  const PrefillTile& tile = args.tiles[tile_index];
  const int64_t first_query = piece % TasksPerTile(common) * QueriesPerTask(common);
  if (first_query >= tile.num_queries) return;
  Walk walk = {};
  walk.common = &common;
  walk.kv_head = task % num_kv_heads;
  walk.left_window = tile.left_window;
  walk.row = tile.row + first_query;
  walk.first_position = tile.first_position + first_query;
  walk.num_queries = Min(QueriesPerTask(common), tile.num_queries - first_query);
  walk.head_dim = common.cache.head_dim;
  walk.padded_tokens = RoundUpToLanes(common.cache.page_tokens);
  CarveScratch(scratch, &walk);
  const int64_t lists = tile_index * common.num_heads + walk.kv_head * group;
  for (int64_t head = 0; head < group;) {
    int64_t end = head + 1;
    while (end < group && SameList(args, lists + head, lists + end)) ++end;
    RunHeads(args, lists + head, head, end, &walk);
    head = end;
  }
}

}  // namespace

constinit const KernelOp<PrefillAttentionArgs> kPrefillAttention = {NumTasks, ScratchBytes, Run};

}  // namespace farspan::kernels::avx2
