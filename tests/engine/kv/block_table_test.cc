// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/block_table.h"

#include <gmock/gmock.h>

#include <utility>

namespace farspan {
namespace {

constexpr int64_t kPageTokens = 16;
constexpr int64_t kPoolPages = 8;

class BlockTableTest : public ::testing::Test {
 protected:
  void Append(int64_t num_pages) {
    for (int64_t i = 0; i < num_pages; ++i) table_.Append(*pool_.Take());
  }

  PagePool pool_{kPoolPages};
  BlockTable table_{kPageTokens};
};

TEST_F(BlockTableTest, MissingPagesCoverEveryTokenBelowTheEnd) {
  EXPECT_EQ(table_.PagesMissing(0), 0);
  EXPECT_EQ(table_.PagesMissing(1), 1);
  EXPECT_EQ(table_.PagesMissing(16), 1);
  EXPECT_EQ(table_.PagesMissing(17), 2);
  Append(2);
  EXPECT_EQ(table_.PagesMissing(32), 0);
  EXPECT_EQ(table_.PagesMissing(33), 1);
  EXPECT_EQ(table_.PagesMissing(5), 0);
  EXPECT_EQ(table_.capacity_tokens(), 32);
}

TEST_F(BlockTableTest, DroppedPagesAreNotMissing) {
  Append(4);
  table_.Drop({.begin = 0, .end = 32});
  EXPECT_EQ(table_.PagesMissing(64), 0);
  EXPECT_EQ(table_.capacity_tokens(), 64);
}

TEST_F(BlockTableTest, TokensOfOnePageShareItAndPagesDiffer) {
  Append(2);
  EXPECT_EQ(table_.page_of(0), table_.page_of(15));
  EXPECT_EQ(table_.page_of(16), table_.page_of(31));
  EXPECT_NE(table_.page_of(0), table_.page_of(16));
  EXPECT_FALSE(table_.resident(32));
  EXPECT_FALSE(table_.resident(-1));
}

TEST_F(BlockTableTest, DropReleasesOnlyPagesWhollyInside) {
  Append(4);
  EXPECT_EQ(table_.Drop({.begin = 1, .end = 16}), 0);
  EXPECT_EQ(table_.Drop({.begin = 4, .end = 47}), 16);
  EXPECT_TRUE(table_.resident(15));
  EXPECT_FALSE(table_.resident(16));
  EXPECT_FALSE(table_.resident(31));
  EXPECT_TRUE(table_.resident(32));
  EXPECT_EQ(table_.num_resident_pages(), 3);
  EXPECT_EQ(pool_.num_used(), 3);
}

TEST_F(BlockTableTest, DroppingAgainReleasesNothing) {
  Append(3);
  EXPECT_EQ(table_.Drop({.begin = 0, .end = 32}), 32);
  EXPECT_EQ(table_.Drop({.begin = 0, .end = 32}), 0);
  EXPECT_EQ(table_.Drop({.begin = 0, .end = 48}), 16);
  EXPECT_EQ(pool_.num_used(), 0);
}

TEST_F(BlockTableTest, RangesBeyondTheTableAreClipped) {
  Append(2);
  EXPECT_EQ(table_.Drop({.begin = 1000, .end = 2000}), 0);
  EXPECT_EQ(table_.Drop({.begin = 20, .end = 10}), 0);
  EXPECT_EQ(table_.Drop({.begin = -100, .end = kUnboundedTokens}), 32);
}

TEST_F(BlockTableTest, PagesReturnOnClearAndOnDestruction) {
  Append(3);
  table_.Clear();
  EXPECT_EQ(pool_.num_free(), kPoolPages);
  EXPECT_EQ(table_.capacity_tokens(), 0);
  {
    BlockTable other(kPageTokens);
    other.Append(*pool_.Take());
    EXPECT_EQ(pool_.num_used(), 1);
  }
  EXPECT_EQ(pool_.num_used(), 0);
}

TEST_F(BlockTableTest, ADroppedSharedPageLivesOnInTheOtherTable) {
  PageRef page = *pool_.Take();
  const PageId id = page.page();
  BlockTable other(kPageTokens);
  other.Append(page.Share());
  table_.Append(std::move(page));
  table_.Drop({.begin = 0, .end = kPageTokens});
  EXPECT_EQ(pool_.reference_count(id), 1);
  EXPECT_EQ(other.page_of(0), id);
}

TEST_F(BlockTableTest, AnIdentityOutlastsAppendedPagesAlone) {
  Append(2);
  uint64_t identity = table_.identity();
  Append(1);
  EXPECT_EQ(table_.identity(), identity);
  const auto changes = [&] { return std::exchange(identity, table_.identity()) != table_.identity(); };
  table_.Replace(1, *pool_.Take());
  EXPECT_TRUE(changes());
  table_.Drop({});
  table_.Drop({.begin = 1, .end = 2 * kPageTokens - 1});
  EXPECT_FALSE(changes()) << "a drop of no page, as most commits are";
  table_.Drop({.begin = 0, .end = kPageTokens});
  EXPECT_TRUE(changes());
  table_.Clear();
  EXPECT_TRUE(changes());
  EXPECT_FALSE(changes());
  EXPECT_NE(BlockTable(kPageTokens).identity(), BlockTable(kPageTokens).identity());
}

TEST_F(BlockTableTest, ReadingADroppedTokenEndsTheProcess) {
  Append(1);
  table_.Drop({.begin = 0, .end = kPageTokens});
  EXPECT_DEATH(table_.page_of(3), "token=3");
}

}  // namespace
}  // namespace farspan
