// SPDX-License-Identifier: Apache-2.0
// The border between text and token ids: what a model file says about its vocabulary, and the interface that everything
// above the engine uses. Formats of model files are read elsewhere; a vocabulary arrives here as a plain value.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/ids.h"

namespace farspan {

enum class TokenType : uint8_t {
  kNormal,       // text, written in the byte-level alphabet (a space is "Ġ")
  kControl,      // a marker such as <|im_start|>; never produced from text
  kUserDefined,  // plain text, as it is, that is always one token; control if spelled <|like this|>
  kUnknown,      // stands for what the vocabulary lacks; never produced
  kUnused,       // padding of the table; never produced
};

// What a model file declares. Hostile until a tokenizer's Create() has accepted it.
struct Vocabulary {
  std::string pre_tokenizer;        // "gpt-2", "smollm"
  std::vector<std::string> tokens;  // the index is the TokenId
  std::vector<TokenType> types;     // one for each token, or empty: all normal
  std::vector<std::string> merges;  // "left right", the most frequent first
  std::optional<TokenId> bos_id;    // begins a sequence
  std::optional<TokenId> eos_id;    // ends a generation
  std::optional<TokenId> eot_id;    // ends a turn of a chat, where the model has a token of its own for it
  bool add_bos = false;             // raw prompts of this model begin with bos_id
  std::string chat_template;        // source text, recognised but never executed; empty if the file has none
};

// Immutable. Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of `text`, without BOS. Markers of control tokens inside the text stay text. Decode(*Encode(x)) == x.
  // INVALID_ARGUMENT with the byte offset if `text` is not UTF-8 or holds a byte that the vocabulary cannot express.
  // Cost: O(n log n) in the bytes of the longest word, linear otherwise; constant stack.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text) const = 0;

  // What the token adds to a text: any bytes, also a part of a code point. Empty for an id outside the vocabulary
  // (an embedding may be padded). Lives as long as the tokenizer.
  virtual std::string_view TokenBytes(TokenId id) const = 0;

  // The text of `ids` as valid UTF-8: each maximal ill-formed sequence becomes U+FFFD. Control tokens appear as their
  // markers unless `skip_special_tokens`. INVALID_ARGUMENT names the first id outside the vocabulary.
  virtual absl::StatusOr<std::string> Decode(std::span<const TokenId> ids, bool skip_special_tokens = false) const = 0;

  // True for tokens that carry no text of their own: control, unknown and unused ones.
  virtual bool IsControl(TokenId id) const = 0;
  // The control token with exactly this marker: FindControl("<|im_start|>").
  virtual std::optional<TokenId> FindControl(std::string_view marker) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual std::optional<TokenId> bos_id() const = 0;
  virtual std::optional<TokenId> eos_id() const = 0;
  // Whether raw prompts of this model begin with bos_id(); then there is one.
  virtual bool adds_bos() const = 0;
  // Any of these ends a generation. Ascending.
  virtual std::span<const TokenId> end_of_generation_ids() const = 0;
};

}  // namespace farspan
