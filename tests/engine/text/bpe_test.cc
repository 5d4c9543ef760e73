// SPDX-License-Identifier: Apache-2.0
#include "engine/text/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/text/test_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::Status CreateStatus(Vocabulary vocabulary) { return CreateBpeTokenizer(std::move(vocabulary)).status(); }

TEST(BpeTest, MergesTheLowestRankFirst) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary({{"b", "c"}, {"a", "b"}, {"a", "bc"}}));
  EXPECT_THAT(*tokenizer->Encode("abc"), ElementsAre(261));
  EXPECT_THAT(*tokenizer->Encode("abd"), ElementsAre(260, ByteId('d')));
}

TEST(BpeTest, MergesTheLeftmostOfEqualPairs) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary({{"a", "a"}}));
  EXPECT_THAT(*tokenizer->Encode("aaa"), ElementsAre(259, ByteId('a')));
}

TEST(BpeTest, NeverMergesAcrossWords) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary({{"a", " "}, {" ", "b"}}));
  EXPECT_THAT(*tokenizer->Encode("a b"), ElementsAre(ByteId('a'), 260));
}

TEST(BpeTest, EncodesTheEmptyTextAsNoToken) { EXPECT_THAT(*MakeTokenizer(MakeVocabulary())->Encode(""), IsEmpty()); }

TEST(BpeTest, MarkersInsideTextStayText) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  const auto ids = *tokenizer->Encode("<|im_start|>");
  EXPECT_EQ(ids.size(), 12u);
  EXPECT_EQ(*tokenizer->Decode(ids), "<|im_start|>");
  for (const TokenId id : ids) EXPECT_FALSE(tokenizer->IsControl(id));
}

TEST(BpeTest, RefusesInvalidUtf8WithItsOffset) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  for (const std::string_view bad : {"\xFF", "\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82"}) {
    EXPECT_THAT(tokenizer->Encode("ok " + std::string(bad) + " ok"), StatusIs(kInvalid, "invalid UTF-8 at byte 3"));
  }
  EXPECT_THAT(tokenizer->Encode("\xE2\x82"), StatusIs(kInvalid, "invalid UTF-8 at byte 0"));
}

TEST(BpeTest, KeepsNulAndByteOrderMark) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  const std::string text("\xEF\xBB\xBF\0a\0", 6);
  EXPECT_EQ(*tokenizer->Decode(*tokenizer->Encode(text)), text);
}

TEST(BpeTest, RefusesTextThatTheVocabularyCannotExpress) {
  Vocabulary vocabulary = MakeVocabulary();
  vocabulary.types[ByteId('\x04')] = TokenType::kUnused;
  EXPECT_THAT(MakeTokenizer(std::move(vocabulary))->Encode("ab \x04"),
              StatusIs(kInvalid, "byte 0x04 at byte 3 is not in the model's vocabulary"));
}

TEST(BpeTest, DecodeReplacesWhatIsNotUtf8) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  EXPECT_EQ(*tokenizer->Decode(std::vector<TokenId>{ByteId('\xE2'), ByteId('\x82'), ByteId('a')}), "\uFFFDa");
  EXPECT_EQ(*tokenizer->Decode(std::vector<TokenId>{ByteId('\xE2'), kImEnd, ByteId('\x82'), ByteId('\xAC')}, true),
            "\u20AC");
  EXPECT_EQ(*tokenizer->Decode(std::vector<TokenId>{ByteId('a'), kImEnd}), "a<|im_end|>");
}

TEST(BpeTest, DecodeNamesAnIdOutsideTheVocabulary) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  EXPECT_THAT(tokenizer->Decode(std::vector<TokenId>{5, 259}),
              StatusIs(kInvalid, "token_ids[1]: expected 0 to 258; got 259"));
  EXPECT_THAT(tokenizer->Decode(std::vector<TokenId>{-1}), StatusIs(kInvalid, HasSubstr("token_ids[0]")));
  EXPECT_EQ(tokenizer->TokenBytes(259), "");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
}

TEST(BpeTest, KnowsItsSpecialTokens) {
  Vocabulary vocabulary = MakeVocabulary();
  vocabulary.eot_id = 7;
  const auto tokenizer = MakeTokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer->FindControl("<|im_start|>"), kImStart);
  EXPECT_EQ(tokenizer->FindControl("a"), std::nullopt);
  EXPECT_TRUE(tokenizer->IsControl(kImEnd));
  EXPECT_FALSE(tokenizer->IsControl(ByteId('a')));
  EXPECT_FALSE(tokenizer->IsControl(100000));
  EXPECT_EQ(tokenizer->bos_id(), kImStart);
  EXPECT_EQ(tokenizer->eos_id(), kImEnd);
  EXPECT_THAT(tokenizer->end_of_generation_ids(), ElementsAre(kEndOfText, kImEnd, 7));
}

TEST(BpeTest, UserDefinedTokensAreTakenWholeAndTheLongestFirst) {
  Vocabulary vocabulary = MakeVocabulary({{"<", "<"}});
  for (const char* text : {"<a>", "<a>b", "  "}) {
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(TokenType::kUserDefined);
  }
  const auto tokenizer = MakeTokenizer(std::move(vocabulary));
  EXPECT_THAT(*tokenizer->Encode("<a><a>b<<"), ElementsAre(260, 261, 259));
  EXPECT_THAT(*tokenizer->Encode("   "), ElementsAre(262, ByteId(' ')));
  EXPECT_EQ(*tokenizer->Decode(*tokenizer->Encode("x  <a>b y")), "x  <a>b y");
  EXPECT_FALSE(tokenizer->IsControl(260));
  EXPECT_THAT(tokenizer->Encode("<a>\xFF"), StatusIs(kInvalid, "invalid UTF-8 at byte 3"));
}

