// SPDX-License-Identifier: Apache-2.0
// What a device's failures become: too little memory at start is a refusal that says what was held, too little in a
// step is one request's end, and a lost device is the end of all.
#include <gtest/gtest.h>

#include "engine/attention/registry.h"
#include "engine/engine_factory.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/recording_output.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class EngineFaultsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Engine>> Create() {
    Device device = *OpenDevice("cpu", {.isa = CpuIsa::kPortable});
    device.backend = std::make_unique<FaultyBackend>(std::move(device.backend), &faults_);
    return CreateEngine(std::move(device), file_, {.page_tokens = 16, .kv_cache_bytes = 64 << 20}, &metrics_);
  }

  std::shared_ptr<RecordingOutput> Submit(Engine* engine, TokenId first_token) {
    v1::AttentionSpec spec;
    spec.mutable_dense();
    auto output = std::make_shared<RecordingOutput>();
    EXPECT_THAT(engine->Submit({.id = "test",
                                .prompt = {first_token, 7, 9},
                                .sampling = {.temperature = 0},
                                .stop = {.max_tokens = 20},
                                .policy = *BuiltinPolicies().Create(spec, engine->shape())},
                               output),
                IsOk());
    return output;
  }

  static void StepUntilIdle(Engine* engine) {
    while (engine->TEST_Step()) {
    }
  }

  DeviceFaults faults_;
  const std::string bytes_ = TinyCheckpointBytes();
  const GgufFile file_ = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes_))));
  NullMetricsSink metrics_;
};

TEST_F(EngineFaultsTest, TooLittleMemoryForWeightsIsARefusalThatSaysHowMuchTheyNeedAndWhatIsHeld) {
  faults_.memory_bytes = 50'000;
  EXPECT_THAT(Create(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("cannot allocate "), HasSubstr(" bytes for weights; held: weights 0, "),
                             HasSubstr("KV pages 0, side data of KV pages 0, activations 0"))));
}

TEST_F(EngineFaultsTest, TooLittleMemoryForKvPagesIsARefusalThatSaysWhatTookTheRest) {
  faults_.memory_bytes = 60 << 20;
  EXPECT_THAT(Create(), StatusIs(absl::StatusCode::kResourceExhausted,
                                 AllOf(HasSubstr("cannot allocate 67108864 bytes for KV pages"),
                                       HasSubstr("held: weights "), HasSubstr("activations "))));
}

TEST_F(EngineFaultsTest, AStepWithoutMemoryEndsOneRequestAndNoOther) {
  const auto engine = Create();
  ASSERT_THAT(engine, IsOk());
  const auto alone = Submit(engine->get(), 5);
  StepUntilIdle(engine->get());
  const auto first = Submit(engine->get(), 5), last = Submit(engine->get(), 6);
  (*engine)->TEST_Step();
  faults_.waits_without_memory = 1;
  StepUntilIdle(engine->get());
  EXPECT_EQ(last->finished()->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(first->tokens(), alone->tokens());
  EXPECT_THAT((*engine)->stats().fault, IsOk());
  EXPECT_EQ((*engine)->stats().kv_pages_used, 0);
}

TEST_F(EngineFaultsTest, ALostDeviceEndsEveryRequestAndRefusesNewOnes) {
  const auto engine = Create();
  ASSERT_THAT(engine, IsOk());
  const auto first = Submit(engine->get(), 5), second = Submit(engine->get(), 6);
  (*engine)->TEST_Step();
  faults_.lost = true;
  StepUntilIdle(engine->get());
  for (const auto& output : {first, second}) {
    EXPECT_THAT(output->finished()->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("device has failed")));
  }
  EXPECT_THAT((*engine)->stats().fault, StatusIs(absl::StatusCode::kInternal, HasSubstr("cudaErrorIllegalAddress")));
  v1::AttentionSpec spec;
  spec.mutable_dense();
  const auto refused = (*engine)->Submit(
      {.prompt = {1}, .stop = {.max_tokens = 1}, .policy = *BuiltinPolicies().Create(spec, (*engine)->shape())},
      std::make_shared<RecordingOutput>());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace farspan
