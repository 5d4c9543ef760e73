// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cpu_backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "engine/kernels/cpu/kernel_table.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<Backend> MakeBackend(CpuBackendOptions options) {
  auto backend = CpuBackend::Create(options);
  EXPECT_THAT(backend, IsOk());
  return *std::move(backend);
}

TEST(CpuBackendTest, NamesItsIsaLevelAndRunsEveryPlanFeature) {
  EXPECT_EQ(MakeBackend({.isa = CpuIsa::kPortable})->name(), "cpu/portable");
  const char* fastest = kernels::CpuHasAvx2() ? "cpu/avx2" : "cpu/portable";
  if (kernels::CpuHasAvx512()) fastest = "cpu/avx512";
  EXPECT_EQ(MakeBackend({.isa = CpuIsa::kAuto})->name(), fastest);
  EXPECT_TRUE(Covers(MakeBackend({})->caps(), PlanFeatures::kRanges | PlanFeatures::kLeftWindow |
                                                  PlanFeatures::kQueryRotation | PlanFeatures::kDrop));
}

TEST(CpuBackendTest, RefusesAnIsaLevelThatTheCpuLacks) {
  for (const auto& [isa, runs] :
       {std::pair(CpuIsa::kAvx2, kernels::CpuHasAvx2()), {CpuIsa::kAvx512, kernels::CpuHasAvx512()}}) {
    const auto backend = CpuBackend::Create({.isa = isa});
    if (runs) {
      EXPECT_THAT(backend, IsOk());
    } else {
      EXPECT_THAT(backend,
                  StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("cpu_isa"), HasSubstr("portable"))));
    }
  }
}

TEST(CpuBackendTest, RefusesZeroThreads) {
  EXPECT_THAT(CpuBackend::Create({.num_threads = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("threads"), HasSubstr("got 0"))));
}

TEST(CpuBackendTest, MemoryBytesFollowBuffersByKind) {
  const std::unique_ptr<Backend> backend = MakeBackend({});
  {
    auto weights = backend->Allocate(1000, MemoryKind::kWeights);
    auto pages = backend->Allocate(int64_t{5} << 20, MemoryKind::kKvPages);
    auto empty = backend->Allocate(0, MemoryKind::kKvPages);
    ASSERT_THAT(weights, IsOk());
    ASSERT_THAT(pages, IsOk());
    ASSERT_THAT(empty, IsOk());
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*weights)->data()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*pages)->data()) % 64, 0u);
    EXPECT_EQ((*weights)->size_bytes(), 1000);
    EXPECT_EQ(backend->MemoryBytes(MemoryKind::kWeights), 1000);
    EXPECT_EQ(backend->MemoryBytes(MemoryKind::kKvPages), int64_t{5} << 20);
  }
  EXPECT_EQ(backend->MemoryBytes(MemoryKind::kWeights), 0);
  EXPECT_EQ(backend->MemoryBytes(MemoryKind::kKvPages), 0);
}

TEST(CpuBackendTest, RefusesMoreMemoryThanTheMachineHas) {
  const std::unique_ptr<Backend> backend = MakeBackend({});
  constexpr int64_t kHuge = int64_t{1} << 60;
  EXPECT_THAT(backend->Allocate(kHuge, MemoryKind::kKvPages),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("KV pages"), HasSubstr("1152921504606846976 bytes"))));
  EXPECT_EQ(backend->MemoryBytes(MemoryKind::kKvPages), 0);
}

TEST(CpuBackendTest, UploadAndDownloadCopy) {
  const std::unique_ptr<Backend> backend = MakeBackend({});
  const std::vector<int32_t> source = {1, 2, 3};
  std::vector<int32_t> target(3);
  auto buffer = backend->Allocate(12, MemoryKind::kActivations);
  ASSERT_THAT(buffer, IsOk());
  EXPECT_THAT(backend->Upload((*buffer)->data(), std::as_bytes(std::span(source))), IsOk());
  EXPECT_THAT(backend->Download(std::as_writable_bytes(std::span(target)), (*buffer)->data()), IsOk());
  EXPECT_EQ(target, source);
}

