// SPDX-License-Identifier: Apache-2.0
#include "engine/text/bpe.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/byte_level.h"
#include "engine/text/literal_tokens.h"
#include "engine/text/merge_table.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/utf8.h"

namespace farspan {
namespace {

constexpr size_t kMaxTokens = size_t{4} << 20;
constexpr size_t kMaxVocabularyBytes = size_t{64} << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;  // positions are int32
constexpr TokenId kNoToken = -1;

// Markers of control tokens that end a generation whether or not the model file names their ids.
constexpr std::string_view kEndMarkers[] = {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>"};

std::string Quoted(std::string_view text) {
  constexpr size_t kMaxShownBytes = 64;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(std::string(text.substr(0, kMaxShownBytes))),
                      text.size() > kMaxShownBytes ? "...\"" : "\"");
}

using IdOfToken = absl::flat_hash_map<std::string_view, TokenId>;

class BpeTokenizer final : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(const Vocabulary& vocabulary);

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text) const override;
  std::string_view TokenBytes(TokenId id) const override;
  absl::StatusOr<std::string> Decode(std::span<const TokenId> ids, bool skip_special_tokens) const override;
  bool IsControl(TokenId id) const override { return IsInRange(id) && is_control_[id]; }
  std::optional<TokenId> FindControl(std::string_view marker) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(is_control_.size()); }
  std::optional<TokenId> bos_id() const override { return bos_id_; }
  std::optional<TokenId> eos_id() const override { return eos_id_; }
  bool adds_bos() const override { return adds_bos_; }
  std::span<const TokenId> end_of_generation_ids() const override { return end_of_generation_ids_; }

 private:
  absl::Status LoadTokens(const Vocabulary& vocabulary, IdOfToken& id_of_token);
  absl::Status LoadMerges(const Vocabulary& vocabulary, const IdOfToken& id_of_token);
  absl::Status LoadSpecialIds(const Vocabulary& vocabulary);
  absl::Status AddLiteral(std::string_view token, TokenId id);
  // Encodes `part` of `text`, which is plain.
  absl::Status AppendPlain(std::string_view text, std::string_view part, std::vector<TokenId>& ids) const;
  absl::Status AppendWord(std::string_view text, std::string_view word, std::vector<TokenId>& symbols,
                          std::vector<TokenId>& ids) const;
  bool IsInRange(TokenId id) const { return id >= 0 && id < vocab_size(); }

  PreTokenizer pre_tokenizer_ = PreTokenizer::kGpt2;
  std::string token_bytes_;             // of all tokens, one after the other
  std::vector<uint32_t> token_begins_;  // into token_bytes_; one more than there are tokens
  std::vector<bool> is_control_;
  std::array<TokenId, 256> id_of_byte_{};  // kNoToken where the vocabulary has none
  MergeTable merges_;
  LiteralTokens literals_;
  absl::flat_hash_map<std::string, TokenId> control_ids_;
  std::optional<TokenId> bos_id_;
  std::optional<TokenId> eos_id_;
  bool adds_bos_ = false;
  std::vector<TokenId> end_of_generation_ids_;
};

absl::StatusOr<std::unique_ptr<const Tokenizer>> BpeTokenizer::Create(const Vocabulary& vocabulary) {
  auto tokenizer = std::make_unique<BpeTokenizer>();
  FARSPAN_ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_, ParsePreTokenizer(vocabulary.pre_tokenizer));
  IdOfToken id_of_token;
  FARSPAN_RETURN_IF_ERROR(tokenizer->LoadTokens(vocabulary, id_of_token));
  FARSPAN_RETURN_IF_ERROR(tokenizer->LoadMerges(vocabulary, id_of_token));
  FARSPAN_RETURN_IF_ERROR(tokenizer->LoadSpecialIds(vocabulary));
  return tokenizer;
}

// Some model files list markers as plain text; whatever is spelled like one must not be reachable from a user's text.
TokenType TypeOf(const Vocabulary& vocabulary, TokenId id) {
  const TokenType type = vocabulary.types.empty() ? TokenType::kNormal : vocabulary.types[id];
  if (type != TokenType::kUserDefined) return type;
  const std::string& token = vocabulary.tokens[id];
  const bool is_marker = absl::StartsWith(token, "<|") && absl::EndsWith(token, "|>");
  const bool is_special = id == vocabulary.bos_id || id == vocabulary.eos_id || id == vocabulary.eot_id;
  return is_marker || is_special ? TokenType::kControl : type;
}

