// SPDX-License-Identifier: Apache-2.0
// Field rules by their boundaries, for every field of every request message.
#include "engine/attention/field_rules.h"

#include <gtest/gtest.h>

#include <limits>

#include "farspan/v1/comparison.pb.h"
#include "farspan/v1/inference.pb.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

std::string Problem(const google::protobuf::Message& message) {
  return std::string(FirstViolation(CheckFieldRules(message)).message());
}

TEST(FieldRulesTest, BoundsAreInclusiveUnlessDeclaredOtherwise) {
  v1::Sampling sampling;
  sampling.set_top_p(1);
  sampling.set_temperature(0);
  EXPECT_EQ(Problem(sampling), "");
  sampling.set_top_p(0);
  EXPECT_EQ(Problem(sampling), "top_p: must be greater than 0, got 0");
  sampling.set_top_p(1.5);
  EXPECT_EQ(Problem(sampling), "top_p: must be at most 1, got 1.5");
  sampling.set_top_p(1.0000001);
  EXPECT_EQ(Problem(sampling), "top_p: must be at most 1, got 1.0000001");
}

TEST(FieldRulesTest, NumbersThatAreNotFiniteAreRefusedEverywhere) {
  for (const double value : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity()}) {
    v1::Sampling sampling;
    sampling.set_min_p(value);
    EXPECT_THAT(Problem(sampling), HasSubstr("min_p: must be a finite number"));
  }
}

TEST(FieldRulesTest, RepeatedFieldsAreBoundedInCountAndInEachElement) {
  v1::Stopping stopping;
  for (int i = 0; i < 16; ++i) stopping.add_stop_strings("x");
  EXPECT_EQ(Problem(stopping), "");
  stopping.set_stop_strings(3, "");
  EXPECT_EQ(Problem(stopping), "stop_strings[3]: must not be empty");
  stopping.set_stop_strings(3, std::string(257, 'x'));
  EXPECT_EQ(Problem(stopping), "stop_strings[3]: must have at most 256 bytes, got 257");
  stopping.add_stop_strings("y");
  EXPECT_EQ(Problem(stopping), "stop_strings: must have at most 16 elements, got 17");
}

TEST(FieldRulesTest, NestedFieldsAreNamedByTheirPath) {
  v1::GenerateRequest request;
  request.mutable_spec()->mutable_stopping()->set_max_tokens(0);
  EXPECT_EQ(Problem(request), "spec.stopping.max_tokens: must be at least 1 tokens, got 0");
  v1::ComparePoliciesRequest comparison;
  comparison.add_policies()->mutable_dense();
  comparison.add_policies()->mutable_window()->set_sink_tokens(-1);
  EXPECT_EQ(Problem(comparison), "policies[1].window.sink_tokens: must be at least 0 tokens, got -1");
}

TEST(FieldRulesTest, DefaultsFillWhatIsAbsentAndNothingElse) {
  v1::Sampling sampling;
  sampling.set_temperature(0.5);
  ApplyDefaults(&sampling);
  EXPECT_EQ(sampling.temperature(), 0.5);
  EXPECT_EQ(sampling.top_p(), 1);
  EXPECT_EQ(sampling.repetition_penalty(), 1);
  EXPECT_FALSE(sampling.has_seed()) << "a field without a declared default stays absent";
}

TEST(FieldRulesTest, ShownTextIsClippedAndEscaped) {
  EXPECT_EQ(ClipForMessage("a\nb\"\x01"), "a\\nb\\\"\\x01");
  EXPECT_EQ(ClipForMessage(std::string(65, 'x')), std::string(64, 'x').append("..."));
}

}  // namespace
}  // namespace farspan
