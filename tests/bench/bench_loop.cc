// SPDX-License-Identifier: Apache-2.0
// farspan-bench-loop: what a step costs the host where the device takes no time.
//
//   farspan-bench-loop [--rows N] [--context N] [--tokens N] [--page-tokens N] [--attention 'quest { }']
//
// That many requests with prompts of --context tokens decode --tokens each, all together, on a model that computes
// nothing; the time is that of planning, building and applying a step, without copies to a device.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "engine/attention/registry.h"
#include "engine/backend/cpu_backend.h"
#include "engine/base/check.h"
#include "engine/engine.h"
#include "google/protobuf/text_format.h"

namespace farspan {
namespace {

constexpr int64_t kChunkTokens = 8192;

class NullModel final : public Model {
 public:
  explicit NullModel(const ModelShape& shape) : shape_(shape) {}
  const ModelShape& shape() const override { return shape_; }
  const ModelInfo& info() const override { return info_; }
  int64_t max_batch_rows() const override { return kChunkTokens; }
  absl::Status Forward(const ForwardBatch&, KvCache&) override { return absl::OkStatus(); }
  absl::StatusOr<std::span<float>> Logits(int64_t, int64_t) override { return std::span<float>(); }
  absl::StatusOr<std::vector<DrawResult>> Draw(std::span<const DrawRequest> requests) override {
    return std::vector<DrawResult>(requests.size(), DrawnToken{.token = 1, .logprobs = std::nullopt});
  }

 private:
  const ModelShape shape_;
  const ModelInfo info_;
};

class NullSink final : public OutputSink {
 public:
  void OnEvent(OutputEvent) override {}
};

int Main(int argc, char** argv) {
  std::map<std::string, std::string> options = {{"--rows", "256"},
                                                {"--context", "512"},
                                                {"--tokens", "128"},
                                                {"--page-tokens", "64"},
                                                {"--attention", "dense { }"}};
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  const auto number = [&options](const char* name) {
    int64_t value = 0;
    FARSPAN_CHECK(absl::SimpleAtoi(options.at(name), &value) && value > 0, name);
    return value;
  };
  const int64_t rows = number("--rows"), context = number("--context"), tokens = number("--tokens");
  const ModelShape shape = {.num_layers = 1,
                            .num_heads = 1,
                            .num_kv_heads = 1,
                            .head_dim = 8,
                            .max_context_tokens = context + tokens,
                            .vocab_size = 1000,
                            .page_tokens = number("--page-tokens"),
                            .kv_dtype = KvDtype::kBf16};
  NullMetricsSink metrics;
  EngineParts parts;
  parts.backend = *CpuBackend::Create({});
  parts.model = std::make_unique<NullModel>(shape);
  const int64_t pages = rows * ((context + tokens) / shape.page_tokens + 2);
  parts.kv_cache = *KvCache::Create(shape, pages, parts.backend.get(), parts.backend->caps());
  parts.metrics = &metrics;
  v1::AttentionSpec spec;
  FARSPAN_CHECK(google::protobuf::TextFormat::ParseFromString(options.at("--attention"), &spec));
  const std::shared_ptr<const AttentionPolicy> policy = *BuiltinPolicies().Create(spec, shape);
  auto engine = *Engine::Create({.max_num_seqs = rows,
                                 .max_num_batched_tokens = kChunkTokens,
                                 .max_num_queued_requests = rows,
                                 .max_num_queued_tokens = rows * context,
                                 .max_num_queued_requests_per_tenant = rows},
                                std::move(parts));
  for (int64_t i = 0; i < rows; ++i) {
    Request request;
    for (int64_t t = 0; t < context; ++t) request.prompt.push_back(static_cast<TokenId>((t * 31 + i) % 997));
    request.sampling.temperature = 0;
    request.stop.max_tokens = tokens;
    request.policy = policy;
    FARSPAN_CHECK(engine->Submit(std::move(request), std::make_shared<NullSink>()).ok());
  }
  std::vector<double> microseconds;
  for (bool goes_on = true; goes_on;) {
    const SteadyTime begin = Clock::Real()->Now();
    goes_on = engine->TEST_Step();
    const std::chrono::duration<double, std::micro> elapsed = Clock::Real()->Now() - begin;
    if (engine->stats().requests_queued == 0) microseconds.push_back(elapsed.count());
  }
  std::sort(microseconds.begin(), microseconds.end());
  std::printf("%lld rows at %lld tokens: %.1f us a step of the host (%.1f to %.1f, %zu steps)\n",
              static_cast<long long>(rows), static_cast<long long>(context), microseconds[microseconds.size() / 2],
              microseconds.front(), microseconds.back(), microseconds.size());
  return 0;
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) { return farspan::Main(argc, argv); }
