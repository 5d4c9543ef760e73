// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/display_text.h"

#include <gtest/gtest.h>

#include "clients/cli/text_table.h"
#include "clients/cli/units.h"

namespace farspan::cli {
namespace {

TEST(EscapeControlsTest, LeavesNothingThatSteersATerminal) {
  EXPECT_EQ(EscapeControls("a\x1b]0;x\x07", Controls::kKeepNewlines), "a\\x1b]0;x\\x07");
  EXPECT_EQ(EscapeControls("a\rb\x7f", Controls::kKeepNewlines), "a\\rb\\x7f");
  EXPECT_EQ(EscapeControls("\xc2\x9b"
                           "31m",
                           Controls::kKeepNewlines),
            "\\x9b31m");
  EXPECT_EQ(EscapeControls("\xe2\x80\xae", Controls::kKeepNewlines), "\\u202e");
  EXPECT_EQ(EscapeControls(std::string("\0", 1), Controls::kKeepNewlines), "\\x00");
}

TEST(EscapeControlsTest, EscapesMalformedBytes) {
  EXPECT_EQ(EscapeControls("\x9b", Controls::kKeepNewlines), "\\x9b");
  EXPECT_EQ(EscapeControls("\xe2\x82", Controls::kKeepNewlines), "\\xe2\\x82");
  EXPECT_EQ(EscapeControls("\xc0\xaf", Controls::kKeepNewlines), "\\xc0\\xaf");
  EXPECT_EQ(EscapeControls("\xed\xa0\x80", Controls::kKeepNewlines), "\\xed\\xa0\\x80");
}

TEST(EscapeControlsTest, KeepsTextAndChosenNewlines) {
  EXPECT_EQ(EscapeControls("é 漢 😀\n\t", Controls::kKeepNewlines), "é 漢 😀\n\t");
  EXPECT_EQ(EscapeControls("a\nb\t", Controls::kEscapeAll), "a\\nb\\t");
}

TEST(DisplayWidthTest, CountsColumnsNotBytes) {
  EXPECT_EQ(DisplayWidth("é"), 1);
  EXPECT_EQ(DisplayWidth("漢字"), 4);
  EXPECT_EQ(DisplayWidth("e\xcc\x81"), 1);
}

TEST(ClipToWidthTest, CutsBetweenCharacters) {
  EXPECT_EQ(ClipToWidth("abcdef", 6), "abcdef");
  EXPECT_EQ(ClipToWidth("abcdefg", 6), "abc...");
  EXPECT_EQ(ClipToWidth("漢字漢字", 6), "漢...");
}

TEST(TextTableTest, AlignsNumbersRightAndWordsLeft) {
  const TextTable table{.header = {"policy", "tokens", "found?"},
                        .rows = {{"dense", "5865", "yes"}, {"漢", "12", "no"}}};
  EXPECT_EQ(RenderTable(table),
            "policy  tokens  found?\n"
            "------  ------  ------\n"
            "dense     5865  yes\n"
            "漢          12  no\n");
  EXPECT_EQ(RenderedWidth(RenderTable(table)), 22);
}

TEST(TextTableTest, TurnsOnItsSide) {
  const TextTable table{.header = {"policy", "TTFT"}, .rows = {{"dense", "2 s"}, {"window", "1 s"}}};
  EXPECT_EQ(RenderTable(Transposed(table)),
            "policy  dense  window\n"
            "------  -----  ------\n"
            "TTFT      2 s     1 s\n");
}

TEST(UnitsTest, ThreeDigitsAndAUnit) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1024), "1.00 KiB");
  EXPECT_EQ(BytesText((int64_t{1} << 20) - 1), "1.00 MiB");
  EXPECT_EQ(BytesText(int64_t{33} << 20), "33.0 MiB");
  EXPECT_EQ(BytesText(std::numeric_limits<int64_t>::max()), "8192 PiB");
  google::protobuf::Duration duration;
  duration.set_nanos(31'400'000);
  EXPECT_EQ(DurationText(duration), "31.4 ms");
  duration.set_seconds(123);
  EXPECT_EQ(DurationText(duration), "123 s");
  EXPECT_EQ(ShareText(0, 10), "0 %");
  EXPECT_EQ(ShareText(1, 300), "0.3 %");
  EXPECT_EQ(ShareText(299, 300), "100 %");
  EXPECT_EQ(ShareText(1, 0), "-");
}

}  // namespace
}  // namespace farspan::cli
