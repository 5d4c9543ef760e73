// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/text/golden.h"

#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

constexpr uint64_t kNumRandomCases = 4000;
constexpr size_t kShortTextBytes = 64;
constexpr size_t kMaxLineLength = 160;

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

std::string Unescape(std::string_view escaped) {
  std::string text;
  FARSPAN_CHECK(absl::CUnescape(std::string(escaped), &text), std::string(escaped));
  return text;
}

GoldenTexts LoadTexts() {
  GoldenTexts texts;
  std::vector<std::string> short_texts;
  for (const std::string& line : ReadGoldenLines("texts.txt")) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    int count = 0;
    FARSPAN_CHECK(fields.size() == 2 && absl::SimpleAtoi(fields[0], &count), line);
    const std::string text = Unescape(fields[1]);
    std::string repeated;
    for (int i = 0; i < count; ++i) repeated += text;
    texts.cases.push_back(std::move(repeated));
    if (count == 1 && text.size() <= kShortTextBytes) short_texts.push_back(text);
  }
  for (uint64_t seed = 0; seed < kNumRandomCases; ++seed) {
    SplitMix64 random(seed);
    std::string text;
    for (uint64_t parts = 1 + random.Next() % 12; parts > 0; --parts)
      text += short_texts[random.Next() % short_texts.size()];
    texts.random_cases.push_back(std::move(text));
  }
  return texts;
}

std::string Shown(std::string_view text) {
  return absl::StrCat(text.size(), " bytes: ", absl::CEscape(std::string(text.substr(0, 200))));
}

void ExpectRoundTrip(const Tokenizer& tokenizer, const std::string& text,
                     const absl::StatusOr<std::vector<TokenId>>& ids) {
  if (ids.ok()) {
    EXPECT_TRUE(*tokenizer.Decode(*ids) == text) << Shown(text);
  }
}

}  // namespace

std::vector<std::string> ReadGoldenLines(const std::string& name) {
  std::ifstream file("tests/data/tokenizer/" + name);
  FARSPAN_CHECK(file.good(), "tests/data/tokenizer/", name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

const GoldenTexts& ReadGoldenTexts() {
  static const GoldenTexts texts = LoadTexts();
  return texts;
}

std::vector<GoldenChat> ReadGoldenChats() {
  std::vector<GoldenChat> chats;
  for (const std::string& line : ReadGoldenLines("chats.txt")) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    GoldenChat chat{{}, fields[0] == "1"};
    for (size_t i = 1; i + 1 < fields.size(); i += 2) {
      const ChatRole role = fields[i] == "system" ? ChatRole::kSystem
                            : fields[i] == "user" ? ChatRole::kUser
                                                  : ChatRole::kAssistant;
      chat.messages.push_back({role, Unescape(fields[i + 1])});
    }
    chats.push_back(std::move(chat));
  }
  return chats;
}

Vocabulary ReadSyntheticVocabulary() {
  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  for (const std::string& line : ReadGoldenLines("synthetic_vocabulary.txt")) {
    (absl::StartsWith(line, "T\t") ? vocabulary.tokens : vocabulary.merges).push_back(line.substr(2));
  }
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
  for (TokenId id = 0; id < 3; ++id) vocabulary.types[id] = TokenType::kControl;
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  return vocabulary;
}

std::string FormatGoldenIds(const absl::StatusOr<std::vector<TokenId>>& ids) {
  if (!ids.ok()) return "!";
  std::string line;
  for (size_t begin = 0, end = 0; begin < ids->size(); begin = end) {
    while (end < ids->size() && (*ids)[end] == (*ids)[begin]) ++end;
    absl::StrAppend(&line, line.empty() ? "" : " ", (*ids)[begin]);
    if (end - begin > 1) absl::StrAppend(&line, "*", end - begin);
  }
  return line;
}

uint32_t HashIds(const std::vector<TokenId>& ids) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const TokenId id : ids) {
    for (int shift = 0; shift < 32; shift += 8)
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xFF)) * 0x100000001B3u;
  }
  return static_cast<uint32_t>(hash);
}

int64_t CompareWithGoldenIds(const Tokenizer& tokenizer, const std::string& name) {
  const GoldenTexts& texts = ReadGoldenTexts();
  const std::vector<std::string> lines = ReadGoldenLines(name + ".ids");
  FARSPAN_CHECK(lines.size() > texts.cases.size() && lines[texts.cases.size()] == "#", name);
  for (size_t i = 0; i < texts.cases.size(); ++i) {
    const auto ids = tokenizer.Encode(texts.cases[i]);
    std::string line = FormatGoldenIds(ids);
    if (line.size() > kMaxLineLength) line = absl::StrFormat("%d#%08x", ids->size(), HashIds(*ids));
    EXPECT_EQ(line, lines[i]) << Shown(texts.cases[i]);
    ExpectRoundTrip(tokenizer, texts.cases[i], ids);
  }
  std::vector<std::string> hashes;
  for (size_t i = texts.cases.size() + 1; i < lines.size(); ++i) {
    for (const auto hash : absl::StrSplit(lines[i], ' ')) hashes.emplace_back(hash);
  }
  FARSPAN_CHECK(hashes.size() == texts.random_cases.size(), name);
  for (size_t i = 0; i < hashes.size(); ++i) {
    const auto ids = tokenizer.Encode(texts.random_cases[i]);
    EXPECT_EQ(ids.ok() ? absl::StrFormat("%08x", HashIds(*ids)) : "!", hashes[i])
        << Shown(texts.random_cases[i]) << "\n"
        << FormatGoldenIds(ids);
    ExpectRoundTrip(tokenizer, texts.random_cases[i], ids);
  }
  return static_cast<int64_t>(texts.cases.size() + hashes.size());
}

void CompareWithGoldenChats(const ChatTemplate& chat_template, const std::string& name) {
  const std::vector<GoldenChat> chats = ReadGoldenChats();
  const std::vector<std::string> lines = ReadGoldenLines(name + ".chat");
  ASSERT_EQ(lines.size(), chats.size());
  for (size_t i = 0; i < chats.size(); ++i) {
    const auto chat = chat_template.Render(chats[i].messages, chats[i].add_generation_prompt);
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_EQ(FormatGoldenIds(chat->token_ids), lines[i]) << "chats.txt, line " << i + 1;
    EXPECT_EQ(chat->added_system_prompt.empty(), chats[i].messages[0].role == ChatRole::kSystem);
  }
}

}  // namespace farspan
