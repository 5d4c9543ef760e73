// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "clients/cli/json.h"
#include "tests/clients/cli_run.h"
#include "tests/clients/fake_server.h"

namespace farspan::cli {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

using Writer = grpc::ServerWriter<v1::GenerateResponse>;

class GenerateCommandTest : public ::testing::Test {
 protected:
  void Answer(std::vector<v1::GenerateResponse> events, grpc::Status status = grpc::Status::OK) {
    server_.handlers().generate = [this, events, status](const v1::GenerateRequest& request, Writer* writer) {
      request_ = request;
      for (const v1::GenerateResponse& event : events) writer->Write(event);
      return status;
    };
  }

  CliResult Generate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", "--server", server_.target()});
    return cli_.Run(arguments);
  }

  FakeServer server_;
  CliRun cli_;
  v1::GenerateRequest request_;
};

TEST_F(GenerateCommandTest, StreamsTheTextAndReportsStatistics) {
  Answer({Started(3), Progress(3, 3), Delta("Hel", {5}), Delta("lo", {6}), Finished()});
  const CliResult result = Generate({"--prompt", "Say hello"});
  EXPECT_EQ(result.code, ExitCode::kOk);
  EXPECT_EQ(result.out, "Hello\n");
  EXPECT_EQ(
      result.err,
      "prompt 5865 tokens (0 cached), generated 14, TTFT 12.0 s, TPOT 31.0 ms, peak KV 66.0 MiB, KV read 1.00 GiB "
      "(10 % of dense)\n");
  EXPECT_EQ(request_.spec().prompt().text(), "Say hello");
  EXPECT_FALSE(request_.has_attention());
}

