// SPDX-License-Identifier: Apache-2.0
// farspan-bench-engine: prefill and decode rates of the engine in process, at a given depth, without gRPC.
//
//   farspan-bench-engine --model PATH|random:SHAPE [--device auto|cpu|cuda:N] [--threads N]
//                        [--cpu-isa auto|portable|avx2|avx512] [--kv-cache-dtype bf16|f32|fp16|fp8]
//                        [--attention 'window { }']... [--depth N] [--prefill N] [--decode N] [--batch N]
//                        [--rounds N] [--at-once N] [--steps-in-flight N] [--max-model-len N] [--json]
//
// Prefill is one chunk of at most --prefill tokens that starts at --depth, under the first policy; decode is --batch
// sequences of one depth together. With several policies each round decodes under one after the other, so that all of
// them meet the same load of the machine; the medians are printed, with the smallest and the largest. Prompts that a
// round shares with the one before come from the prefix cache.
//
// --at-once N instead submits that many requests of --depth prompt tokens, no two alike, and --decode more at one time,
// as many rounds, and says how long they took in all; --prefill is then what one step may compute.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/attention/registry.h"
#include "engine/backend/memory_text.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/engine_factory.h"
#include "google/protobuf/text_format.h"

namespace farspan {
namespace {

[[noreturn]] void Fail(const std::string& problem) {
  std::fprintf(stderr, "farspan-bench-engine: %s\n", problem.c_str());
  std::exit(64);
}

struct Options {
  std::map<std::string, std::string> text = {
      {"model", ""},         {"device", "auto"},         {"threads", "2"},
      {"cpu-isa", "auto"},   {"kv-cache-dtype", "bf16"}, {"depth", "0"},
      {"prefill", "512"},    {"decode", "64"},           {"batch", "1"},
      {"rounds", "1"},       {"at-once", "0"},           {"steps-in-flight", "2"},
      {"max-model-len", "0"}};
  std::vector<std::string> attention;
  bool json = false;

  int64_t number(const std::string& name) const {
    int64_t value = 0;
    if (!absl::SimpleAtoi(text.at(name), &value) || value < 0) Fail(absl::StrCat("--", name, ": must be a count"));
    return value;
  }
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json") {
      options.json = true;
      continue;
    }
    if (flag == "--attention" && i + 1 < argc) {
      options.attention.emplace_back(argv[++i]);
      continue;
    }
    const auto place = flag.substr(0, 2) == "--" ? options.text.find(flag.substr(2)) : options.text.end();
    if (place == options.text.end() || i + 1 == argc) Fail(absl::StrCat("unknown or incomplete flag ", flag));
    place->second = argv[++i];
  }
  if (options.text["model"].empty()) Fail("--model: must be given");
  if (options.attention.empty()) options.attention.emplace_back("dense { }");
  return options;
}

// When each chunk of the prompt was done and when each token came.
class TimingSink final : public OutputSink {
 public:
  void OnEvent(OutputEvent event) override {
    const SteadyTime now = Clock::Real()->Now();
    if (const auto* progress = std::get_if<PrefillProgressEvent>(&event)) chunk_times_[progress->done_tokens] = now;
    if (std::holds_alternative<NewTokensEvent>(event)) token_times_.push_back(now);
    if (const auto* finished = std::get_if<FinishedEvent>(&event)) {
      FARSPAN_CHECK(finished->status.ok(), finished->status.ToString());
      start_ = finished->statistics.first_step;
    }
  }

  double SecondsOfChunk(int64_t begin, int64_t end) const {
    const SteadyTime from = begin == 0 ? start_ : chunk_times_.at(begin);
    return std::chrono::duration<double>(chunk_times_.at(end) - from).count();
  }
  const std::vector<SteadyTime>& token_times() const { return token_times_; }

 private:
  SteadyTime start_{};
  std::map<int64_t, SteadyTime> chunk_times_;
  std::vector<SteadyTime> token_times_;
};

// The largest chunk of at most `wanted` tokens of which `depth` is a multiple.
int64_t ChunkTokens(int64_t depth, int64_t wanted) {
  int64_t chunk = std::max<int64_t>(wanted, 1);
  while (depth % chunk != 0) --chunk;
  return chunk;
}

