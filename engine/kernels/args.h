// SPDX-License-Identifier: Apache-2.0
// The argument structs of every kernel, shared by the CPU and CUDA twins. POD only: raw pointers, shapes in comments,
// no ownership; row-major, last index fastest. Pointers never alias unless said so. Where a pointer is void* the
// element is the backend's Activation.
#pragma once

#include <cstdint>
#include <limits>

namespace farspan::kernels {

// Element of the values that ops hand each other. The residual stream, norm weights, rotations, log-sum-exps and logits
// are float32 on every backend.
enum class Activation : uint8_t { kF32, kBf16 };

constexpr int64_t ActivationBytes(Activation activation) { return activation == Activation::kF32 ? 4 : 2; }

// Storage of a weight matrix. Quantised types are of two kinds. Blocks are GGUF's: 32 values a block along a row.
//   kQ4_0  {f16 scale; 16 bytes}: value i < 16 in the low nibbles, i >= 16 in the high ones; w = scale * (q - 8)
//   kQ4_1  {f16 scale; f16 min; 16 bytes}: w = scale * q + min
//   kQ8_0  {f16 scale; 32 int8}: w = scale * q
// Tiles, of as many bits as the name says, with or without a minimum, are for devices: engine/kernels/weight_tiles.h.
// Panels are for CPUs: engine/kernels/weight_panels.h.
enum class WeightType : uint8_t {
  kF32,
  kBf16,
  kQ4_0,
  kQ4_1,
  kQ8_0,
  kTiled4,
  kTiled4Min,
  kTiled5,
  kTiled5Min,
  kTiled6,
  kTiled8,
  kPanel4,
  kPanel4Min,
  kPanel8,
};

// How quantised weights lie in memory.
enum class WeightLayout : uint8_t { kBlocks, kTiles, kPanels };

inline constexpr int64_t kQuantBlock = 32;

// [rows][columns], `rows` being outputs. A row of blocks holds columns / 32 of them without padding.
struct WeightView {
  const void* data = nullptr;
  WeightType type = WeightType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
};

// Bytes of one row of `columns` values, for tiles and panels a 16th of 16 rows' bytes; columns is a multiple of 32 for
// blocks and panels, of 64 for tiles.
constexpr int64_t WeightRowBytes(WeightType type, int64_t columns) {
  switch (type) {
    case WeightType::kF32:
      return columns * 4;
    case WeightType::kBf16:
      return columns * 2;
    case WeightType::kQ4_0:
      return columns / kQuantBlock * 18;
    case WeightType::kQ4_1:
      return columns / kQuantBlock * 20;
    case WeightType::kQ8_0:
      return columns / kQuantBlock * 34;
    case WeightType::kTiled4:
      return columns / 64 * 36;
    case WeightType::kTiled4Min:
      return columns / 64 * 40;
    case WeightType::kTiled5:
      return columns / 64 * 44;
    case WeightType::kTiled5Min:
      return columns / 64 * 48;
    case WeightType::kTiled6:
      return columns / 64 * 56;
    case WeightType::kTiled8:
      return columns / 64 * 68;
    case WeightType::kPanel4:
      return columns / 32 * 18;
    case WeightType::kPanel4Min:
      return columns / 32 * 20;
    case WeightType::kPanel8:
      return columns / 32 * 34;
  }
  return 0;
}

// How random values are stored: each format of a weight that can be made so, and each element of a KV cache.
enum class RandomFormat : uint8_t { kF32, kBf16, kF16, kF8E4M3, kQ4_0, kQ8_0 };

// data[i] = a value that depends on `key` and i alone, with the same bits on every device. Floats are uniform in
// [-2^exponent, 2^exponent). Quantised blocks have random quants and a random scale: at most 1.5 times that range.
struct FillRandomArgs {
  void* data;
  RandomFormat format;
  int64_t num_values;  // a multiple of 32 where quantised
  uint64_t key;
  int exponent;  // from -7 to 15, at most 8 for fp8
};

// Blocks of kQ4_0 or kQ8_0 as tiles of kTiled4 or kTiled8; rows are a multiple of 16, columns of 64.
struct PackTilesArgs {
  WeightView blocks;
  void* tiles;
};

// Stands in a row's token id for what an op before wrote as drawn_token_ids[slot]: the host need not know it yet.
constexpr int32_t DrawnTokenId(int64_t slot) { return static_cast<int32_t>(-1 - slot); }

// out[r] = dequantised table[token_ids[r]]
struct EmbedArgs {
  const int32_t* token_ids;  // [num_rows], each in [0, table.rows) or a DrawnTokenId
  WeightView table;          // [vocab][width]
  float* out;                // [num_rows][width]
  int64_t num_rows;
  const int32_t* drawn_token_ids = nullptr;  // by slot; read for rows that name one
};

constexpr int32_t TokenIdOf(const EmbedArgs& args, int64_t row) {
  const int32_t id = args.token_ids[row];
  return id >= 0 ? id : args.drawn_token_ids[-1 - id];
}

// out[r][i] = x'[r][i] / sqrt(mean(x'[r]^2) + epsilon) * weight[i], x' being x, or those of its rows that `rows` names;
// out may be x where it is all of them.
struct RmsNormArgs {
  const float* x;       // [num_rows][width], [...][width] with `rows`
  const float* weight;  // [width]
  float* out;           // [num_rows][width]
  int64_t num_rows;
  int64_t width;
  float epsilon;
  const int64_t* rows = nullptr;  // [num_rows]
};

// y[r][n] = sum over k of x[r][k] * weight[n][k], plus y's old value when `accumulate`.
// Each output sums over k in one order whatever num_rows is: a row's result never depends on its neighbours.
struct LinearArgs {
  const float* x;  // [num_rows][weight.columns]
  WeightView weight;
  float* y;  // [num_rows][weight.rows]
  int64_t num_rows;
  bool accumulate = false;
  const void* packed_x = nullptr;  // x as PackRowsArgs leaves it; null where the weights want none
};

// Rows of x as integers, for CPU levels that multiply panels so. Each 32 values share a scale, the largest magnitude of
// them over 32,767: a value is off by at most half a scale. A row with a NaN or an infinity becomes NaN there.
struct PackRowsArgs {
  const float* x;  // [num_rows][columns]
  int64_t num_rows;
  int64_t columns;  // a multiple of 32
  void* packed;     // PackedRowBytes(columns) a row
};

// Of a row: the integers [columns], then of each 32 {float scale; float scale times their sum; int32 sum}, padded.
constexpr int64_t PackedRowBytes(int64_t columns) { return (columns * 2 + columns / kQuantBlock * 12 + 63) / 64 * 64; }

// gate[r][i] = silu(gate[r][i]) * up[r][i], in place.
struct SiluMulArgs {
  float* gate;      // [num_rows][width]
  const float* up;  // [num_rows][width]
  int64_t num_rows;
  int64_t width;
};

// cos_sin[r][i] = {cos(a), sin(a)} with a = positions[r] * inverse_frequencies[i], evaluated in float64.
struct RopeTableArgs {
  const int64_t* positions;           // [num_rows]
  const double* inverse_frequencies;  // [rope_dim / 2]
  float* cos_sin;                     // [num_rows][rope_dim / 2][2]
  int64_t num_rows;
  int64_t rope_dim;
};

// Rotates adjacent pairs (2i, 2i + 1) of the first rope_dim channels of each head, in place.
struct RopeArgs {
  float* x;              // [num_rows][num_heads][head_dim]
  const float* cos_sin;  // [num_rows][rope_dim / 2][2]
  int64_t num_rows;
  int64_t num_heads;
  int64_t head_dim;
  int64_t rope_dim;
};

// kF8E4M3 is the float of 4 exponent and 3 mantissa bits without infinities: it saturates at 448 and has one NaN of
// each sign. Values are stored unscaled.
enum class KvElement : uint8_t { kBf16, kF32, kF16, kF8E4M3 };

constexpr int64_t KvElementBytes(KvElement element) {
  switch (element) {
    case KvElement::kF32:
      return 4;
    case KvElement::kBf16:
    case KvElement::kF16:
      return 2;
    case KvElement::kF8E4M3:
      return 1;
  }
  return 0;
}

// The KV pages of one layer: [page][kv head][K|V][token][head_dim].
struct KvLayerView {
  void* data = nullptr;
  KvElement element = KvElement::kBf16;
  int64_t num_pages = 0;
  int64_t num_kv_heads = 0;
  int64_t page_tokens = 0;
  int64_t head_dim = 0;  // a multiple of 8

