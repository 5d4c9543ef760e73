// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/golden_fixture.h"

#include <cstdlib>
#include <fstream>
#include <utility>

#include "tests/support/status_matchers.h"
#include "tests/support/test_device.h"

namespace farspan {

void GoldenTest::SetUp() {
  const char* path = std::getenv("FARSPAN_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "FARSPAN_TEST_MODEL names no model file";
  auto file = GgufFile::Open(path);
  ASSERT_THAT(file, IsOk());
  file_.emplace(*std::move(file));
}

void GoldenTest::StartEngine(CpuIsa isa, KvDtype kv_dtype) {
  EngineOptions options{.device = TestDevice()};
  options.cpu = {.isa = isa, .num_threads = 2};
  options.kv_dtype = kv_dtype;
  auto engine = CreateEngine(*file_, options, &metrics_);
  ASSERT_THAT(engine, IsOk());
  engine_ = *std::move(engine);
  engine_->Start();
}

std::shared_ptr<RecordingOutput> GoldenTest::Run(Request request, const v1::AttentionSpec& attention) {
  auto policy = BuiltinPolicies().Create(attention, engine_->shape());
  EXPECT_THAT(policy, IsOk());
  request.policy = *policy;
  request.sampling.temperature = 0;
  auto output = std::make_shared<RecordingOutput>();
  EXPECT_THAT(engine_->Submit(std::move(request), output), IsOk());
  EXPECT_TRUE(engine_->WaitIdle(kNoDeadline));
  return output;
}

nlohmann::json GoldenTest::ReadGolden(const std::string& name) {
  std::ifstream file("tests/data/reference/" + name);
  EXPECT_TRUE(file.good()) << name;
  return nlohmann::json::parse(file);
}

}  // namespace farspan
