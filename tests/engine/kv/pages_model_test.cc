// SPDX-License-Identifier: Apache-2.0
// Random operations on block tables that share one pool, against the obvious model: who names which page.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "engine/kv/block_table.h"
#include "engine/kv/page_pool.h"

namespace farspan {
namespace {

constexpr int64_t kNumPages = 24;
constexpr int64_t kPageTokens = 16;
constexpr size_t kNumTables = 4;
constexpr int kNumSteps = 3000;

// What a table holds by logical page; nullopt is a dropped one.
using ModelTable = std::vector<std::optional<PageId>>;

class PagesModel {
 public:
  explicit PagesModel(uint32_t seed) : random_(seed) {
    for (size_t i = 0; i < kNumTables; ++i) tables_.push_back(std::make_unique<BlockTable>(kPageTokens));
  }

  void RunOneStep() {
    const size_t table = Random(kNumTables);
    switch (Random(8)) {
      case 0:
      case 1:
      case 2:
        return Grow(table);
      case 3:
        return ShareInto(table, Random(kNumTables));
      case 4:
      case 5:
        return Drop(table);
      case 6:
        return TakeAndGiveBack();
      default:
        return Random(4) == 0 ? Clear(table) : Replace(table);
    }
  }

  void ExpectEqual() const {
    std::map<PageId, int32_t> references;
    for (size_t t = 0; t < kNumTables; ++t) {
      const ModelTable& model = model_[t];
      int64_t resident = 0;
      for (size_t i = 0; i < model.size(); ++i) {
        const auto first_token = static_cast<int64_t>(i) * kPageTokens;
        ASSERT_EQ(tables_[t]->resident(first_token + kPageTokens - 1), model[i].has_value());
        if (!model[i].has_value()) continue;
        ASSERT_EQ(tables_[t]->page_of(first_token), *model[i]);
        ++references[*model[i]];
        ++resident;
      }
      ASSERT_EQ(tables_[t]->num_resident_pages(), resident);
      ASSERT_EQ(tables_[t]->capacity_tokens(), static_cast<int64_t>(model.size()) * kPageTokens);
    }
    for (int32_t page = 0; page < kNumPages; ++page) {
      const auto it = references.find(PageId{page});
      ASSERT_EQ(pool_.reference_count(PageId{page}), it == references.end() ? 0 : it->second) << "page " << page;
    }
    ASSERT_EQ(pool_.num_used(), static_cast<int64_t>(references.size()));
    ASSERT_EQ(pool_.num_free() + pool_.num_used(), kNumPages);
  }

  int64_t ReleaseAll() {
    for (size_t t = 0; t < kNumTables; ++t) Clear(t);
    return pool_.num_free();
  }

 private:
  size_t Random(size_t bound) { return random_() % bound; }

  bool IsReferenced(PageId page) const {
    return std::any_of(model_.begin(), model_.end(), [page](const ModelTable& table) {
      return std::find(table.begin(), table.end(), std::optional<PageId>(page)) != table.end();
    });
  }

  void Grow(size_t table) {
    const int64_t num_free = pool_.num_free();
    std::optional<PageRef> page = pool_.Take();
    ASSERT_EQ(page.has_value(), num_free > 0);
    if (!page.has_value()) return;
    ASSERT_FALSE(IsReferenced(page->page())) << "a page in use was handed out";
    model_[table].push_back(page->page());
    tables_[table]->Append(*std::move(page));
  }

  // Takes a page and shares it into two tables, as a common prefix would be.
  void ShareInto(size_t first, size_t second) {
    std::optional<PageRef> page = pool_.Take();
    if (!page.has_value()) return;
    model_[first].push_back(page->page());
    model_[second].push_back(page->page());
    tables_[first]->Append(page->Share());
    tables_[second]->Append(*std::move(page));
  }

  void Drop(size_t table) {
    const auto capacity = static_cast<size_t>(tables_[table]->capacity_tokens());
    const auto begin = static_cast<int64_t>(Random(capacity + kPageTokens + 1));
    const TokenRange range{.begin = begin, .end = begin + static_cast<int64_t>(Random(5 * kPageTokens))};
    int64_t released_tokens = 0;
    for (size_t i = 0; i < model_[table].size(); ++i) {
      const auto first_token = static_cast<int64_t>(i) * kPageTokens;
      const bool wholly_inside = range.begin <= first_token && first_token + kPageTokens <= range.end;
      if (!wholly_inside || !model_[table][i].has_value()) continue;
      model_[table][i].reset();
      released_tokens += kPageTokens;
    }
    ASSERT_EQ(tables_[table]->Drop(range), released_tokens);
  }

  void TakeAndGiveBack() {
    const int64_t free_before = pool_.num_free();
    { const std::optional<PageRef> page = pool_.Take(); }
    ASSERT_EQ(pool_.num_free(), free_before);
  }

  void Clear(size_t table) {
    tables_[table]->Clear();
    model_[table].clear();
  }

  // The sequence ends and another takes its place.
  void Replace(size_t table) {
    tables_[table] = std::make_unique<BlockTable>(kPageTokens);
    model_[table].clear();
  }

  std::mt19937 random_;
  PagePool pool_{kNumPages};
  std::vector<std::unique_ptr<BlockTable>> tables_;
  std::vector<ModelTable> model_{kNumTables};
};

class PagesModelTest : public ::testing::TestWithParam<uint32_t> {};

TEST_P(PagesModelTest, EveryPageIsFreeOrReferencedExactlyAsTheModelSays) {
  PagesModel pages(GetParam());
  for (int step = 0; step < kNumSteps; ++step) {
    ASSERT_NO_FATAL_FAILURE(pages.RunOneStep()) << "step " << step;
    ASSERT_NO_FATAL_FAILURE(pages.ExpectEqual()) << "step " << step;
  }
  EXPECT_EQ(pages.ReleaseAll(), kNumPages);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PagesModelTest, ::testing::Range(0u, 12u));

}  // namespace
}  // namespace farspan