  constexpr int64_t element_bytes() const { return KvElementBytes(element); }
  constexpr int64_t plane_elements() const { return page_tokens * head_dim; }  // K or V of one head in one page
  constexpr int64_t page_elements() const { return num_kv_heads * 2 * plane_elements(); }
};

// Where a row's K and V go. A row whose page is negative is padding: it is neither read nor written.
struct KvSlot {
  int32_t page;
  int32_t token;  // in [0, page_tokens)
};

// Writes k and v of each row into its slot, rounding to the cache's element (nearest even).
struct KvAppendArgs {
  const float* k;       // [num_rows][num_kv_heads][head_dim], rotated
  const float* v;       // [num_rows][num_kv_heads][head_dim]
  const KvSlot* slots;  // [num_rows], distinct
  KvLayerView cache;
  int64_t num_rows;
};

// What attention in a layer starts from, with n = rms_norm(hidden): q = rope(query n); the rows' slots of the cache get
// rope(key n) and value n. Matrices that lie in memory one behind the other may be multiplied as one.
struct AttentionInputArgs {
  const float* hidden;       // [num_rows][width]
  const float* norm_weight;  // [width]
  float epsilon;
  WeightView query;      // [num_heads * head_dim][width]
  WeightView key;        // [num_kv_heads * head_dim][width]
  WeightView value;      // as key
  const float* cos_sin;  // [num_rows][rope_dim / 2][2]
  const KvSlot* slots;   // [num_rows], distinct
  KvLayerView cache;
  void* q;          // [num_rows][num_heads][head_dim]
  void* normed;     // [num_rows][width], overwritten
  void* projected;  // [num_rows][(num_heads + 2 num_kv_heads) * head_dim], overwritten
  int64_t num_rows;
  int64_t num_heads;
  int64_t rope_dim;
};

// hidden += weight x
struct AddLinearArgs {
  const void* x;      // [num_rows][weight.columns]
  WeightView weight;  // [width][...]
  float* hidden;      // [num_rows][width]
  int64_t num_rows;
};

// hidden += down (silu(gate n) * up n), with n = rms_norm(hidden)
struct FeedForwardArgs {
  float* hidden;             // [num_rows][width]
  const float* norm_weight;  // [width]
  float epsilon;
  WeightView gate;  // [feed_forward_width][width]
  WeightView up;    // as gate
  WeightView down;  // [width][feed_forward_width]
  void* normed;     // [num_rows][width], overwritten
  void* inner;      // [num_rows][3 * feed_forward_width], overwritten
  int64_t num_rows;
};

// logits[i] = weight rms_norm(hidden[rows[i]])
struct LogitsArgs {
  const float* hidden;       // [...][width]
  const int64_t* rows;       // [num_rows], ascending
  const float* norm_weight;  // [width]
  float epsilon;
  WeightView weight;  // [vocab][width]
  void* normed;       // [num_rows][width], overwritten
  float* logits;      // [num_rows][vocab]
  int64_t num_rows;
};

// Rope on q and k, and KvAppend, in one pass over the projections of a row: q goes to `q`, k and v into the row's slot.
struct RopeAppendArgs {
  const void* qkv;       // [num_rows][num_heads + 2 * cache.num_kv_heads][head_dim]: queries, keys, values
  const float* cos_sin;  // [num_rows][rope_dim / 2][2]
  const KvSlot* slots;   // [num_rows], distinct but for padding
  void* q;               // [num_rows][num_heads][head_dim]
  KvLayerView cache;
  int64_t num_rows;
  int64_t num_heads;
  int64_t rope_dim;
  Activation activation = Activation::kF32;  // of qkv and q
};

// Tokens of a run: the fewest that one pair of key bounds covers.
constexpr int64_t KeyBoundsTokens(int64_t page_tokens) { return page_tokens < 16 ? page_tokens : 16; }

// Tokens that each pair covers of those from which a block is scored: a page's, or a run's where blocks are shorter
// than pages. A block of several has their bounds combined.
constexpr int64_t KeyBoundsTokens(int64_t page_tokens, int64_t block_tokens) {
  return block_tokens < page_tokens ? KeyBoundsTokens(page_tokens) : page_tokens;
}

// Pairs of a KV head in a page: one a run and, where there are several, one of the whole page.
constexpr int64_t KeyBoundsPairs(int64_t page_tokens) {
  const int64_t runs = page_tokens / KeyBoundsTokens(page_tokens);
  return runs > 1 ? runs + 1 : 1;
}

// Channel-wise smallest and largest key of the runs and pages of one layer, in the cache's element, which holds them
// exactly: [page], in each [kv head][run][min|max][head_dim], then, where pages have several runs,
// [kv head][min|max][head_dim] of the whole page.
struct KeyBoundsView {
  void* data = nullptr;
};

// Element offset of the minima of a run, or of the whole page; the maxima follow head_dim later.
constexpr int64_t RunBoundsOffset(const KvLayerView& cache, int64_t page, int64_t kv_head, int64_t run) {
  const int64_t runs = cache.page_tokens / KeyBoundsTokens(cache.page_tokens);
  const int64_t pairs = page * cache.num_kv_heads * KeyBoundsPairs(cache.page_tokens) + kv_head * runs + run;
  return pairs * 2 * cache.head_dim;
}
constexpr int64_t PageBoundsOffset(const KvLayerView& cache, int64_t page, int64_t kv_head) {
  const int64_t runs = cache.page_tokens / KeyBoundsTokens(cache.page_tokens);
  const int64_t runs_before = runs > 1 ? cache.num_kv_heads * runs : 0;
  const int64_t pairs = page * cache.num_kv_heads * KeyBoundsPairs(cache.page_tokens) + runs_before + kv_head;
  return pairs * 2 * cache.head_dim;
}

// One run of one page, all of whose tokens are written. A negative page is padding, which is skipped.
struct KeyRun {
  int32_t page;
  int32_t run;  // in [0, page_tokens / KeyBoundsTokens(page_tokens))
};

// Computes the bounds of `runs` for every KV head, and with the last run of a page those of the whole page, all of
// which is written. A channel in which a key is NaN has NaN for both bounds. Fastest where all runs of a page stand in
// order at a multiple of their number.
struct FillKeyBoundsArgs {
  KvLayerView cache;
  KeyBoundsView bounds;
  const KeyRun* runs;  // [num_runs], distinct but for padding
  int64_t num_runs;
};

inline constexpr int64_t kNoQueryCap = std::numeric_limits<int64_t>::max();
inline constexpr int64_t kNoLeftWindow = std::numeric_limits<int64_t>::max();
inline constexpr uint32_t kAllHeads = 0xffffffffu;

// Part of one page as a row reads it. Entries of a row ascend in position and are disjoint per head. Consecutive
// entries of one page are folded into one softmax update, so a row's result does not depend on how a page is cut.
struct KvEntry {
  int32_t page = 0;
  int32_t first_valid = 0;  // token index in the page
  int32_t num_valid = 0;
  uint32_t head_mask = kAllHeads;  // bit h: query head h of the GQA group reads this entry
  int64_t position = 0;            // logical position of token `first_valid`
  // The query at position t reads the entry as if it stood at min(t, query_cap): its rotated vector is turned by
  // min(t, query_cap) - t positions, which equals moving the keys the other way.
  int64_t query_cap = kNoQueryCap;
  bool ignores_left_window = false;  // sinks: visible however far behind the query
};

// A view over `entries` of the batch. Rows that read the same list name the same range.
struct KvList {
  int64_t entries_begin = 0;
  int64_t num_entries = 0;
};

// What decode and prefill attention share. Query t of a row sees key j iff j's entry is in its list, j <= t, and
// j > t - left_window (or the entry ignores it). Every query sees at least one key, else its output is zero.
struct AttentionCommon {
  const void* q;  // [rows of the batch][num_heads][head_dim], rotated to its own position
  void* out;      // [rows of the batch][num_heads][head_dim]
  float* lse;     // [rows of the batch][num_heads], natural log of the softmax denominator; may be null
  KvLayerView cache;
  const KvEntry* entries;
  const float* rope_cos_sin;          // [rows of the batch][rope_dim / 2][2], of each query's own position
  const double* inverse_frequencies;  // [rope_dim / 2]
  int64_t rope_dim;
  int64_t num_heads;                         // a multiple of cache.num_kv_heads, group of at most 32
  float scale;                               // of q . k
  Activation activation = Activation::kF32;  // of q and out

