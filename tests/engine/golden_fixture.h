// SPDX-License-Identifier: Apache-2.0
// An engine over the real model, for tests that compare it with committed goldens. FARSPAN_TEST_MODEL names the file of
// SmolLM2-135M-Instruct (Q4_1); without it the tests skip.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "engine/attention/registry.h"
#include "engine/engine_factory.h"
#include "tests/support/recording_output.h"

namespace farspan {

class GoldenTest : public ::testing::Test {
 protected:
  void SetUp() override;

  void StartEngine(CpuIsa isa, KvDtype kv_dtype);
  // Runs a greedy request to its end.
  std::shared_ptr<RecordingOutput> Run(Request request, const v1::AttentionSpec& attention);
  // tests/data/reference/`name`
  static nlohmann::json ReadGolden(const std::string& name);

 private:
  NullMetricsSink metrics_;
  std::optional<GgufFile> file_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace farspan