TEST(BpeTest, UserDefinedMarkersAreControlTokens) {
  Vocabulary vocabulary = MakeVocabulary();
  vocabulary.tokens.insert(vocabulary.tokens.end(), {"<|tool|>", "</s>"});
  vocabulary.types.resize(vocabulary.tokens.size(), TokenType::kUserDefined);
  vocabulary.eos_id = 260;
  const auto tokenizer = MakeTokenizer(std::move(vocabulary));
  EXPECT_EQ(tokenizer->FindControl("<|tool|>"), 259);
  EXPECT_TRUE(tokenizer->IsControl(260));
  EXPECT_EQ(tokenizer->Encode("<|tool|></s>")->size(), 12u);
}

TEST(BpeCreateTest, RefusesUserDefinedTokensThatAreNoShortText) {
  for (const std::string& text : {std::string(257, 'x'), std::string("ab\xFF")}) {
    Vocabulary vocabulary = MakeVocabulary();
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(TokenType::kUserDefined);
    EXPECT_THAT(CreateStatus(vocabulary), StatusIs(kInvalid, HasSubstr("tokens[259]: expected at most 256 bytes of")));
  }
}

TEST(BpeCreateTest, ListsTheKnownPreTokenizers) {
  Vocabulary vocabulary = MakeVocabulary();
  vocabulary.pre_tokenizer = "llama-bpe";
  EXPECT_THAT(CreateStatus(vocabulary),
              StatusIs(kInvalid, "pre_tokenizer: expected one of gpt-2, smollm; got \"llama-bpe\""));
}

TEST(BpeCreateTest, RefusesAnEmptyTable) {
  Vocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  EXPECT_THAT(CreateStatus(vocabulary), StatusIs(kInvalid, HasSubstr("tokens: expected 1 to")));
}

TEST(BpeCreateTest, RefusesTypesThatDoNotMatchTheTokens) {
  Vocabulary vocabulary = MakeVocabulary();
  vocabulary.types.pop_back();
  EXPECT_THAT(CreateStatus(vocabulary), StatusIs(kInvalid, "types: expected one for each of 259 tokens; got 258"));
}

TEST(BpeCreateTest, RefusesEmptyDoubleAndForeignTokens) {
  Vocabulary empty = MakeVocabulary();
  empty.tokens[5] = "";
  EXPECT_THAT(CreateStatus(empty), StatusIs(kInvalid, "tokens[5]: expected text; got none"));

  Vocabulary twice = MakeVocabulary({{"a", "b"}});
  twice.tokens[259] = "a";
  EXPECT_THAT(CreateStatus(twice),
              StatusIs(kInvalid, "tokens[259]: expected a text of its own; got \"a\", which is tokens[100]"));

  for (const std::string_view bad : {"\u2581the", "\xFF", "a b", "\u0144"}) {
    Vocabulary foreign = MakeVocabulary({{"a", "b"}});
    foreign.tokens[259] = bad;
    EXPECT_THAT(CreateStatus(foreign),
                StatusIs(kInvalid, HasSubstr("tokens[259]: expected the byte-level alphabet of GPT-2")));
  }
}

TEST(BpeCreateTest, RefusesAVocabularyWithoutPlainText) {
  Vocabulary vocabulary = MakeVocabulary();
  vocabulary.types[ByteId('e')] = TokenType::kControl;
  EXPECT_THAT(CreateStatus(vocabulary), StatusIs(kInvalid, "tokens: expected one for byte 0x65; got none"));
}

TEST(BpeCreateTest, RefusesMergesThatMakeNoSense) {
  const auto with_merge = [](std::string merge) {
    Vocabulary vocabulary = MakeVocabulary({{"a", "b"}});
    vocabulary.merges.push_back(std::move(merge));
    return CreateStatus(vocabulary);
  };
  for (const char* merge : {"", " ", "ab", "a ", " b", "a b c", "a  b"}) {
    EXPECT_THAT(with_merge(merge), StatusIs(kInvalid, HasSubstr("merges[1]: expected two tokens with one space")));
  }
  EXPECT_THAT(with_merge("abc d"), StatusIs(kInvalid, AllOf(HasSubstr("merges[1]: expected two normal tokens"),
                                                            HasSubstr("got \"abc d\""))));
  EXPECT_THAT(with_merge("<|im_end|> a"), StatusIs(kInvalid, HasSubstr("expected two normal tokens")));
  EXPECT_THAT(with_merge("b a"), StatusIs(kInvalid, HasSubstr("expected a pair that makes a normal token")));
  EXPECT_THAT(with_merge("a b"), StatusIs(kInvalid, HasSubstr("expected a pair that no earlier merge has")));
}

TEST(BpeCreateTest, RefusesIdsOutOfRange) {
  Vocabulary eos = MakeVocabulary();
  eos.eos_id = 259;
  EXPECT_THAT(CreateStatus(eos), StatusIs(kInvalid, "eos_id: expected 0 to 258; got 259"));
  Vocabulary bos = MakeVocabulary();
  bos.bos_id = -1;
  EXPECT_THAT(CreateStatus(bos), StatusIs(kInvalid, "bos_id: expected 0 to 258; got -1"));
  Vocabulary add_bos = MakeVocabulary();
  add_bos.bos_id.reset();
  add_bos.add_bos = true;
  EXPECT_THAT(CreateStatus(add_bos), StatusIs(kInvalid, "add_bos: expected a bos_id; got none"));
}

}  // namespace
}  // namespace farspan
