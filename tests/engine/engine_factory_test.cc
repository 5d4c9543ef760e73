// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_factory.h"

#include <gtest/gtest.h>

#include "engine/backend/device.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

class EngineFactoryTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options) {
    return CreateEngine(file_, options, &metrics_);
  }
  absl::Status Refusal(const EngineOptions& options) { return Create(options).status(); }

  const std::string bytes_ = TinyCheckpointBytes();
  const GgufFile file_ = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes_))));
  NullMetricsSink metrics_;
};

TEST_F(EngineFactoryTest, KvBytesAreRoundedDownToWholePages) {
  constexpr int64_t kPageBytes = 16 * 2 * 2 * 2 * 16 * 2;  // tokens, layers, KV heads, K and V, head_dim, bf16
  const auto engine = Create({.page_tokens = 16, .kv_cache_bytes = 3 * kPageBytes - 1});
  ASSERT_THAT(engine, IsOk());
  EXPECT_EQ((*engine)->stats().kv_pages_total, 2);
  EXPECT_EQ((*engine)->kv_cache_bytes(), 2 * kPageBytes);
  EXPECT_THAT(Refusal({.page_tokens = 16, .kv_cache_bytes = kPageBytes - 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv_cache_bytes: must hold at least one page")));
}

TEST_F(EngineFactoryTest, MorePagesThanThereAreIdsAreRefused) {
  EXPECT_THAT(Refusal({.kv_cache_bytes = int64_t{1} << 62}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv_cache_bytes: must hold at most 2147483647")));
}

TEST_F(EngineFactoryTest, MorePagesThanTheMemoryHoldsAreRefused) {
  EXPECT_THAT(Refusal({.kv_cache_bytes = AvailableMemoryBytes() - (1 << 20)}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("held by the model need")))
      << "with their side data";
}

TEST_F(EngineFactoryTest, PageSizesThatKernelsDoNotKnowAreRefused) {
  for (const int64_t page_tokens : {0, 8, 17, 128}) {
    EXPECT_THAT(Refusal({.page_tokens = page_tokens}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("block_size: must be 16, 32 or 64")));
  }
}

TEST_F(EngineFactoryTest, MoreContextThanTheModelsIsRefused) {
  EXPECT_THAT(Refusal({.max_context_tokens = 4097}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most the model's 4096, got 4097")));
}

TEST_F(EngineFactoryTest, PagesOfTheCpuHold32TokensWhereNobodySays) {
  const auto engine = Create({.kv_cache_bytes = 1 << 20});
  ASSERT_THAT(engine, IsOk());
  EXPECT_EQ((*engine)->shape().page_tokens, 32);
}

TEST_F(EngineFactoryTest, DevicesThatAreNoneAreRefused) {
  EXPECT_THAT(Refusal({.device = "gpu"}), StatusIs(absl::StatusCode::kInvalidArgument,
                                                   HasSubstr("device: must be auto, cpu or cuda:N, got 'gpu'")));
}

TEST_F(EngineFactoryTest, ARefusedLimitOfTheQueueIsNamedWithItsValue) {
  const auto refused = [this](const EngineConfig& engine, const std::string& why) {
    EXPECT_THAT(Refusal({.kv_cache_bytes = 1 << 20, .engine = engine}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)));
  };
  refused({.max_num_queued_requests = 0}, "max_num_queued_requests: must be at least 1, got 0");
  refused({.max_num_queued_requests_per_tenant = -2}, "max_num_queued_requests_per_tenant: must be at least 1, got -2");
  refused({.max_num_queued_tokens = 0}, "max_num_queued_tokens: must be at least 1, got 0");
}

TEST_F(EngineFactoryTest, TheHashModelRunsOnTheCpu) {
  const HashModelOptions hash;
  const auto engine = CreateEngine(hash, {.device = "auto", .kv_cache_bytes = 1 << 20}, &metrics_);
  ASSERT_THAT(engine, IsOk());
  EXPECT_THAT((*engine)->backend().name(), HasSubstr("cpu/"));
  EXPECT_THAT(
      CreateEngine(hash, {.device = "cuda:0"}, &metrics_).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must be auto or cpu for the hash model, got 'cuda:0'")));
}

}  // namespace
}  // namespace farspan
