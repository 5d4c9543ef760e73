// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <gmock/gmock.h>

#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "server/flag_table.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

CommandLine Parse(const std::vector<std::string>& arguments, const Environment& environment = {}) {
  return ParseCommandLine(arguments, environment);
}

std::string SourceOf(const CommandLine& line, const std::string& name) {
  for (const ConfigValue& value : line.values) {
    if (value.name == name) return value.source;
  }
  return "";
}

TEST(ConfigTest, DefaultsNeedOnlyTheModel) {
  const CommandLine line = Parse({"--model", "m.gguf"});
  EXPECT_THAT(line.errors, IsEmpty());
  EXPECT_EQ(line.action, CommandAction::kServe);
  EXPECT_EQ(line.config.grpc_port, 50051);
  EXPECT_EQ(line.config.metrics_port, 8002);
  EXPECT_TRUE(line.config.on_loopback());
  EXPECT_TRUE(line.config.serves_reflection());
}

TEST(ConfigTest, FlagComesBeforeEnvironmentBeforeDefault) {
  const Environment environment = {{"FARSPAN_GRPC_PORT", "6000"}, {"FARSPAN_MAX_NUM_SEQS", "7"}};
  const CommandLine line = Parse({"--model=m.gguf", "--grpc-port", "6001"}, environment);
  EXPECT_THAT(line.errors, IsEmpty());
  EXPECT_EQ(line.config.grpc_port, 6001);
  EXPECT_EQ(line.config.max_num_seqs, 7);
  EXPECT_EQ(SourceOf(line, "grpc-port"), "flag");
  EXPECT_EQ(SourceOf(line, "max-num-seqs"), "environment");
  EXPECT_EQ(SourceOf(line, "threads"), "default");
}

TEST(ConfigTest, UnderscoresEqualsSignAndPositionalModelAreAccepted) {
  const CommandLine line = Parse({"m.gguf", "--max_num_seqs=3", "--no-reflection", "--kv_cache_bytes", "2MiB"});
  EXPECT_THAT(line.errors, IsEmpty());
  EXPECT_EQ(line.config.model_path, "m.gguf");
  EXPECT_EQ(line.config.max_num_seqs, 3);
  EXPECT_EQ(line.config.kv_cache_bytes, 2 << 20);
  EXPECT_FALSE(line.config.serves_reflection());
}

TEST(ConfigTest, EveryErrorIsReportedAtOnceWithFlagRuleAndValue) {
  const CommandLine line = Parse({"--grpc-port", "70000", "--cpu-isa", "sse", "--block-size=48", "--treads", "2"},
                                 {{"FARSPAN_KEEPALIVE_TIME", "never"}});
  EXPECT_THAT(
      line.errors,
      ElementsAre(AllOf(HasSubstr("FARSPAN_KEEPALIVE_TIME"), HasSubstr("1 to 86400"), HasSubstr("\"never\"")),
                  AllOf(HasSubstr("--grpc-port"), HasSubstr("0 to 65535"), HasSubstr("\"70000\"")),
                  AllOf(HasSubstr("--cpu-isa"), HasSubstr("auto, portable, avx2, avx512"), HasSubstr("\"sse\"")),
                  AllOf(HasSubstr("--block-size"), HasSubstr("16, 32, 64"), HasSubstr("\"48\"")),
                  AllOf(HasSubstr("\"--treads\""), HasSubstr("did you mean --threads?")),
                  HasSubstr("--model must be given")));
}

TEST(ConfigTest, TheHashModelsSettingsAreCheckedWithTheFlags) {
  EXPECT_THAT(Parse({"hash:step_us=500"}).errors, IsEmpty());
  EXPECT_THAT(Parse({"--model", "hash:step_us=fast"}).errors,
              ElementsAre("--model must have a whole number from 0 to 60000000 as step_us, got \"hash:step_us=fast\""));
  EXPECT_THAT(HelpText(), HasSubstr("step_us=0  microseconds that each step takes"));
}

TEST(ConfigTest, ARandomModelsShapeAndSettingsAreCheckedWithTheFlags) {
  EXPECT_THAT(Parse({"random:smollm2-135m,weights=q4_0"}).errors, IsEmpty());
  EXPECT_THAT(Parse({"--model", "random:gpt"}).errors,
              ElementsAre("--model must be random: with llama-3.1-8b, smollm2-135m, or the path of a config.json, got "
                          "\"random:gpt\""));
  EXPECT_THAT(HelpText(), HasSubstr("weights=bf16  how matrices are stored"));
  const std::string path = testing::TempDir() + "farspan_config_test.json";
  std::ofstream(path) << R"({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 0})";
  EXPECT_THAT(
      Parse({"--model", "random:" + path}).errors,
      ElementsAre("--model must name a config.json of a network that can be run: key hidden_size: expected a whole "
                  "number from 1 to 131072, is 0, got \"random:" +
                  path + "\""));
}

