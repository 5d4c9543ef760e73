// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf_vocabulary.h"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace farspan {
namespace {

std::optional<TokenType> TokenTypeFromFile(int64_t type_in_file) {
  switch (type_in_file) {
    case 1:
      return TokenType::kNormal;
    case 2:
      return TokenType::kUnknown;
    case 3:
      return TokenType::kControl;
    case 4:
      return TokenType::kUserDefined;
    case 5:
      return TokenType::kUnused;
    default:
      return std::nullopt;  // 6, a byte, belongs to vocabularies that are not byte-level
  }
}

absl::StatusOr<std::vector<TokenType>> ReadTypes(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "tokenizer.ggml.token_type";
  std::vector<TokenType> types;
  if (!metadata.Has(kKey)) return types;
  FARSPAN_ASSIGN_OR_RETURN(const std::vector<int64_t> types_in_file, metadata.GetInts(kKey));
  types.reserve(types_in_file.size());
  for (size_t i = 0; i < types_in_file.size(); ++i) {
    const std::optional<TokenType> type = TokenTypeFromFile(types_in_file[i]);
    if (!type.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "key ", std::string(kKey), ": expected 1 (normal) to 5 (unused) for token ", i, ", got ", types_in_file[i]));
    }
    types.push_back(*type);
  }
  return types;
}

}  // namespace

absl::StatusOr<Vocabulary> ReadGgufVocabulary(const GgufMetadata& metadata) {
  FARSPAN_ASSIGN_OR_RETURN(const std::string_view kind, metadata.GetString("tokenizer.ggml.model"));
  if (kind != "gpt2") {
    return absl::InvalidArgumentError(
        absl::StrCat("key tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), got ", QuoteFileText(kind)));
  }
  Vocabulary vocabulary;
  FARSPAN_ASSIGN_OR_RETURN(vocabulary.pre_tokenizer, metadata.GetString("tokenizer.ggml.pre"));
  FARSPAN_ASSIGN_OR_RETURN(const std::span<const std::string> tokens, metadata.GetStrings("tokenizer.ggml.tokens"));
  FARSPAN_ASSIGN_OR_RETURN(const std::span<const std::string> merges, metadata.GetStrings("tokenizer.ggml.merges"));
  vocabulary.tokens.assign(tokens.begin(), tokens.end());
  vocabulary.merges.assign(merges.begin(), merges.end());
  FARSPAN_ASSIGN_OR_RETURN(vocabulary.types, ReadTypes(metadata));

  const auto read_id = [&](std::string_view key, std::optional<TokenId>& id) -> absl::Status {
    const uint64_t max = tokens.empty() ? 0 : tokens.size() - 1;
    FARSPAN_ASSIGN_OR_RETURN(const std::optional<uint64_t> id_in_file, metadata.FindUint(key, 0, max));
    if (id_in_file.has_value()) id = static_cast<TokenId>(*id_in_file);
    return absl::OkStatus();
  };
  FARSPAN_RETURN_IF_ERROR(read_id("tokenizer.ggml.bos_token_id", vocabulary.bos_id));
  FARSPAN_RETURN_IF_ERROR(read_id("tokenizer.ggml.eos_token_id", vocabulary.eos_id));
  FARSPAN_RETURN_IF_ERROR(read_id("tokenizer.ggml.eot_token_id", vocabulary.eot_id));
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<bool> add_bos, metadata.FindBool("tokenizer.ggml.add_bos_token"));
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<std::string_view> chat_template,
                           metadata.FindString("tokenizer.chat_template"));
  vocabulary.add_bos = add_bos.value_or(false);
  vocabulary.chat_template = chat_template.value_or("");
  return vocabulary;
}

}  // namespace farspan