KvDtype DtypeOf(const std::string& name) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kF32, KvDtype::kF16, KvDtype::kF8E4M3}) {
    if (name == KvDtypeName(dtype)) return dtype;
  }
  Fail("--kv-cache-dtype: must be bf16, f32, fp16 or fp8");
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngineOf(const std::string& model, const EngineOptions& options,
                                                       MetricsSink* metrics) {
  if (IsRandomModelName(model)) {
    FARSPAN_ASSIGN_OR_RETURN(const RandomModelOptions random, ParseRandomModelName(model));
    return CreateEngine(random, options, metrics);
  }
  FARSPAN_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
  return CreateEngine(file, options, metrics);
}

std::unique_ptr<Engine> MakeEngine(const Options& options, int64_t chunk, MetricsSink* metrics) {
  const std::map<std::string, CpuIsa> isas = {
      {"auto", CpuIsa::kAuto}, {"portable", CpuIsa::kPortable}, {"avx2", CpuIsa::kAvx2}, {"avx512", CpuIsa::kAvx512}};
  const auto isa = isas.find(options.text.at("cpu-isa"));
  if (isa == isas.end()) Fail("--cpu-isa: must be auto, portable, avx2 or avx512");
  EngineOptions engine_options;
  engine_options.device = options.text.at("device");
  engine_options.cpu = {.isa = isa->second, .num_threads = static_cast<int>(options.number("threads"))};
  engine_options.kv_dtype = DtypeOf(options.text.at("kv-cache-dtype"));
  engine_options.max_context_tokens = options.number("max-model-len");
  engine_options.engine = {.max_num_seqs = std::min<int64_t>(chunk, std::max<int64_t>(options.number("at-once"), 64)),
                           .max_num_batched_tokens = chunk,
                           .max_num_queued_requests = std::max<int64_t>(options.number("at-once"), 256),
                           .max_num_queued_tokens = int64_t{1} << 24,
                           .max_num_queued_requests_per_tenant = std::max<int64_t>(options.number("at-once"), 256),
                           .max_steps_in_flight = options.number("steps-in-flight")};
  auto engine = CreateEngineOf(options.text.at("model"), engine_options, metrics);
  if (!engine.ok()) Fail(engine.status().ToString());
  std::fprintf(stderr, "%s: %lld pages; %s\n", std::string((*engine)->backend().name()).c_str(),
               static_cast<long long>((*engine)->stats().kv_pages_total), HeldText((*engine)->backend()).c_str());
  return *std::move(engine);
}

std::shared_ptr<TimingSink> Submit(Engine& engine, std::shared_ptr<const AttentionPolicy> policy, int64_t prompt_tokens,
                                   int64_t decode_tokens, int64_t salt) {
  std::vector<TokenId> prompt;
  for (int64_t i = 0; i < prompt_tokens; ++i) {
    prompt.push_back(static_cast<TokenId>((i * 7919 + salt * 104729 + 17) % engine.shape().vocab_size));
  }
  Request request;
  request.id = "bench";
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.stop.max_tokens = decode_tokens;
  request.policy = std::move(policy);
  request.arrival = Clock::Real()->Now();
  auto sink = std::make_shared<TimingSink>();
  auto handle = engine.Submit(std::move(request), sink);
  if (!handle.ok()) Fail(handle.status().ToString());
  return sink;
}

// Tokens a second while every sequence of the batch decodes.
double DecodeRate(const std::vector<std::shared_ptr<TimingSink>>& sinks) {
  SteadyTime begin{};
  SteadyTime end = kNoDeadline;
  for (const auto& sink : sinks) {
    begin = std::max(begin, sink->token_times().front());
    end = std::min(end, sink->token_times().back());
  }
  int64_t tokens = 0;
  for (const auto& sink : sinks) {
    for (const SteadyTime time : sink->token_times()) tokens += time > begin && time <= end ? 1 : 0;
  }
  return static_cast<double>(tokens) / std::chrono::duration<double>(end - begin).count();
}

std::shared_ptr<const AttentionPolicy> MakePolicy(const std::string& text, const ModelShape& shape) {
  v1::AttentionSpec spec;
  if (!google::protobuf::TextFormat::ParseFromString(text, &spec)) {
    Fail("--attention: must be an AttentionSpec in protobuf text format");
  }
  auto policy = BuiltinPolicies().Create(spec, shape);
  if (!policy.ok()) Fail(policy.status().ToString());
  return *policy;
}