TEST(CpuBackendTest, TicketsCompleteInOrder) {
  const std::unique_ptr<Backend> backend = MakeBackend({});
  const StepTicket first = backend->Submit(), second = backend->Submit();
  EXPECT_LT(static_cast<uint64_t>(first), static_cast<uint64_t>(second));
  EXPECT_THAT(backend->Wait(second), IsOk());
  EXPECT_THAT(backend->Wait(first), IsOk());
}

// A layer's worth of ops at a size that uses every thread; returns the outputs.
std::vector<float> RunSomeOps(CpuIsa isa, int num_threads) {
  const std::unique_ptr<Backend> backend = MakeBackend({.isa = isa, .num_threads = num_threads});
  std::mt19937 engine(17);
  std::uniform_real_distribution<float> uniform(-1, 1);
  constexpr int64_t kRows = 70, kWidth = 320, kHeads = 10, kKvHeads = 5, kHeadDim = 32, kPageTokens = 16;
  std::vector<float> x(kRows * kWidth), weight(kWidth * kWidth), y(kRows * kWidth), out(kRows * kWidth);
  for (float& value : x) value = uniform(engine);
  for (float& value : weight) value = uniform(engine);
  backend->AttentionOutput({.x = x.data(),
                            .weight = {weight.data(), kernels::WeightType::kF32, kWidth, kWidth},
                            .hidden = y.data(),
                            .num_rows = kRows});

  constexpr int64_t kPages = (kRows + kPageTokens - 1) / kPageTokens;
  std::vector<float> pages(kPages * kKvHeads * 2 * kPageTokens * kHeadDim);
  for (float& value : pages) value = uniform(engine);
  const std::vector<double> frequencies(kHeadDim / 2, 0.25);
  std::vector<kernels::KvEntry> entries;
  for (int32_t page = 0; page < kPages; ++page) {
    entries.push_back({.page = page, .num_valid = kPageTokens, .position = page * kPageTokens});
  }
  kernels::AttentionCommon common = {
      .q = y.data(),
      .out = out.data(),
      .lse = nullptr,
      .cache = {pages.data(), kernels::KvElement::kF32, kPages, kKvHeads, kPageTokens, kHeadDim},
      .entries = entries.data(),
      .rope_cos_sin = nullptr,
      .inverse_frequencies = frequencies.data(),
      .rope_dim = kHeadDim,
      .num_heads = kHeads,
      .scale = 0.2f};
  const kernels::PrefillTile tile = {.row = 0, .num_queries = kRows, .left_window = kernels::kNoLeftWindow};
  const std::vector<kernels::KvList> lists(kHeads, {0, kPages});
  backend->PrefillAttention({.common = common, .tiles = &tile, .lists = lists.data(), .num_tiles = 1});
  EXPECT_GT(backend->OpTime(TimedOp::kPrefillAttention), SteadyDuration::zero());
  EXPECT_EQ(backend->OpTime(TimedOp::kDecodeAttention), SteadyDuration::zero());
  std::vector<float> decoded(kRows * kWidth);
  common.out = decoded.data();
  std::vector<kernels::DecodeRow> rows;
  std::vector<kernels::KvList> row_lists;
  for (int64_t row = 0; row < kRows; ++row) {
    rows.push_back({row, row, kernels::kNoLeftWindow});
    row_lists.insert(row_lists.end(), kKvHeads, {0, kPages});
  }
  backend->DecodeAttention({.common = common, .rows = rows.data(), .lists = row_lists.data(), .num_rows = kRows});
  EXPECT_GT(backend->OpTime(TimedOp::kDecodeAttention), SteadyDuration::zero());
  EXPECT_THAT(backend->Wait(backend->Submit()), IsOk());
  out.insert(out.end(), y.begin(), y.end());
  out.insert(out.end(), decoded.begin(), decoded.end());
  return out;
}

TEST(CpuBackendTest, ResultsDoNotDependOnTheNumberOfThreads) {
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAuto}) {
    const std::vector<float> alone = RunSomeOps(isa, 1);
    for (const int num_threads : {2, 3, 8}) {
      const std::vector<float> parallel = RunSomeOps(isa, num_threads);
      EXPECT_EQ(std::memcmp(alone.data(), parallel.data(), alone.size() * sizeof(float)), 0) << num_threads;
    }
  }
}

}  // namespace
}  // namespace farspan
