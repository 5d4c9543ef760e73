// SPDX-License-Identifier: Apache-2.0
#include "engine/text/stop_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

StopMatcher Make(std::vector<std::string> stop_strings, bool include = false) {
  return *StopMatcher::Create(std::move(stop_strings), include);
}

struct Outcome {
  std::string text;
  std::optional<size_t> matched;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome RunByPieces(StopMatcher matcher, const std::vector<std::string>& pieces) {
  Outcome outcome;
  for (const std::string& piece : pieces) {
    const StopMatcher::Piece ready = matcher.Push(piece);
    outcome.text += ready.text;
    if (ready.matched.has_value()) outcome.matched = ready.matched;
  }
  outcome.text += matcher.Flush();
  return outcome;
}

// The definition: the smallest end, then the longest, then the first of the list.
Outcome FindNaively(const std::string& text, const std::vector<std::string>& stop_strings, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stop_strings.size(); ++i) {
      const size_t size = stop_strings[i].size();
      if (size > end || text.compare(end - size, size, stop_strings[i]) != 0) continue;
      if (!best.has_value() || size > stop_strings[*best].size()) best = i;
    }
    if (best.has_value()) return {text.substr(0, include ? end : end - stop_strings[*best].size()), best};
  }
  return {text, std::nullopt};
}

TEST(StopMatcherTest, FindsAStopStringAcrossPieces) {
  EXPECT_EQ(RunByPieces(Make({"STOP"}), {"one S", "T", "OP two"}), (Outcome{"one ", 0}));
  EXPECT_EQ(RunByPieces(Make({"STOP"}, true), {"one S", "T", "OP two"}), (Outcome{"one STOP", 0}));
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopMatcher matcher = Make({"\n\nUser:"});
  EXPECT_EQ(matcher.Push("Hello\n").text, "Hello");
  EXPECT_EQ(matcher.Push("\nU").text, "");
  EXPECT_EQ(matcher.Push("\n\nUs").text, "\n\nU");
  EXPECT_EQ(matcher.Flush(), "\n\nUs");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, TheFirstToBeCompleteWins) {
  EXPECT_EQ(RunByPieces(Make({"abcd", "bc"}), {"xabcd"}), (Outcome{"xa", 1}));
}

TEST(StopMatcherTest, AtOneEndTheOneThatBeganFirstWins) {
  EXPECT_EQ(RunByPieces(Make({"c", "abc", "bc"}), {"xabc"}), (Outcome{"x", 1}));
  EXPECT_EQ(RunByPieces(Make({"abc", "abc"}), {"xabc"}), (Outcome{"x", 0}));
}

TEST(StopMatcherTest, SaysNothingAfterAMatch) {
  StopMatcher matcher = Make({"."});
  EXPECT_EQ(matcher.Push("a.b").text, "a");
  const StopMatcher::Piece piece = matcher.Push("c.");
  EXPECT_EQ(piece.text, "");
  EXPECT_EQ(piece.matched, std::nullopt);
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, WithoutStopStringsEverythingPasses) {
  StopMatcher matcher = Make({});
  EXPECT_EQ(matcher.Push("abc").text, "abc");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, PassesOverWhatIsCompleteTooEarly) {
  StopMatcher matcher = Make({"aba"});
  StopMatcher::Piece piece = matcher.Push("xaba", /*may_stop=*/false);
  EXPECT_EQ(piece.text, "xab");
  EXPECT_EQ(piece.matched, std::nullopt);
  piece = matcher.Push("ba");
  EXPECT_EQ(piece.text, "");
  EXPECT_EQ(piece.matched, 0u);
}

TEST(StopMatcherTest, RefusesBadStopStrings) {
  EXPECT_THAT(StopMatcher::Create(std::vector<std::string>(17, "a")),
              StatusIs(kInvalid, "stop_strings: expected at most 16; got 17"));
  EXPECT_THAT(StopMatcher::Create({"a", ""}), StatusIs(kInvalid, "stop_strings[1]: expected 1 to 256 bytes; got 0"));
  EXPECT_THAT(StopMatcher::Create({std::string(257, 'a')}), StatusIs(kInvalid, HasSubstr("got 257")));
  EXPECT_THAT(StopMatcher::Create({"ok\xE2\x82"}), StatusIs(kInvalid, "stop_strings[0]: invalid UTF-8 at byte 2"));
  EXPECT_THAT(StopMatcher::Create({std::string(256, 'a')}), IsOk());
}

TEST(StopMatcherTest, EqualsTheDefinitionForAnyCutOfTheText) {
  std::mt19937 random(1);
  const auto random_text = [&](size_t size) {
    std::string text(size, 'a');
    for (char& c : text) c = "aab"[random() % 3];
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stop_strings(random() % 4);
    for (std::string& stop_string : stop_strings) stop_string = random_text(1 + random() % 6);
    const std::string text = random_text(random() % 24);
    std::vector<std::string> pieces(1);
    for (const char c : text) {
      pieces.back() += c;
      if (random() % 3 == 0) pieces.emplace_back();
    }
    const bool include = random() % 2 == 0;
    EXPECT_EQ(RunByPieces(Make(stop_strings, include), pieces), FindNaively(text, stop_strings, include)) << text;
  }
}

TEST(StopMatcherTest, NeverCutsACodePoint) {
  // The stop string and the text share the first two bytes of their last code point.
  StopMatcher matcher = Make({"a\u20AC"});
  EXPECT_EQ(matcher.Push("a").text, "");
  EXPECT_EQ(matcher.Push("\u20AD").text, "a\u20AD");
  EXPECT_EQ(matcher.Push("xa").text, "x");
  EXPECT_EQ(matcher.Push("\u20AC").matched, 0u);
}

}  // namespace
}  // namespace farspan