double MeasureDecode(const Options& options, Engine& engine, const std::shared_ptr<const AttentionPolicy>& policy) {
  std::vector<std::shared_ptr<TimingSink>> decodes;
  for (int64_t i = 0; i < options.number("batch"); ++i) {
    const int64_t prompt_tokens = std::max<int64_t>(options.number("depth"), 1);
    decodes.push_back(Submit(engine, policy, prompt_tokens, options.number("decode"), i));
  }
  engine.WaitIdle(kNoDeadline);
  return DecodeRate(decodes);
}

void Print(const Options& options, const Engine& engine, int64_t chunk, double prefill_rate,
           const std::string& attention, std::vector<double> rates) {
  std::sort(rates.begin(), rates.end());
  const char* format =
      options.json
          ? "{\"backend\":\"%s\",\"attention\":\"%s\",\"depth\":%lld,\"prefill_tokens\":%lld,"
            "\"prefill_tokens_per_second\":%.2f,\"batch\":%lld,\"decode_tokens_per_second\":%.2f,"
            "\"decode_smallest\":%.2f,\"decode_largest\":%.2f,\"rounds\":%zu}\n"
          : "%s %s depth %lld: prefill of %lld tokens %.1f/s, decode of batch %lld %.1f tokens/s (%.1f to %.1f, "
            "%zu rounds)\n";
  std::printf(format, std::string(engine.backend().name()).c_str(), attention.c_str(),
              static_cast<long long>(options.number("depth")), static_cast<long long>(chunk), prefill_rate,
              static_cast<long long>(options.number("batch")), rates[rates.size() / 2], rates.front(), rates.back(),
              rates.size());
}

// From the first of the requests until the last has ended.
void MeasureAtOnce(const Options& options, Engine& engine, const std::shared_ptr<const AttentionPolicy>& policy) {
  for (int64_t round = 0; round < std::max<int64_t>(options.number("rounds"), 1); ++round) {
    const int64_t steps = engine.stats().steps;
    const SteadyTime begin = Clock::Real()->Now();
    std::vector<std::shared_ptr<TimingSink>> sinks;
    for (int64_t i = 0; i < options.number("at-once"); ++i) {
      const int64_t salt = round * options.number("at-once") + i;
      sinks.push_back(Submit(engine, policy, options.number("depth"), options.number("decode"), salt));
    }
    engine.WaitIdle(kNoDeadline);
    const std::chrono::duration<double> all = Clock::Real()->Now() - begin;
    SteadyTime last_first_token{};
    for (const auto& sink : sinks) last_first_token = std::max(last_first_token, sink->token_times().front());
    const std::chrono::duration<double> prefill = last_first_token - begin;
    std::printf("%s %lld at once x (%lld + %lld): %.3f s, of it %.3f s until each had a token, %lld steps\n",
                std::string(engine.backend().name()).c_str(), static_cast<long long>(options.number("at-once")),
                static_cast<long long>(options.number("depth")), static_cast<long long>(options.number("decode")),
                all.count(), prefill.count(), static_cast<long long>(engine.stats().steps - steps));
    std::fflush(stdout);
  }
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  const int64_t depth = options.number("depth");
  const bool at_once = options.number("at-once") > 0;
  const int64_t chunk = at_once ? options.number("prefill") : ChunkTokens(depth, options.number("prefill"));
  NullMetricsSink metrics;
  const std::unique_ptr<Engine> engine = MakeEngine(options, chunk, &metrics);
  std::vector<std::shared_ptr<const AttentionPolicy>> policies;
  for (const std::string& attention : options.attention) policies.push_back(MakePolicy(attention, engine->shape()));
  engine->Start();

  Submit(*engine, policies[0], at_once ? depth : chunk, 4, 99);  // warms caches and threads
  engine->WaitIdle(kNoDeadline);
  if (at_once) {
    MeasureAtOnce(options, *engine, policies[0]);
    return 0;
  }
  const auto prefill = Submit(*engine, policies[0], depth + chunk, 1, 0);
  engine->WaitIdle(kNoDeadline);
  std::vector<std::vector<double>> rates(policies.size());
  for (int64_t round = 0; round < std::max<int64_t>(options.number("rounds"), 1); ++round) {
    for (size_t i = 0; i < policies.size(); ++i) rates[i].push_back(MeasureDecode(options, *engine, policies[i]));
  }
  const double prefill_rate = static_cast<double>(chunk) / prefill->SecondsOfChunk(depth, depth + chunk);
  for (size_t i = 0; i < policies.size(); ++i) {
    Print(options, *engine, chunk, prefill_rate, options.attention[i], rates[i]);
  }
  return 0;
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) { return farspan::Main(argc, argv); }