absl::Status CheckTableSizes(const Vocabulary& vocabulary) {
  const size_t num_tokens = vocabulary.tokens.size();
  if (num_tokens == 0 || num_tokens > kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: expected 1 to ", kMaxTokens, "; got ", num_tokens));
  }
  if (!vocabulary.types.empty() && vocabulary.types.size() != num_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("types: expected one for each of ", num_tokens, " tokens; got ", vocabulary.types.size()));
  }
  size_t num_bytes = 0;
  for (const std::string& token : vocabulary.tokens) num_bytes += token.size();
  if (num_bytes > kMaxVocabularyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens: expected at most ", kMaxVocabularyBytes, " bytes together; got ", num_bytes));
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::LoadTokens(const Vocabulary& vocabulary, IdOfToken& id_of_token) {
  FARSPAN_RETURN_IF_ERROR(CheckTableSizes(vocabulary));
  const size_t num_tokens = vocabulary.tokens.size();
  id_of_token.reserve(num_tokens);
  token_begins_.reserve(num_tokens + 1);
  id_of_byte_.fill(kNoToken);
  for (size_t i = 0; i < num_tokens; ++i) {
    const TokenId id = static_cast<TokenId>(i);
    const std::string& token = vocabulary.tokens[i];
    const TokenType type = TypeOf(vocabulary, id);
    if (token.empty()) return absl::InvalidArgumentError(absl::StrCat("tokens[", i, "]: expected text; got none"));
    if (const auto [it, inserted] = id_of_token.try_emplace(token, id); !inserted) {
      return absl::InvalidArgumentError(absl::StrCat("tokens[", i, "]: expected a text of its own; got ", Quoted(token),
                                                     ", which is tokens[", it->second, "]"));
    }
    token_begins_.push_back(static_cast<uint32_t>(token_bytes_.size()));
    is_control_.push_back(type != TokenType::kNormal && type != TokenType::kUserDefined);
    if (type == TokenType::kControl) control_ids_.try_emplace(token, id);
    if (type == TokenType::kUserDefined) FARSPAN_RETURN_IF_ERROR(AddLiteral(token, id));
    const bool is_plain = type == TokenType::kNormal;
    const std::optional<std::string> bytes = is_plain ? FromByteLevel(token) : token;
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokens[", i, "]: expected the byte-level alphabet of GPT-2; got ", Quoted(token)));
    }
    token_bytes_ += *bytes;
    if (bytes->size() == 1 && !is_control_.back()) id_of_byte_[static_cast<uint8_t>(bytes->front())] = id;
  }
  token_begins_.push_back(static_cast<uint32_t>(token_bytes_.size()));
  for (int byte = 0; byte < 256; ++byte) {
    if ((byte == '\n' || (byte >= 0x20 && byte <= 0x7E)) && id_of_byte_[byte] == kNoToken) {
      return absl::InvalidArgumentError(absl::StrFormat("tokens: expected one for byte 0x%02X; got none", byte));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddLiteral(std::string_view token, TokenId id) {
  if (token.size() > kMaxLiteralBytes || FindInvalidUtf8(token).has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("tokens[", id, "]: expected at most ", kMaxLiteralBytes,
                                                   " bytes of UTF-8 in a user-defined token; got ", Quoted(token)));
  }
  literals_.Add(token, id);
  return absl::OkStatus();
}

absl::Status BpeTokenizer::LoadMerges(const Vocabulary& vocabulary, const IdOfToken& id_of_token) {
  // More than one merge may make the same token, but no more than there are cuts in it.
  constexpr size_t kMaxMerges = 2 * kMaxTokens;
  if (vocabulary.merges.size() > kMaxMerges) {
    return absl::InvalidArgumentError(
        absl::StrCat("merges: expected at most ", kMaxMerges, "; got ", vocabulary.merges.size()));
  }
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    const std::string_view merge = vocabulary.merges[i];
    const auto refuse = [&](const char* expected) {
      return absl::InvalidArgumentError(absl::StrCat("merges[", i, "]: expected ", expected, "; got ", Quoted(merge)));
    };
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
        merge.find(' ', space + 1) != std::string_view::npos) {
      return refuse("two tokens with one space between");
    }
    const auto find = [&](std::string_view token) {
      const auto it = id_of_token.find(token);
      const bool found =
          it != id_of_token.end() && (vocabulary.types.empty() || vocabulary.types[it->second] == TokenType::kNormal);
      return found ? it->second : kNoToken;
    };
    const std::string left_text(merge.substr(0, space));
    const std::string right_text(merge.substr(space + 1));
    const TokenId left = find(left_text);
    const TokenId right = find(right_text);
    const TokenId product = find(absl::StrCat(left_text, right_text));
    if (left == kNoToken || right == kNoToken) return refuse("two normal tokens of the vocabulary");
    if (product == kNoToken) return refuse("a pair that makes a normal token of the vocabulary");
    if (!merges_.Add(left, right, product)) return refuse("a pair that no earlier merge has");
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::LoadSpecialIds(const Vocabulary& vocabulary) {
  const std::pair<const char*, std::optional<TokenId>> named_ids[] = {
      {"bos_id", vocabulary.bos_id}, {"eos_id", vocabulary.eos_id}, {"eot_id", vocabulary.eot_id}};
  for (const auto& [name, id] : named_ids) {
    if (id.has_value() && !IsInRange(*id)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected 0 to ", vocab_size() - 1, "; got ", *id));
    }
  }
  if (vocabulary.add_bos && !vocabulary.bos_id.has_value()) {
    return absl::InvalidArgumentError("add_bos: expected a bos_id; got none");
  }
  bos_id_ = vocabulary.bos_id;
  eos_id_ = vocabulary.eos_id;
  adds_bos_ = vocabulary.add_bos;
  std::vector<TokenId>& ends = end_of_generation_ids_;
  if (vocabulary.eos_id.has_value()) ends.push_back(*vocabulary.eos_id);
  if (vocabulary.eot_id.has_value()) ends.push_back(*vocabulary.eot_id);
  for (const std::string_view marker : kEndMarkers) {
    if (const std::optional<TokenId> id = FindControl(marker); id.has_value()) ends.push_back(*id);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AppendWord(std::string_view text, std::string_view word, std::vector<TokenId>& symbols,
                                      std::vector<TokenId>& ids) const {
  symbols.clear();
  symbols.reserve(word.size());
  for (const char& byte : word) {
    const TokenId id = id_of_byte_[static_cast<uint8_t>(byte)];
    if (id == kNoToken) {
      return absl::InvalidArgumentError(absl::StrFormat("byte 0x%02X at byte %d is not in the model's vocabulary",
                                                        static_cast<uint8_t>(byte), &byte - text.data()));
    }
    symbols.push_back(id);
  }
  merges_.Apply(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AppendPlain(std::string_view text, std::string_view part, std::vector<TokenId>& ids) const {
  std::vector<TokenId> symbols;
  WordScanner words(pre_tokenizer_, part);
  while (const std::optional<std::string_view> word = words.Next()) {
    FARSPAN_RETURN_IF_ERROR(AppendWord(text, *word, symbols, ids));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> BpeTokenizer::Encode(std::string_view text) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("expected at most ", kMaxTextBytes, " bytes; got ", text.size()));
  }
  if (const std::optional<size_t> offset = FindInvalidUtf8(text); offset.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", *offset));
  }
  std::vector<TokenId> ids;
  size_t offset = 0;
  while (const std::optional<LiteralTokens::Match> literal = literals_.Find(text, offset)) {
    FARSPAN_RETURN_IF_ERROR(AppendPlain(text, text.substr(offset, literal->offset - offset), ids));
    ids.push_back(literal->id);
    offset = literal->offset + literal->num_bytes;
  }
  FARSPAN_RETURN_IF_ERROR(AppendPlain(text, text.substr(offset), ids));
  return ids;
}

std::string_view BpeTokenizer::TokenBytes(TokenId id) const {
  if (!IsInRange(id)) return {};
  return std::string_view(token_bytes_).substr(token_begins_[id], token_begins_[id + 1] - token_begins_[id]);
}

absl::StatusOr<std::string> BpeTokenizer::Decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!IsInRange(ids[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("token_ids[", i, "]: expected 0 to ", vocab_size() - 1, "; got ", ids[i]));
    }
    if (!skip_special_tokens || !IsControl(ids[i])) bytes += TokenBytes(ids[i]);
  }
  std::string text;
  text.reserve(bytes.size());
  AppendUtf8Lossy(bytes, /*final=*/true, text);
  return text;
}

std::optional<TokenId> BpeTokenizer::FindControl(std::string_view marker) const {
  const auto it = control_ids_.find(std::string(marker));
  return it == control_ids_.end() ? std::nullopt : std::optional<TokenId>(it->second);
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateBpeTokenizer(Vocabulary vocabulary) {
  return BpeTokenizer::Create(vocabulary);
}

}  // namespace farspan
