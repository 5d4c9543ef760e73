// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cli/comparison_table.h"
#include "clients/cli/json.h"
#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"

namespace farspan::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

using Writer = grpc::ServerWriter<v1::ComparePoliciesResponse>;

v1::ComparisonFinished TwoRows() {
  v1::ComparisonFinished comparison;
  v1::ComparisonRow* dense = comparison.add_rows();
  dense->mutable_attention()->mutable_dense();
  dense->set_text("The code is 48213.");
  *dense->mutable_finished() = Finished().finished();
  dense->mutable_finished()->mutable_kv()->set_prefill_read_bytes(int64_t{10} << 30);
  dense->set_token_agreement_ratio(1);
  dense->set_reference_mean_logprob(-0.25);
  v1::ComparisonRow* window = comparison.add_rows();
  window->mutable_attention()->mutable_window()->set_sink_tokens(4);
  window->mutable_attention()->mutable_window()->set_window_tokens(64);
  window->mutable_attention()->mutable_window()->set_positions(v1::WindowAttention::POSITIONS_CACHE);
  window->set_text("I do not know.\nSorry.");
  *window->mutable_finished() = Finished().finished();
  window->mutable_finished()->mutable_timing()->clear_tpot_duration();
  window->mutable_finished()->mutable_kv()->set_decode_read_bytes(90);
  window->mutable_finished()->mutable_kv()->set_decode_side_read_bytes(60);
  window->mutable_finished()->mutable_kv()->set_decode_dense_read_bytes(1000);
  window->set_token_agreement_ratio(0.125);
  window->set_first_divergence_index(0);
  window->set_reference_mean_logprob(-7.5);
  return comparison;
}

class CompareCommandTest : public ::testing::Test {
 protected:
  CompareCommandTest() {
    server_.handlers().compare = [this](const v1::ComparePoliciesRequest& request, Writer* writer) {
      request_ = request;
      v1::ComparePoliciesResponse event;
      event.mutable_run()->set_row_index(1);
      event.mutable_run()->set_phase(v1::PolicyRunEvent::PHASE_GENERATE);
      *event.mutable_run()->mutable_event() = Progress(1, 4);
      writer->Write(event);
      *event.mutable_finished() = TwoRows();
      writer->Write(event);
      return grpc::Status::OK;
    };
  }

  CliResult Compare(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"compare", "--server", server_.target(), "--prompt", "x"});
    return cli_.Run(arguments);
  }

  FakeServer server_;
  CliRun cli_;
  v1::ComparePoliciesRequest request_;
};

TEST_F(CompareCommandTest, PrintsOneRowAPolicy) {
  const CliResult result = Compare({"--attention", "window { window_tokens: 64 }", "--find", "48213"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  EXPECT_EQ(result.out,
            "policy                    prompt tokens    TTFT     TPOT   peak KV   KV read  of dens"
            "e  in decode  agreement  first divergence  ref. logprob  found?  text\n"
            "------------------------  -------------  ------  -------  --------  --------  -------"
            "-  ---------  ---------  ----------------  ------------  ------  ----------------------\n"
            "dense (reference)                  5865  12.0 s  31.0 ms  66.0 MiB  10.0 GiB     100 "
            "%          -      100 %  none                    -0.250  yes     The code is 48213.\n"
            "window{window_tokens=64}           5865  12.0 s        -  66.0 MiB  1.00 GiB      10 "
            "%       15 %       12 %  token 0                 -7.500  no      I do not know.\\nSorry.\n");
}

TEST_F(CompareCommandTest, SendsPoliciesReferenceAndSpec) {
  ASSERT_EQ(Compare({"--attention", "window", "--attention", "dense", "--reference", "window { window_tokens: 9 }",
                     "--concurrent", "--max-tokens", "5"})
                .code,
            ExitCode::kOk);
  ASSERT_EQ(request_.policies_size(), 2);
  EXPECT_TRUE(request_.policies(0).has_window());
  EXPECT_TRUE(request_.policies(1).has_dense());
  EXPECT_EQ(request_.reference().window().window_tokens(), 9);
  EXPECT_TRUE(request_.concurrent());
  EXPECT_EQ(request_.spec().stopping().max_tokens(), 5);
  EXPECT_EQ(request_.spec().prompt().text(), "x");
  ASSERT_EQ(Compare({"--attention", "window"}).code, ExitCode::kOk);
  EXPECT_FALSE(request_.has_reference());
}

TEST_F(CompareCommandTest, RefusesMorePoliciesThanTheRuleAllows) {
  const CliResult result = Compare(std::vector<std::string>(9, "--attention=window"));
  EXPECT_EQ(result.code, ExitCode::kUsage);
  EXPECT_EQ(result.err, "farspan: --attention: may be given at most 8 times\n");
}

TEST_F(CompareCommandTest, JsonIsTheFinalEvent) {
  const CliResult result = Compare({"--attention", "window", "--json", "--find", "48213"});
  ASSERT_EQ(result.code, ExitCode::kOk);
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_EQ(json["rows"][0]["text"], "The code is 48213.");
  EXPECT_EQ(json["rows"][0]["found"], true);
  EXPECT_FALSE(json["rows"][0].contains("first_divergence_index"));
  EXPECT_EQ(json["rows"][1]["found"], false);
  EXPECT_EQ(json["rows"][1]["first_divergence_index"], "0");
  EXPECT_EQ(json["rows"][1]["reference_mean_logprob"], -7.5);
  EXPECT_EQ(json["rows"][1]["finished"]["kv"]["prefill_read_bytes"], "1073741824");
}

TEST_F(CompareCommandTest, ProgressNamesTheRun) {
  EXPECT_EQ(Compare({"--attention", "window"}).err, "");
  cli_.console.err_is_terminal = true;
  EXPECT_THAT(Compare({"--attention", "window"}).err, HasSubstr("run 2 of 2 (window): prompt 25 %"));
}

TEST_F(CompareCommandTest, ServersRefusalIsReported) {
  server_.handlers().compare = [](const v1::ComparePoliciesRequest&, Writer*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "policies: window is disabled, got window");
  };
  const CliResult result = Compare({"--attention", "window"});
  EXPECT_EQ(result.code, ExitCode::kRequestFailed);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "farspan: request refused: policies: window is disabled, got window\n");
}

TEST(ComparisonTableTest, MovesTextsBelowWhereTheyHaveNoRoom) {
  const std::string table = ComparisonTable(TwoRows(), std::nullopt, 150);
  EXPECT_THAT(table, HasSubstr("-7.500\n\ndense: The code is 48213.\n"));
  EXPECT_THAT(table, HasSubstr("window{window_tokens=64}: I do not know.\\nSorry.\n"));
  EXPECT_THAT(table, Not(HasSubstr("found?")));
}

TEST(ComparisonTableTest, TurnsOnItsSideInANarrowTerminal) {
  const std::string table = ComparisonTable(TwoRows(), "48213", 80);
  EXPECT_THAT(table, HasSubstr("\nTTFT              12.0 s             12.0 s\n"));
  EXPECT_THAT(table, HasSubstr("\nfound?            yes                no\n"));
}

TEST(ComparisonTableTest, ClipsLongTexts) {
  v1::ComparisonFinished comparison = TwoRows();
  comparison.mutable_rows(0)->set_text(std::string(500, 'a'));
  const std::string table = ComparisonTable(comparison, std::nullopt, 200);
  EXPECT_THAT(table, HasSubstr("aaa...\n"));
  EXPECT_THAT(table, Not(HasSubstr(std::string(200, 'a'))));
}

}  // namespace
}  // namespace farspan::cli
