// SPDX-License-Identifier: Apache-2.0
// A small Llama checkpoint with seeded random weights and a byte-level BPE vocabulary, written as GGUF when a test
// starts: real code runs on it from file to logits, in milliseconds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/gguf_types.h"

namespace farspan {

inline constexpr int32_t kTinyEndOfTextId = 0;  // <|endoftext|>
inline constexpr int32_t kTinyImStartId = 1;    // <|im_start|>, also BOS
inline constexpr int32_t kTinyImEndId = 2;      // <|im_end|>, also EOS
inline constexpr int32_t kTinyFirstByteId = 3;  // the 256 byte tokens follow, then the merged ones

// The defaults suit every type; widths are multiples of 32 where a quantised type is chosen.
struct TinyCheckpointOptions {
  uint64_t seed = 1;
  int64_t num_layers = 2;
  int64_t width = 64;
  int64_t feed_forward_width = 96;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int64_t head_dim = 16;
  int64_t context_tokens = 4096;
  float rope_freq_base = 10000.0f;
  int64_t rope_dim = 0;             // channels of a head that are rotated; 0 for all
  float rope_linear_factor = 0;     // 0 for none
  std::vector<float> rope_factors;  // a divisor of each frequency; empty for none
  GgufTensorType matrix_type = GgufTensorType::kQ4_1;
  GgufTensorType embedding_type = GgufTensorType::kQ8_0;  // of token_embd and output
  bool tied_embeddings = false;                           // true leaves output.weight out
};

// The tokens in id order, as tokenizer.ggml.tokens holds them.
std::vector<std::string> TinyVocabulary();

// The whole file. Equal options, equal bytes.
std::string TinyCheckpointBytes(const TinyCheckpointOptions& options = {});

// A file under the test's temporary folder, removed on destruction.
class TinyCheckpoint {
 public:
  explicit TinyCheckpoint(const TinyCheckpointOptions& options = {});
  ~TinyCheckpoint();
  TinyCheckpoint(const TinyCheckpoint&) = delete;
  TinyCheckpoint& operator=(const TinyCheckpoint&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace farspan