  // Where activation is kF32.
  constexpr const float* q_f32() const { return static_cast<const float*>(q); }
  constexpr float* out_f32() const { return static_cast<float*>(out); }
};

// As farspan::SelectorKey and farspan::GroupReduction. Softmax sums are compared by their logarithms, in which nothing
// underflows.
enum class BlockScore : uint8_t { kKeyBounds };
enum class ScoreReduction : uint8_t { kSoftmaxSum, kRawSum };

// A decode row that chooses blocks of its context. In a layer of `dense_layers` it reads `context`; else `leading`, the
// num_picked best candidates in ascending order, and `trailing`. All three ascend and are in the batch's entries.
struct SelectorRow {
  int64_t row;         // index into q
  int64_t decode_row;  // index into lists
  KvList context;      // every token up to the query, one entry a page
  KvList leading;      // read whatever is chosen, before the candidates
  KvList trailing;     // the same, after them
  BlockScore score;
  ScoreReduction reduction;
  int64_t block_tokens;     // a multiple or a divisor of page_tokens, and a multiple of KeyBoundsTokens(page_tokens)
  int64_t num_blocks;       // complete blocks of the context, all of which are scored
  int64_t first_candidate;  // the blocks [first_candidate, first_candidate + num_candidates) may be picked
  int64_t num_candidates;
  int64_t num_picked;        // in [1, num_candidates]
  int64_t slots_begin;       // index of the entries that the row's lists occupy, [num_kv_heads][SelectedEntries()]
  uint64_t dense_layers[4];  // bit i % 64 of word i / 64: layer i
};

constexpr bool IsDenseLayer(const SelectorRow& row, int64_t layer) {
  return layer < 256 && (row.dense_layers[layer / 64] >> (layer % 64) & 1) != 0;
}

// Entries of one KV head's list of `row`: its capacity and, since each block takes equally many, its length.
constexpr int64_t SelectedEntries(const SelectorRow& row, int64_t page_tokens) {
  const int64_t entries_per_block = row.block_tokens > page_tokens ? row.block_tokens / page_tokens : 1;
  return row.leading.num_entries + row.num_picked * entries_per_block + row.trailing.num_entries;
}

// Chooses blocks for each row and KV head and writes their lists: the entries into slots, the ranges into `lists`.
// The highest scores win, equal ones in favour of the lower block, a NaN above all. A row without picks is skipped.
struct SelectBlocksArgs {
  const void* q;  // [rows of the batch][num_heads][head_dim], rotated
  Activation activation = Activation::kF32;
  KvLayerView cache;
  KeyBoundsView bounds;     // those of every complete block are filled
  KvEntry* entries;         // the batch's, slots included
  KvList* lists;            // [decode rows][num_kv_heads]; those of `rows` are written
  const SelectorRow* rows;  // [num_rows]
  int64_t num_rows;
  int64_t layer;
  int64_t num_heads;

