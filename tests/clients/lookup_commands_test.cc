// SPDX-License-Identifier: Apache-2.0
// tokenize, info, policies and health.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "clients/cli/json.h"
#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"

namespace farspan::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LookupCommandsTest : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin() + 1, {"--server", server_.target()});
    return cli_.Run(arguments);
  }

  FakeServer server_;
  CliRun cli_;
};

TEST_F(LookupCommandsTest, TokenizeListsTokens) {
  server_.handlers().tokenize = [](const v1::TokenizeRequest&, v1::TokenizeResponse* response) {
    response->add_token_ids(12);
    response->add_token_ids(40000);
    response->add_token_texts("Hi");
    response->add_token_texts("\n\x1b");
    response->set_bos_added(true);
    return grpc::Status::OK;
  };
  const CliResult result = Run({"tokenize", "--prompt", "x"});
  EXPECT_EQ(result.out, "     12  Hi\n  40000  \\n\\x1b\n");
  EXPECT_EQ(result.err, "2 tokens, beginning of sequence added\n");
  EXPECT_EQ(Json::parse(Run({"tokenize", "--prompt", "x", "--json"}).out)["token_ids"].dump(), "[12,40000]");
}

TEST_F(LookupCommandsTest, TokenizeTurnsTokensIntoText) {
  v1::DetokenizeRequest seen;
  server_.handlers().detokenize = [&](const v1::DetokenizeRequest& request, v1::DetokenizeResponse* response) {
    seen = request;
    response->set_text("Hi");
    return grpc::Status::OK;
  };
  cli_.input.str("[3, 4]");
  EXPECT_EQ(Run({"tokenize", "--prompt-tokens-file", "-"}).out, "Hi\n");
  EXPECT_THAT(seen.token_ids(), ElementsAre(3, 4));
}

TEST_F(LookupCommandsTest, InfoShowsModelMemoryAndSettings) {
  server_.handlers().info = [](v1::GetServerInfoResponse* response) {
    response->set_server_version("0.1.0");
    response->mutable_model()->set_name("tiny\x1b");
    response->mutable_model()->set_max_context_tokens(8192);
    response->mutable_kv_cache()->set_total_bytes(int64_t{1} << 30);
    response->mutable_default_attention()->mutable_dense();
    response->set_device("cpu");
    response->set_device_reason("taking the CPU, as asked");
    v1::ConfigEntry* entry = response->add_config();
    entry->set_name("grpc-port");
    entry->set_value("50051");
    entry->set_source("default");
    return grpc::Status::OK;
  };
  const CliResult result = Run({"info"});
  EXPECT_EQ(result.code, ExitCode::kOk);
  EXPECT_THAT(result.out, HasSubstr("server          0.1.0"));
  EXPECT_THAT(result.out, HasSubstr("model           tiny\\x1b"));
  EXPECT_THAT(result.out, HasSubstr("device          cpu, taking the CPU, as asked\n"));
  EXPECT_THAT(result.out, HasSubstr("context         8192 tokens"));
  EXPECT_THAT(result.out, HasSubstr("KV cache        1.00 GiB"));
  EXPECT_THAT(result.out, HasSubstr("default policy  dense\n"));
  EXPECT_THAT(result.out, HasSubstr("grpc-port  50051  default\n"));
  EXPECT_EQ(Json::parse(Run({"info", "--json"}).out)["kv_cache"]["total_bytes"], "1073741824");
}

TEST_F(LookupCommandsTest, PoliciesShowsOptionsWithTheirRules) {
  server_.handlers().policies = [](v1::ListAttentionPoliciesResponse* response) {
    v1::AttentionPolicyInfo* dense = response->add_policies();
    dense->set_name("dense");
    dense->set_summary("Reads all.");
    dense->set_granularity(v1::ATTENTION_GRANULARITY_TOKEN);
    dense->set_version(1);
    dense->set_supported(true);
    v1::AttentionPolicyInfo* window = response->add_policies();
    window->set_name("window");
    window->set_summary("Sinks and a recent window.");
    window->set_paper("StreamingLLM, arXiv:2309.17453");
    window->set_sparse_prefill(true);
    window->set_sparse_decode(true);
    window->set_evicts(true);
    window->set_version(1);
    v1::AttentionOption* option = window->add_options();
    option->set_name("window_tokens");
    option->set_type("int64");
    option->set_unit("tokens");
    option->set_doc("Most recent tokens.");
    option->set_minimum(1);
    option->set_maximum(16777216);
    option->set_default_value("1024");
    return grpc::Status::OK;
  };
  const CliResult result = Run({"policies"});
  EXPECT_EQ(result.out,
            "dense\n"
            "  Reads all.\n"
            "  reads everything; keeps all KV pages; version 1\n"
            "\n"
            "window\n"
            "  Sinks and a recent window.\n"
            "  StreamingLLM, arXiv:2309.17453\n"
            "  reads less of the prompt and while generating; frees KV pages while it runs; version 1; NOT\n"
            "  SUPPORTED on this server's device\n"
            "  window_tokens\n"
            "      Most recent tokens. [int64; in tokens; from 1; up to 16777216; default 1024]\n");
  EXPECT_EQ(Json::parse(Run({"policies", "--json"}).out)["policies"][1]["name"], "window");
}

TEST_F(LookupCommandsTest, HealthIsTheExitCode) {
  const CliResult serving = Run({"health"});
  EXPECT_EQ(serving.code, ExitCode::kOk);
  EXPECT_EQ(serving.out, "SERVING\n");
  server_.SetServing(false);
  const CliResult draining = Run({"health"});
  EXPECT_EQ(draining.code, ExitCode::kRequestFailed);
  EXPECT_EQ(draining.out, "NOT_SERVING\n");
  EXPECT_EQ(Run({"health", "--service", "no.such"}).code, ExitCode::kRequestFailed);
  EXPECT_EQ(cli_.Run({"health", "--server", RefusingTarget()}).code, ExitCode::kRequestFailed);
}

}  // namespace
}  // namespace farspan::cli
