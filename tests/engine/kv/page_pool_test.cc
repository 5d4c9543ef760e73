// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/page_pool.h"

#include <gmock/gmock.h>

#include <set>
#include <utility>
#include <vector>

namespace farspan {
namespace {

TEST(PagePoolTest, HandsOutEachPageOnceThenNone) {
  PagePool pool(5);
  std::vector<PageRef> taken;
  std::set<PageId> pages;
  while (std::optional<PageRef> page = pool.Take()) {
    EXPECT_EQ(pool.reference_count(page->page()), 1);
    pages.insert(page->page());
    taken.push_back(*std::move(page));
  }
  EXPECT_EQ(pages.size(), 5u);
  EXPECT_EQ(*pages.begin(), PageId{0});
  EXPECT_EQ(*pages.rbegin(), PageId{4});
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.num_used(), 5);
}

TEST(PagePoolTest, APageReturnsWithItsLastReference) {
  PagePool pool(1);
  PageRef first = *pool.Take();
  PageRef second = first.Share();
  EXPECT_EQ(second.page(), first.page());
  EXPECT_EQ(pool.reference_count(first.page()), 2);
  first.Release();
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.Take(), std::nullopt);
  second.Release();
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(PagePoolTest, TakesTheMostRecentlyFreedPageFirst) {
  PagePool pool(3);
  PageRef first = *pool.Take();
  PageRef second = *pool.Take();
  const PageId freed = first.page();
  first.Release();
  EXPECT_EQ(pool.Take()->page(), freed);
}

TEST(PagePoolTest, ReleasingTwiceCountsOnce) {
  PagePool pool(1);
  PageRef page = *pool.Take();
  page.Release();
  page.Release();
  EXPECT_FALSE(page);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(PagePoolTest, MovingKeepsOneReference) {
  PagePool pool(2);
  PageRef first = *pool.Take();
  const PageId page = first.page();
  PageRef moved = std::move(first);
  EXPECT_EQ(pool.reference_count(page), 1);
  PageRef other = *pool.Take();
  other = std::move(moved);  // gives its own page back
  EXPECT_EQ(other.page(), page);
  EXPECT_EQ(pool.num_used(), 1);
}

TEST(PagePoolDeathTest, APoolThatDiesBeforeItsPagesEndsTheProcess) {
  EXPECT_DEATH(
      {
        PageRef page;
        PagePool pool(1);
        page = *pool.Take();
      },
      "pages still referenced: 1");
}

}  // namespace
}  // namespace farspan