  constexpr const float* q_f32() const { return static_cast<const float*>(q); }  // where activation is kF32
};

// What is made of q . k: scaled, or as its share of the softmax whose logarithm the query head's lse is.
enum class KeyScore : uint8_t { kLogit, kProbability };
enum class ScoreFold : uint8_t { kNone, kSum, kMax };

// Consecutive queries of one sequence that score the same lists; one in decode.
struct KeyScoreRow {
  int64_t row;  // of the first query, into q and lse; the others follow
  int64_t num_queries;
  int64_t first_position;  // of the first query
  int64_t left_window;
};

// Scores the keys of each (row, KV head)'s list, which is visible to each query head as in attention: what it does not
// see has the logit -infinity and the probability 0. Scores are folded over the query heads of a group, then over the
// queries, then over `column_tokens` neighbouring positions, the first from a multiple of that; kNone keeps them apart.
// Columns in which a list has no token are left as they are.
struct KeyScoresArgs {
  AttentionCommon common;   // out is not used; lse is read for probabilities
  const KeyScoreRow* rows;  // [num_rows]
  const KvList* lists;      // [num_rows][num_kv_heads]
  float* scores;            // [num_rows][num_kv_heads][group, 1 if folded][max_queries, 1 if folded][max_columns]
  int64_t num_rows;
  int64_t max_queries;
  int64_t max_columns;  // beyond the last position / column_tokens
  KeyScore score = KeyScore::kLogit;
  ScoreFold over_group = ScoreFold::kNone;
  ScoreFold over_queries = ScoreFold::kNone;
  ScoreFold over_columns = ScoreFold::kNone;  // kNone: column_tokens is 1
  int64_t column_tokens = 1;
};

constexpr float ScoreFoldStart(ScoreFold fold) {
  return fold == ScoreFold::kMax ? -std::numeric_limits<float>::infinity() : 0.0f;
}
// NaN and any number: NaN.
constexpr float FoldScore(ScoreFold fold, float folded, float score) {
  if (fold != ScoreFold::kMax) return folded + score;
  return score > folded || score != score ? score : folded;
}

struct DecodeRow {
  int64_t row;          // index into q and out
  int64_t position;     // of the query
  int64_t left_window;  // tokens, kNoLeftWindow for none
};

// Longest run of distinct pages that one partial softmax state of a decode row covers, where a kernel has no rule of
// its own. Split boundaries follow from the row's own list alone.
inline constexpr int64_t kDecodeSplitPages = 16;

struct DecodeAttentionArgs {
  AttentionCommon common;
  const DecodeRow* rows;  // [num_rows]
  const KvList* lists;    // [num_rows][num_kv_heads]
  int64_t num_rows;
  // Rows, lists and entries stand as the step began: no kernel of it writes them. A device may read them early.
  bool lists_are_settled = false;
};

// What query heads have seen of one part of what they read: states of several parts merge to the output over all. A
// head that saw nothing has the maximum -infinity, the sum 0 and zeros.
struct SoftmaxStates {
  float* out = nullptr;      // [rows of the batch][num_heads][head_dim], sum of exp(score - maximum) * value
  float* maximum = nullptr;  // [rows of the batch][num_heads], of the scores
  float* sum = nullptr;      // [rows of the batch][num_heads], of exp(score - maximum)
};

// Decode attention that leaves states instead of outputs. common.out is not used.
struct DecodeStatesArgs {
  DecodeAttentionArgs attention;
  SoftmaxStates states;
};

// The output over all that `num_states` states of each query head saw together, and its log-sum-exp: zero and -infinity
// where none saw anything. They are added in their order, so that their order alone decides the bits.
struct MergeStatesArgs {
  SoftmaxStates states;  // read: num_states of each array, one behind the other
  int64_t num_states;
  void* out;   // [num_rows][num_heads][head_dim]
  float* lse;  // [num_rows][num_heads]; may be null
  int64_t num_rows;
  int64_t num_heads;
  int64_t head_dim;                          // a multiple of 8
  Activation activation = Activation::kF32;  // of out
};

// Copies the tokens that each KV head has chosen to pages of their own, keys and values as they are: a key keeps the
// rotation that it was stored with. Token i of every KV head goes to token i % page_tokens of pages[i / page_tokens];
// tokens of the last page beyond num_tokens stay as they are.
struct CompactTokensArgs {
  KvLayerView cache;
  KeyBoundsView bounds;   // gets those of the runs and pages that are filled; data may be null
  const KvSlot* sources;  // [num_kv_heads][num_tokens], none of them in `pages`
  const int32_t* pages;   // [ceil(num_tokens / page_tokens)], distinct
  int64_t num_tokens;
};

// Queries [first_position, first_position + num_queries) of one sequence, inside one absolute-aligned tile.
struct PrefillTile {
  int64_t row;          // of the first query; the others follow
  int64_t num_queries;  // at least 1
  int64_t first_position;
  int64_t left_window;
};

inline constexpr int64_t kPrefillTileQueries = 128;

// A block mask keeps whole blocks of a list: block b is its entries [b * n, (b + 1) * n) with n = MaskBlockEntries(),
// cut at the list's end. Where the list has one entry a page these are keys [128 b, 128 b + 128).
inline constexpr int64_t kMaskBlockTokens = 128;
inline constexpr int64_t kAllBlocks = -1;

constexpr int64_t MaskBlockEntries(int64_t page_tokens) {
  return page_tokens < kMaskBlockTokens ? kMaskBlockTokens / page_tokens : 1;
}

// What one query head of one tile reads of its list: kept_blocks[begin .. begin + num_blocks), ascending and distinct,
// each beginning inside the list. num_blocks = kAllBlocks: the whole list, with kept_blocks unread.
struct BlockRange {
  int64_t begin = 0;
  int64_t num_blocks = kAllBlocks;
};

struct PrefillAttentionArgs {
  AttentionCommon common;
  const PrefillTile* tiles;  // [num_tiles]
  const KvList* lists;       // [num_tiles][num_heads]
  int64_t num_tiles;
  // The block mask; null where every list is read whole. The queries' own bounds hold inside kept blocks as elsewhere.
  const BlockRange* kept_ranges = nullptr;  // [num_tiles][num_heads]
  const int32_t* kept_blocks = nullptr;
};

}  // namespace farspan::kernels
