// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/kv_cache.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <set>
#include <span>

#include "engine/backend/cpu_backend.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

constexpr int64_t kNumPages = 5;

ModelShape Shape(KvDtype dtype) {
  return {.num_layers = 3,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 8,
          .max_context_tokens = 1024,
          .vocab_size = 10,
          .page_tokens = 16,
          .kv_dtype = dtype};
}

class KvCacheTest : public ::testing::TestWithParam<KvDtype> {
 protected:
  void SetUp() override {
    auto backend = CpuBackend::Create({.isa = CpuIsa::kPortable});
    ASSERT_THAT(backend, IsOk());
    backend_ = *std::move(backend);
    auto cache = KvCache::Create(Shape(GetParam()), kNumPages, backend_.get());
    ASSERT_THAT(cache, IsOk());
    cache_ = *std::move(cache);
    std::memset(cache_->layer(0).data, 0, static_cast<size_t>(cache_->size_bytes()));
  }

  std::span<std::byte> PageBytes(int64_t layer, int64_t page) const {
    const kernels::KvLayerView view = cache_->layer(layer);
    const auto page_bytes = static_cast<size_t>(view.page_elements() * view.element_bytes());
    return {static_cast<std::byte*>(view.data) + static_cast<size_t>(page) * page_bytes, page_bytes};
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvCache> cache_;
};

TEST_P(KvCacheTest, SizeIsPagesTimesThatOfAPage) {
  const int64_t element_bytes = KvElementBytes(GetParam());
  EXPECT_EQ(cache_->size_bytes(), kNumPages * 3 * 2 * 2 * 16 * 8 * element_bytes);
  EXPECT_EQ(backend_->MemoryBytes(MemoryKind::kKvPages), cache_->size_bytes());
}

TEST_P(KvCacheTest, LayersAndPagesTileTheArenaWithoutOverlap) {
  std::set<const std::byte*> starts;
  size_t total_bytes = 0;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (int64_t page = 0; page < kNumPages; ++page) {
      const std::span<std::byte> bytes = PageBytes(layer, page);
      starts.insert(bytes.data());
      total_bytes += bytes.size();
    }
  }
  EXPECT_EQ(starts.size(), 3u * kNumPages);
  EXPECT_EQ(total_bytes, static_cast<size_t>(cache_->size_bytes()));
  const std::span<std::byte> last = PageBytes(2, kNumPages - 1);
  EXPECT_EQ(*starts.rbegin(), last.data());
  EXPECT_EQ(last.data() + last.size() - *starts.begin(), cache_->size_bytes());
}

TEST_P(KvCacheTest, PoisonIsNaNInEveryLayerOfThatPageAlone) {
  cache_->PoisonPage(PageId{2});
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (int64_t page = 0; page < kNumPages; ++page) {
      for (const std::byte byte : PageBytes(layer, page)) {
        ASSERT_EQ(byte, page == 2 ? std::byte{0xff} : std::byte{0}) << "layer " << layer << " page " << page;
      }
    }
  }
  // Of bf16 too: it is the upper half of a float.
  float value = 0;
  std::memcpy(&value, PageBytes(1, 2).data(), sizeof(value));
  EXPECT_TRUE(std::isnan(value));
}

TEST_P(KvCacheTest, MemoryReturnsToTheBackend) {
  cache_.reset();
  EXPECT_EQ(backend_->MemoryBytes(MemoryKind::kKvPages), 0);
}

TEST_P(KvCacheTest, AnArenaThatCannotBeHadIsRefusedWithItsBytes) {
  ModelShape huge = Shape(GetParam());
  huge.num_layers = int64_t{1} << 20;
  const int64_t num_pages = int64_t{1} << 30;
  EXPECT_THAT(KvCache::Create(huge, num_pages, backend_.get()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       ::testing::HasSubstr(std::to_string(num_pages * huge.kv_bytes_per_page()))));
}

TEST_P(KvCacheTest, SideDataIsHeldForTheSelectorsAskedForAndCountedApart) {
  EXPECT_EQ(cache_->side_data(), PlanFeatures::kNone);
  EXPECT_EQ(cache_->side_data_bytes_per_page(), 0);
  const auto bounded = *KvCache::Create(Shape(GetParam()), kNumPages, backend_.get(),
                                        PlanFeatures::kRanges | PlanFeatures::kKeyBoundsSelector);
  EXPECT_EQ(bounded->side_data(), PlanFeatures::kKeyBoundsSelector);
  // Two bounds for sixteen tokens of K and V; in longer pages two more for the whole page.
  EXPECT_EQ(bounded->side_data_bytes_per_page() * 16, Shape(GetParam()).kv_bytes_per_page());
  EXPECT_EQ(backend_->MemoryBytes(MemoryKind::kSideData), kNumPages * bounded->side_data_bytes_per_page());
  EXPECT_EQ(backend_->MemoryBytes(MemoryKind::kKvPages), 2 * cache_->size_bytes());
  ModelShape long_pages = Shape(GetParam());
  long_pages.page_tokens = 64;
  const auto longer = *KvCache::Create(long_pages, kNumPages, backend_.get(), PlanFeatures::kKeyBoundsSelector);
  EXPECT_EQ(longer->side_data_bytes_per_page() * 64, 5 * long_pages.kv_bytes_per_page());
}

TEST_P(KvCacheTest, BoundsAreStaleUntilFilledAndAgainOnceATokenIsWrittenOrThePageCopiedOver) {
  ModelShape shape = Shape(GetParam());
  shape.page_tokens = 32;
  const auto cache = *KvCache::Create(shape, kNumPages, backend_.get(), PlanFeatures::kKeyBoundsSelector);
  std::memset(cache->layer(0).data, 0, static_cast<size_t>(cache->size_bytes()));
  for (int32_t page = 0; page < kNumPages; ++page) {
    for (int32_t run = 0; run < 2; ++run) {
      EXPECT_TRUE(cache->TakeStaleKeyBounds({page, run}));
      EXPECT_FALSE(cache->TakeStaleKeyBounds({page, run}));
    }
  }
  cache->MarkWritten(PageId{3}, 16);
  EXPECT_TRUE(cache->TakeStaleKeyBounds({3, 1}));
  EXPECT_FALSE(cache->TakeStaleKeyBounds({3, 0}));
  cache->CopyPage(PageId{3}, PageId{1});
  EXPECT_FALSE(cache->TakeStaleKeyBounds({3, 0}));
  cache->MarkWritten(PageId{3}, 15);
  EXPECT_TRUE(cache->TakeStaleKeyBounds({3, 0}));
  EXPECT_TRUE(cache->TakeStaleKeyBounds({3, 1})) << "the last run stands for the whole page's bounds";
  EXPECT_TRUE(cache->TakeStaleKeyBounds({1, 0}));
  EXPECT_TRUE(cache->TakeStaleKeyBounds({1, 1}));
  EXPECT_FALSE(cache->TakeStaleKeyBounds({2, 1}));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, KvCacheTest,
                         ::testing::Values(KvDtype::kBf16, KvDtype::kF32, KvDtype::kF16, KvDtype::kF8E4M3));

}  // namespace
}  // namespace farspan