TEST(ConfigTest, TheDeviceIsAutoCpuOrANumberedGpu) {
  EXPECT_EQ(Parse({"m"}).config.device, "auto");
  for (const char* device : {"auto", "cpu", "cuda:0", "cuda:15"}) {
    const CommandLine line = Parse({"m", "--device", device});
    EXPECT_THAT(line.errors, IsEmpty());
    EXPECT_EQ(line.config.device, device);
  }
  for (const char* wrong : {"", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:01", "cuda:1x", "CPU"}) {
    EXPECT_THAT(Parse({"m", "--device", wrong}).errors,
                ElementsAre(HasSubstr("--device must be auto, cpu or cuda:N, got")))
        << wrong;
  }
}

TEST(ConfigTest, TheChosenDeviceShowsWithItsReason) {
  EXPECT_THAT(ConfigText(WithDeviceChosen(Parse({"m", "--device", "cpu"}))),
              HasSubstr("device = cpu  # flag: taking the CPU, as asked\n"));
  EXPECT_THAT(ConfigText(WithDeviceChosen(Parse({"hash:"}))),
              HasSubstr("device = cpu  # default: taking the CPU, as the hash model needs\n"));
  EXPECT_THAT(ConfigText(WithDeviceChosen(Parse({"hash:", "--device", "cuda:0"}))),
              HasSubstr("device = cuda:0  # flag: device: must be auto or cpu for the hash model"));
}

TEST(ConfigTest, OtherAddressesNeedInsecure) {
  EXPECT_THAT(Parse({"m", "--host", "0.0.0.0"}).errors, ElementsAre(HasSubstr("--insecure")));
  EXPECT_THAT(Parse({"m", "--host", "127.evil.example"}).errors, ElementsAre(HasSubstr("--insecure")));
  const CommandLine line = Parse({"m", "--host", "0.0.0.0", "--insecure"});
  EXPECT_THAT(line.errors, IsEmpty());
  EXPECT_FALSE(line.config.serves_reflection()) << "off by default where strangers connect";
  EXPECT_THAT(Parse({"m", "--host", "127.0.0.2"}).errors, IsEmpty());
}

TEST(ConfigTest, VariablesThatNoFlagHasAreNamedWithTheNearest) {
  const CommandLine line = Parse({"m"}, {{"FARSPAN_GRPC_PROT", "6000"},
                                         {"FARSPAN_QQQQQQQQQQQQ", "1"},
                                         {"FARSPAN_SERVER", "127.0.0.1:50051"},
                                         {"FARSPAN_GRPC_PORT", "6001"}});
  EXPECT_THAT(line.errors, IsEmpty());
  EXPECT_THAT(line.warnings,
              ElementsAre(AllOf(HasSubstr("FARSPAN_GRPC_PROT "), HasSubstr("did you mean FARSPAN_GRPC_PORT?")),
                          AllOf(HasSubstr("FARSPAN_QQQQQQQQQQQQ "), HasSubstr("--help"))));
  EXPECT_EQ(line.config.grpc_port, 6001);
}

TEST(ConfigTest, SchedulingFlagsReachTheConfiguration) {
  const ServerConfig config = Parse({"m", "--max-itl-ms", "40", "--no-enable-prefix-caching", "--max-queue-seconds",
                                     "7", "--max-num-queued-reqs-per-tenant=9", "--trust-tenant-header"})
                                  .config;
  EXPECT_EQ(config.max_itl_ms, 40);
  EXPECT_FALSE(config.enable_prefix_caching);
  EXPECT_EQ(config.max_queue_seconds, 7);
  EXPECT_EQ(config.max_num_queued_reqs_per_tenant, 9);
  EXPECT_TRUE(config.trust_tenant_header);
  const ServerConfig defaults = Parse({"m"}).config;
  EXPECT_EQ(defaults.max_queue_seconds, 30);
  EXPECT_TRUE(defaults.enable_prefix_caching);
  EXPECT_FALSE(defaults.trust_tenant_header);
}

TEST(ConfigTest, SettingsAreCheckedTogether) {
  EXPECT_THAT(Parse({"m", "--grpc-port", "9000", "--metrics-port", "9000"}).errors,
              ElementsAre(HasSubstr("--metrics-port must differ")));
  EXPECT_THAT(Parse({"m", "--grpc-port", "0", "--metrics-port", "0"}).errors, IsEmpty());
  EXPECT_THAT(Parse({"m", "--max-num-queued-reqs", "8", "--max-num-queued-reqs-per-tenant", "9"}).errors,
              ElementsAre(AllOf(HasSubstr("-per-tenant"), HasSubstr("(8)"), HasSubstr("got 9"))));
  EXPECT_THAT(Parse({"m", "--max-num-seqs", "9", "--max-num-batched-tokens", "8"}).errors,
              ElementsAre(AllOf(HasSubstr("--max-num-seqs"), HasSubstr("(8)"), HasSubstr("got 9"))));
}

TEST(ConfigTest, WhatAStepHoldsDependsOnTheDeviceWhereNobodySays) {
  const auto limits = [](bool gpu, const std::vector<std::string>& arguments) {
    const CommandLine line = Parse(arguments);
    EXPECT_THAT(line.errors, IsEmpty());
    const BatchLimits on = BatchLimitsOn(gpu, line.config);
    return std::pair<int64_t, int64_t>(on.max_num_seqs, on.max_num_batched_tokens);
  };
  EXPECT_EQ(limits(true, {"m"}), (std::pair<int64_t, int64_t>(256, 8192)));
  EXPECT_EQ(limits(false, {"m"}), (std::pair<int64_t, int64_t>(64, 512)));
  EXPECT_EQ(limits(true, {"m", "--max-num-seqs", "9"}), (std::pair<int64_t, int64_t>(9, 8192)));
  EXPECT_EQ(limits(true, {"m", "--max-num-batched-tokens", "100"}), (std::pair<int64_t, int64_t>(100, 100)));
  EXPECT_EQ(limits(false, {"m", "--max-num-seqs", "1000"}), (std::pair<int64_t, int64_t>(1000, 1000)));
  EXPECT_EQ(limits(false, {"m", "--max-num-seqs", "3", "--max-num-batched-tokens", "4"}),
            (std::pair<int64_t, int64_t>(3, 4)));
}

TEST(ConfigTest, PrintConfigShowsWhatTheDeviceDecides) {
  const std::string text = ConfigText(WithDeviceChosen(Parse({"m", "--device", "cpu"})));
  EXPECT_THAT(text, HasSubstr("max-num-seqs = 64  # default\n"));
  EXPECT_THAT(text, HasSubstr("max-num-batched-tokens = 512  # default\n"));
  EXPECT_THAT(text, HasSubstr("block-size = 32  # default\n"));
  EXPECT_THAT(text, HasSubstr("max-num-queued-tokens = auto  # default\n")) << "the file alone says its context";
}

TEST(ConfigTest, PrintConfigShowsWhatTheSettingsComeToBeforeAModelIsLoaded) {
  const std::string text = ConfigText(WithDeviceChosen(Parse({"hash:context=1024", "--threads", "3"})));
  EXPECT_THAT(text, HasSubstr("threads = 3  # flag\n"));
  EXPECT_THAT(text, HasSubstr("max-model-len = 1024  # default\n"));
  EXPECT_THAT(text, HasSubstr("max-num-queued-tokens = 8192  # default\n"));
  EXPECT_THAT(text, HasSubstr("max-num-queued-reqs-per-tenant = 256  # default\n"));
  EXPECT_THAT(text, HasSubstr("served-model-name = hash  # default\n"));
  EXPECT_THAT(ConfigText(WithDeviceChosen(Parse({"m", "--max-model-len", "100"}))),
              HasSubstr("max-num-queued-tokens = 800  # default\n"));
  EXPECT_THAT(ConfigText(WithDeviceChosen(Parse({"m"}))), Not(HasSubstr("threads = auto")));
}

TEST(ConfigTest, AttentionPolicyIsTextOrABareName) {
  EXPECT_EQ(Parse({"m", "--attention-policy", "window { window_tokens: 256 }"})
                .config.attention_policy.window()
                .window_tokens(),
            256);
  EXPECT_TRUE(Parse({"m", "--attention-policy", "window"}).config.attention_policy.has_window());
  EXPECT_TRUE(Parse({"m", "--attention-policy", "quest"}).config.attention_policy.has_quest());
  for (const char* wrong : {"", "queest", "window {", "window { window_tokens: 0 }", "quest { block_tokens: 17 }"}) {
    EXPECT_THAT(Parse({"m", "--attention-policy", wrong}).errors, ElementsAre(HasSubstr("--attention-policy")))
        << wrong;
  }
}

TEST(ConfigTest, AnAttentionPolicyThatRequestsWouldBeRefusedForIsRefusedAtStart) {
  const std::pair<const char*, const char*> refused[] = {
      {"quest { block_tokens: 17 }", "quest.block_tokens: must be 16, 32 or 64 tokens, got 17"},
      {"quest { budget_tokens: 5 }", "quest.budget_tokens: must hold the sinks, the recent tokens and one block"}};
  for (const auto& [text, why] : refused) {
    EXPECT_THAT(Parse({"m", "--attention-policy", text}).errors,
                ElementsAre(HasSubstr(absl::StrCat("--attention-policy ", why))));
    EXPECT_THAT(Parse({"m", "--print-config"}, {{"FARSPAN_ATTENTION_POLICY", text}}).errors,
                ElementsAre(HasSubstr(absl::StrCat("FARSPAN_ATTENTION_POLICY ", why))));
  }
}

TEST(ConfigTest, ByteCountsTakeSuffixes) {
  const std::vector<std::pair<std::string, int64_t>> good = {
      {"65536", 65536}, {"64k", 65536}, {"64KiB", 65536}, {"1GiB", 1 << 30}, {"3gb", 3'000'000'000}};
  for (const auto& [text, bytes] : good) {
    EXPECT_EQ(Parse({"m", "--kv-cache-bytes", text}).config.kv_cache_bytes, bytes) << text;
  }
  for (const char* wrong : {"", "GiB", "-1", "1.5GiB", "9999999999GiB", "1 GiB", "1"}) {
    EXPECT_THAT(Parse({"m", "--kv-cache-bytes", wrong}).errors, SizeIs(1)) << wrong;
  }
}

TEST(ConfigTest, TheShareOfAGpusMemoryIsAboveZeroAndAtMostOne) {
  EXPECT_EQ(Parse({"m"}).config.gpu_memory_utilization, 0.9);
  EXPECT_EQ(Parse({"m", "--gpu-memory-utilization", "0.45"}).config.gpu_memory_utilization, 0.45);
  EXPECT_EQ(Parse({"m", "--gpu-memory-utilization", "1"}).config.gpu_memory_utilization, 1);
  for (const char* wrong : {"0", "1.01", "-1", "nan", "90%", ""}) {
    EXPECT_THAT(Parse({"m", "--gpu-memory-utilization", wrong}).errors, ElementsAre(HasSubstr("above 0 and at most 1")))
        << wrong;
  }
}

TEST(ConfigTest, IntegerFlagsHoldTheirRanges) {
  for (const Flag& flag : FlagTable()) {
    for (const char* wrong : {"-1", "99999999999999999999", "1e3", "0x10", " ", "nan"}) {
      ServerConfig config;
      if (!flag.value_name.empty() && (flag.value_name == "N" || flag.value_name == "PORT" ||
                                       flag.value_name == "SECONDS" || flag.value_name == "TOKENS")) {
        EXPECT_FALSE(flag.set(wrong, &config).ok()) << flag.name << " " << wrong;
      }
    }
  }
}

TEST(ConfigTest, ShownValuesCanBeSetAgain) {
  const ServerConfig defaults;
  for (const Flag& flag : FlagTable()) {
    const std::string shown = flag.show(defaults);
    if (shown.empty() || shown == "auto") continue;
    ServerConfig config;
    EXPECT_TRUE(flag.set(shown, &config).ok()) << flag.name << " = " << shown;
    EXPECT_EQ(flag.show(config), shown) << flag.name;
  }
}

TEST(ConfigTest, HelpNamesEveryFlagOnceAndTheExitCodes) {
  const std::string help = HelpText();
  std::set<std::string> names;
  for (const Flag& flag : FlagTable()) {
    EXPECT_TRUE(names.insert(std::string(flag.name)).second) << flag.name;
    EXPECT_THAT(help, HasSubstr("--" + std::string(flag.name)));
    EXPECT_FALSE(flag.doc.empty()) << flag.name;
  }
  EXPECT_THAT(help, HasSubstr("78"));
  EXPECT_EQ(Parse({"--help"}).action, CommandAction::kHelp);
  EXPECT_EQ(Parse({"--version"}).action, CommandAction::kVersion);
}

TEST(ConfigTest, PrintConfigShowsEveryFlagWithItsSource) {
  const CommandLine line = Parse({"--print-config", "--threads", "3"});
  EXPECT_EQ(line.action, CommandAction::kPrintConfig);
  EXPECT_THAT(line.errors, IsEmpty()) << "settings can be looked at without a model";
  EXPECT_THAT(line.values, SizeIs(FlagTable().size()));
  const std::string text = ConfigText(line.values);
  EXPECT_THAT(text, HasSubstr("threads = 3  # flag\n"));
  EXPECT_THAT(text, HasSubstr("grpc-port = 50051  # default\n"));
}

TEST(ConfigTest, LongAndBinaryValuesAreShownShortAndEscaped) {
  const CommandLine line = Parse({"m", "--grpc-port", std::string(1000, 'x') + "\n\x01"});
  ASSERT_THAT(line.errors, SizeIs(1));
  EXPECT_LT(line.errors[0].size(), 200u);
  EXPECT_THAT(Parse({"m", "--grpc-port", "1\n2"}).errors, ElementsAre(AllOf(HasSubstr("1\\n2"), Not(HasSubstr("\n")))));
}

}  // namespace
}  // namespace farspan