TEST_F(GenerateCommandTest, SendsWhatTheFlagsSay) {
  Answer({Finished()});
  const CliResult result =
      Generate({"--prompt=Hi", "--chat", "--system", "Be brief.", "--attention", "window { window_tokens: 64 }",
                "--top_p", "0.5", "--stop-strings", "a", "--stop-strings", "b", "--ignore-eos", "--max-tokens=7"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  EXPECT_EQ(request_.attention().window().window_tokens(), 64);
  EXPECT_EQ(request_.spec().sampling().top_p(), 0.5);
  EXPECT_FALSE(request_.spec().sampling().has_temperature());
  EXPECT_THAT(request_.spec().stopping().stop_strings(), ::testing::ElementsAre("a", "b"));
  EXPECT_TRUE(request_.spec().stopping().ignore_eos());
  EXPECT_EQ(request_.spec().stopping().max_tokens(), 7);
  ASSERT_EQ(request_.spec().prompt().chat().messages_size(), 2);
  EXPECT_EQ(request_.spec().prompt().chat().messages(0).content(), "Be brief.");
  EXPECT_EQ(request_.spec().prompt().chat().messages(1).role(), v1::ChatMessage::ROLE_USER);
}

TEST_F(GenerateCommandTest, JsonHoldsStartedFinishedTextTokensAndLogprobs) {
  v1::GenerateResponse prompt_part = Progress(2, 2);
  prompt_part.mutable_progress()->add_prompt_logprobs();
  v1::TokenLogprobs* second = prompt_part.mutable_progress()->add_prompt_logprobs();
  second->mutable_chosen()->set_token_id(9);
  second->mutable_chosen()->set_logprob(-0.1f);
  v1::TokenLogprob* alternative = second->add_top();
  alternative->set_token_id(4);
  alternative->set_logprob(-1.5f);
  alternative->set_text("x");
  v1::GenerateResponse delta = Delta("ok", {7});
  delta.mutable_delta()->add_logprobs()->mutable_chosen()->set_token_id(7);
  v1::GenerateResponse started = Started(2);
  started.mutable_started()->set_added_system_prompt("Be kind.");
  Answer({started, prompt_part, delta, Finished()});

  const CliResult result = Generate({"--prompt", "x", "--json", "--logprobs", "0", "--prompt-logprobs", "1"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["request_id"], "r-1");
  EXPECT_EQ(json["added_system_prompt"], "Be kind.");
  EXPECT_EQ(json["bos_added"], false);
  EXPECT_EQ(json["prompt_tokens_count"], "2");
  EXPECT_EQ(json["sampling"]["temperature"], 0);
  EXPECT_EQ(json["stopping"]["max_tokens"], "8");
  EXPECT_EQ(json["finish_reason"], "FINISH_REASON_LENGTH");
  EXPECT_EQ(json["usage"]["generated_tokens_count"], "14");
  EXPECT_EQ(json["timing"]["ttft_duration"], "12s");
  EXPECT_EQ(json["kv"]["peak_resident_bytes"], "69206016");
  EXPECT_EQ(json["attention"]["window"]["window_tokens"], "64");
  EXPECT_EQ(json["text"], "ok");
  EXPECT_EQ(json["token_ids"].dump(), "[7]");
  EXPECT_EQ(json["logprobs"].dump(), R"([{"token_id":7,"logprob":0.0,"text":"","top":[]}])");
  EXPECT_EQ(json["prompt_logprobs"].dump(),
            R"([null,{"token_id":9,"logprob":-0.1,"text":"","top":[{"token_id":4,"logprob":-1.5,"text":"x"}]}])");
}

TEST_F(GenerateCommandTest, JsonLeavesOutLogprobsThatWereNotAskedFor) {
  Answer({Started(2), Finished()});
  const Json json = Json::parse(Generate({"--prompt", "x", "--json"}).out);
  EXPECT_FALSE(json.contains("logprobs"));
  EXPECT_FALSE(json.contains("prompt_logprobs"));
  EXPECT_EQ(json["token_ids"].dump(), "[]");
}

v1::GenerateResponse DeltaOf(int32_t sample, const std::string& text, std::initializer_list<int32_t> token_ids) {
  v1::GenerateResponse delta = Delta(text, token_ids);
  delta.mutable_delta()->set_sample_index(sample);
  return delta;
}

TEST_F(GenerateCommandTest, SeveralSamplesAreShownOneAfterTheOther) {
  Answer({Started(2), DeltaOf(1, "se", {1}), DeltaOf(0, "fir", {2}), DeltaOf(2, "", {3}), DeltaOf(1, "cond", {4}),
          DeltaOf(0, "st", {5}), Finished()});
  const CliResult result = Generate({"--prompt", "x", "--n", "3", "--quiet"});
  EXPECT_EQ(result.out, "[sample 1 of 3]\nfirst\n[sample 2 of 3]\nsecond\n[sample 3 of 3]\n");
  EXPECT_EQ(request_.spec().sampling().n(), 3);
}

TEST_F(GenerateCommandTest, JsonHoldsEachSampleWithItsEnd) {
  v1::GenerateResponse finished = Finished();
  finished.mutable_finished()->add_samples()->set_stop_string("!");
  finished.mutable_finished()->add_samples()->set_finish_reason(v1::FINISH_REASON_LENGTH);
  Answer({DeltaOf(1, "b", {2}), DeltaOf(0, "a", {1}), finished});
  const Json json = Json::parse(Generate({"--prompt", "x", "--n", "2", "--json"}).out);
  ASSERT_EQ(json["samples"].size(), 2u);
  EXPECT_EQ(json["samples"][0]["text"], "a");
  EXPECT_EQ(json["samples"][0]["stop_string"], "!");
  EXPECT_EQ(json["samples"][1]["text"], "b");
  EXPECT_EQ(json["samples"][1]["finish_reason"], "FINISH_REASON_LENGTH");
  EXPECT_EQ(json["samples"][1]["token_ids"].dump(), "[2]");
  EXPECT_EQ(json["text"], "a") << "the first one's";
}

TEST_F(GenerateCommandTest, ASampleIndexThatNoServerGivesTakesNoMemory) {
  Answer({DeltaOf(2'000'000'000, "x", {1}), DeltaOf(-1, "y", {2}), DeltaOf(0, "z", {3}), Finished()});
  EXPECT_EQ(Generate({"--prompt", "x", "--quiet"}).out, "z\n");
}

TEST_F(GenerateCommandTest, SchedulingFlagsFillTheRequest) {
  Answer({Finished()});
  const CliResult result =
      Generate({"--prompt", "x", "--priority", "-7", "--max-queue-duration", "1.25", "--bypass-prefix-cache"});
  ASSERT_EQ(result.code, ExitCode::kOk) << result.err;
  EXPECT_EQ(request_.spec().priority(), -7);
  EXPECT_EQ(request_.spec().max_queue_duration().seconds(), 1);
  EXPECT_EQ(request_.spec().max_queue_duration().nanos(), 250'000'000);
  EXPECT_TRUE(request_.spec().kv().bypass_prefix_cache());
  for (const char* wrong : {"0", "-1", "nan", "90000", "1s"}) {
    EXPECT_THAT(Generate({"--prompt", "x", "--max-queue-duration", wrong}).err,
                HasSubstr("--max-queue-duration: must be"))
        << wrong;
  }
}

TEST_F(GenerateCommandTest, TheTenantGoesWithTheCall) {
  Answer({Finished()});
  std::string tenant;
  server_.handlers().metadata = [&](const auto& metadata) {
    const auto found = metadata.find("x-farspan-tenant");
    tenant = found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  };
  ASSERT_EQ(Generate({"--prompt", "x", "--tenant", "acme"}).code, ExitCode::kOk);
  EXPECT_EQ(tenant, "acme");
  const CliResult wrong = Generate({"--prompt", "x", "--tenant", "a\nb"});
  EXPECT_EQ(wrong.code, ExitCode::kUsage);
  EXPECT_EQ(wrong.err,
            "farspan: --tenant: must be 1 to 64 printable ASCII characters without spaces at its ends, got 'a\\nb'\n");
}

TEST_F(GenerateCommandTest, StatisticsSayWhatWasCachedAndPreempted) {
  v1::GenerateResponse finished = Finished();
  finished.mutable_finished()->mutable_usage()->set_cached_prompt_tokens_count(4096);
  finished.mutable_finished()->mutable_timing()->set_preemptions_count(2);
  Answer({finished});
  EXPECT_THAT(Generate({"--prompt", "x"}).err,
              AllOf(StartsWith("prompt 5865 tokens (4096 cached), "), EndsWith(", preempted 2 times\n")));
}

TEST_F(GenerateCommandTest, ChatsAndComparisonsHaveOneSample) {
  EXPECT_EQ(cli_.Run({"chat", "--n", "2"}).err, "farspan: --n: must be 1 in a chat, got 2\n");
  EXPECT_EQ(cli_.Run({"compare", "--prompt", "x", "--attention", "window", "--n", "2"}).err,
            "farspan: --n: must be 1 in a comparison, got 2\n");
}

TEST_F(GenerateCommandTest, AVariableThatIsMeantForUsAndMisspeltIsNamed) {
  EXPECT_EQ(VariableWarning("FARSPAN_SEVRER"),
            "the environment's 'FARSPAN_SEVRER' is not read, did you mean FARSPAN_SERVER?");
  for (const char* name :
       {"FARSPAN_SERVER", "FARSPAN_HOST", "FARSPAN_GRPC_PORT", "FARSPAN_SERVED_MODEL_NAME", "HOME"}) {
    EXPECT_EQ(VariableWarning(name), "") << name;
  }
}

TEST_F(GenerateCommandTest, EscapesControlCharactersOnATerminalAndNowhereElse) {
  Answer({Delta("a\x1b[31mb\tc\n", {1}), Finished()});
  EXPECT_EQ(Generate({"--prompt", "x"}).out, "a\x1b[31mb\tc\n");
  cli_.console.out_is_terminal = true;
  EXPECT_EQ(Generate({"--prompt", "x"}).out, "a\\x1b[31mb\tc\n");
}

TEST_F(GenerateCommandTest, ProgressGoesOnlyToATerminal) {
  Answer({Progress(1, 4), Finished()});
  EXPECT_THAT(Generate({"--prompt", "x"}).err, Not(HasSubstr("1 of 4")));
  cli_.console.err_is_terminal = true;
  EXPECT_THAT(Generate({"--prompt", "x"}).err, HasSubstr("prompt 25 % (1 of 4 tokens)"));
}

TEST_F(GenerateCommandTest, EchoesWhatTheTemplateAdded) {
  v1::GenerateResponse started = Started(2);
  started.mutable_started()->set_added_system_prompt("Be\nkind.");
  started.mutable_started()->set_bos_added(true);
  Answer({started, Finished()});
  EXPECT_THAT(Generate({"--prompt", "x"}).err, StartsWith("added by the chat template: system message \"Be\\nkind.\"\n"
                                                          "added by the tokenizer: beginning-of-sequence token\n"));
}

TEST_F(GenerateCommandTest, QuietPrintsTheTextAlone) {
  Answer({Started(1), Delta("y", {1}), Finished()});
  const CliResult result = Generate({"--prompt", "x", "--quiet"});
  EXPECT_EQ(result.out, "y\n");
  EXPECT_EQ(result.err, "");
}

TEST_F(GenerateCommandTest, ReadsPromptFromStandardInput) {
  Answer({Finished()});
  cli_.input.str("line 1\nline 2\n");
  ASSERT_EQ(Generate({"--prompt-file", "-"}).code, ExitCode::kOk);
  EXPECT_EQ(request_.spec().prompt().text(), "line 1\nline 2\n");
}

TEST_F(GenerateCommandTest, ReadsTokensInBothForms) {
  Answer({Finished()});
  for (const char* json : {"[1, 2, 3]", R"({"token_ids": [1, 2, 3], "bos_added": false})"}) {
    cli_.input.clear();
    cli_.input.str(json);
    ASSERT_EQ(Generate({"--prompt-tokens-file", "-"}).code, ExitCode::kOk);
    EXPECT_THAT(request_.spec().prompt().tokens().ids(), ::testing::ElementsAre(1, 2, 3));
  }
}

TEST_F(GenerateCommandTest, ReadsAChat) {
  Answer({Finished()});
  cli_.input.str(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])");
  ASSERT_EQ(Generate({"--chat-file", "-"}).code, ExitCode::kOk);
  ASSERT_EQ(request_.spec().prompt().chat().messages_size(), 2);
  EXPECT_EQ(request_.spec().prompt().chat().messages(1).role(), v1::ChatMessage::ROLE_ASSISTANT);
}

TEST_F(GenerateCommandTest, CarriesAPromptAboveTheLibrarysDefaultLimit) {
  Answer({Finished()});
  cli_.input.str(std::string(6 << 20, 'a'));
  ASSERT_EQ(Generate({"--prompt-file", "-"}).code, ExitCode::kOk);
  EXPECT_EQ(request_.spec().prompt().text().size(), size_t{6} << 20);
}

}  // namespace
}  // namespace farspan::cli
