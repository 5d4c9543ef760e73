// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/prometheus_sink.h"
#include "tests/server/metrics_options.h"

namespace farspan {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// What `promtool check metrics` says of `text`, by line; nothing when it is clean.
std::vector<std::string> Lint(const std::string& text) {
  const std::string path = absl::StrCat(::testing::TempDir(), "farspan_lint_", getpid(), ".prom");
  std::ofstream(path) << text;
  FILE* const pipe = popen(("promtool check metrics <" + path + " 2>&1").c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  std::string output(1 << 20, '\0');
  output.resize(fread(output.data(), 1, output.size(), pipe));
  const int status = pclose(pipe);
  std::remove(path.c_str());
  std::vector<std::string> lines = absl::StrSplit(output, '\n', absl::SkipEmpty());
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(WIFEXITED(status) && WEXITSTATUS(status) == 0, lines.empty()) << output;
  return lines;
}

bool HasPromtool() { return WEXITSTATUS(std::system("command -v promtool >/dev/null 2>&1")) == 0; }

TEST(MetricLintTest, OurFamiliesAreClean) {
  if (!HasPromtool()) GTEST_SKIP() << "promtool is not installed (Debian package prometheus)";
  MetricsOptions options = OptionsForTest();
  options.vllm_families = false;
  PrometheusSink sink;
  sink.Open(options);
  EXPECT_THAT(Lint(sink.Text({})), IsEmpty());
}

// vLLM's names are what they are: a colon in each, and a histogram called _total. Nothing else may be wrong with them.
TEST(MetricLintTest, VllmsFamiliesAreCleanButForTheirNames) {
  if (!HasPromtool()) GTEST_SKIP() << "promtool is not installed (Debian package prometheus)";
  PrometheusSink sink;
  sink.Open(OptionsForTest());
  std::vector<std::string> complaints;
  for (const std::string& line : Lint(sink.Text({}))) {
    if (absl::StartsWith(line, "vllm:") && absl::EndsWith(line, "metric names should not contain ':'")) continue;
    complaints.push_back(line);
  }
  EXPECT_THAT(complaints,
              ElementsAre("vllm:iteration_tokens_total non-counter metrics should not have \"_total\" suffix"));
}

}  // namespace
}  // namespace farspan
