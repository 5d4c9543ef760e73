// SPDX-License-Identifier: Apache-2.0
// The arguments of drawing tokens from rows of logits, in the style of args.h. What each number means and in which
// order they apply is engine/sampling's: an op answers as DrawFromLogits does, up to the rounding of sums.
#pragma once

#include <cstdint>

namespace farspan::kernels {

inline constexpr int32_t kNoToken = -1;
inline constexpr int32_t kNoLogprobs = -1;
inline constexpr int kMaxDrawAlternatives = 20;
inline constexpr int64_t kMaxDrawRows = 256;  // of one call of a backend

// A token that penalties count: one of the output `in_output` times, or with 0 of the prompt alone.
struct CountedToken {
  int32_t token;
  int32_t in_output;
};

// What is asked of one row.
struct DrawRow {
  bool idle;  // fills up a batch: nothing is read or written for it
  bool greedy;
  int32_t given_token;       // kNoToken where it is drawn
  int32_t num_alternatives;  // at most kMaxDrawAlternatives, or kNoLogprobs
  int32_t top_k;             // 0 keeps all
  int32_t num_counts;        // 0 where nothing is penalised
  int64_t counts_begin;      // its counts are [counts_begin, counts_begin + num_counts), no token twice
  uint64_t seed;
  int64_t position;
  int64_t sample_index;
  double temperature;  // above 0 unless greedy
  double top_p;
  double min_p;
  double frequency_penalty;
  double presence_penalty;
  double repetition_penalty;
};

enum class LogitSoundness : int32_t { kSound, kNan, kInfinite, kNoneFinite };

// What came of one row. Of an unsound row nothing but its soundness means anything; a row whose logits nobody asked
// about counts as sound.
struct DrawnRow {
  int32_t token;
  LogitSoundness soundness;
  float logprob;             // of the token; where log-probabilities were asked for
  int32_t num_alternatives;  // as many as asked for, or as the vocabulary has
  int32_t alternative_tokens[kMaxDrawAlternatives];
  float alternative_logprobs[kMaxDrawAlternatives];
};

struct DrawArgs {
  const float* logits;         // [num_rows][vocab_size]
  const DrawRow* rows;         // [num_rows]
  const CountedToken* counts;  // of all rows
  DrawnRow* drawn;             // [num_rows]
  int32_t* next_token_ids;     // [num_rows], each row's token for a step that follows; may be null
  int64_t num_rows;
  int64_t vocab_size;
};

}  // namespace farspan::kernels
