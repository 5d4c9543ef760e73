// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/concurrent_streams.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention/registry.h"
#include "engine/base/mutex.h"
#include "google/protobuf/text_format.h"

namespace farspan {
namespace {

constexpr const char* kPolicies[] = {
    "dense { }",
    "window { sink_tokens: 4 window_tokens: 48 }",
    "quest { budget_ratio: 0.4 sink_tokens: 0 recent_tokens: 16 }",
};

// Cancels its request once it has had as many tokens as it wants. Thread-safe.
class StreamOutput final : public OutputSink {
 public:
  explicit StreamOutput(std::optional<size_t> cancel_at_tokens) : cancel_at_tokens_(cancel_at_tokens) {}

  void OnEvent(OutputEvent event) override {
    MutexLock lock(&mutex_);
    if (const auto* tokens = std::get_if<NewTokensEvent>(&event)) {
      tokens_.insert(tokens_.end(), tokens->tokens.begin(), tokens->tokens.end());
    } else if (auto* finished = std::get_if<FinishedEvent>(&event)) {
      EXPECT_FALSE(finished_.has_value());
      finished_ = std::move(*finished);
    }
    if (handle_ != nullptr && cancel_at_tokens_ && tokens_.size() >= *cancel_at_tokens_) handle_->Cancel();
  }
  void SetHandle(std::shared_ptr<RequestHandle> handle) {
    MutexLock lock(&mutex_);
    handle_ = std::move(handle);
  }
  std::vector<TokenId> tokens() const {
    MutexLock lock(&mutex_);
    return tokens_;
  }
  std::optional<FinishedEvent> finished() const {
    MutexLock lock(&mutex_);
    return finished_;
  }

 private:
  const std::optional<size_t> cancel_at_tokens_;
  mutable Mutex mutex_;
  std::shared_ptr<RequestHandle> handle_ ABSL_GUARDED_BY(mutex_);
  std::vector<TokenId> tokens_ ABSL_GUARDED_BY(mutex_);
  std::optional<FinishedEvent> finished_ ABSL_GUARDED_BY(mutex_);
};

struct Stream {
  Request request;
  std::optional<size_t> cancel_at_tokens;
  std::optional<SteadyDuration> deadline;
};

std::vector<Stream> DrawStreams(const ModelShape& shape, const StreamsOptions& options) {
  std::mt19937 random(64);
  const auto between = [&random](int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
  };
  std::vector<TokenId> document;
  for (int64_t i = 0; i < options.max_prompt_tokens; ++i) {
    document.push_back(static_cast<TokenId>(between(0, shape.vocab_size - 1)));
  }
  std::vector<Stream> streams;
  for (int i = 0; i < options.num_streams; ++i) {
    Stream& stream = streams.emplace_back();
    Request& request = stream.request;
    request.id = absl::StrCat("stream", i);
    const int64_t length = between(options.min_prompt_tokens, options.max_prompt_tokens);
    request.prompt.assign(document.begin(), document.begin() + between(0, length));
    while (std::ssize(request.prompt) < length) {
      request.prompt.push_back(static_cast<TokenId>(between(0, shape.vocab_size - 1)));
    }
    request.stop.max_tokens = between(options.min_output_tokens, options.max_output_tokens);
    request.sampling.temperature = 0;
    request.priority = static_cast<int>(between(-1, 1));
    request.tenant = absl::StrCat("tenant", between(0, 2));
    v1::AttentionSpec spec;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(kPolicies[i % std::ssize(kPolicies)], &spec));
    request.policy = *BuiltinPolicies().Create(spec, shape);
    if (between(0, 4) == 0) stream.cancel_at_tokens = static_cast<size_t>(between(0, request.stop.max_tokens - 1));
    if (between(0, 4) == 0) stream.deadline = options.shortest_deadline * between(1, 8);
  }
  return streams;
}

std::shared_ptr<StreamOutput> Submit(Engine* engine, Request request, std::optional<size_t> cancel_at_tokens) {
  auto output = std::make_shared<StreamOutput>(cancel_at_tokens);
  auto handle = engine->Submit(std::move(request), output);
  EXPECT_TRUE(handle.ok()) << handle.status();
  if (handle.ok()) output->SetHandle(*handle);
  return output;
}

std::vector<std::vector<TokenId>> RunEachAlone(Engine* engine, const std::vector<Stream>& streams) {
  std::vector<std::vector<TokenId>> answers;
  for (const Stream& stream : streams) {
    const auto output = Submit(engine, stream.request, std::nullopt);
    EXPECT_TRUE(engine->WaitIdle(kNoDeadline));
    answers.push_back(output->tokens());
  }
  return answers;
}

// Bytes of a quarter of the pages that all streams need together, and of no fewer than the largest needs.
int64_t QuarterOfTheBytes(const std::vector<Stream>& streams, const Engine& engine) {
  int64_t sum = 0;
  int64_t largest = 0;
  for (const Stream& stream : streams) {
    const int64_t pages = stream.request.policy->MaxPages(
        std::ssize(stream.request.prompt) + stream.request.stop.max_tokens, engine.config().max_num_batched_tokens);
    sum += pages;
    largest = std::max(largest, pages);
  }
  return std::max(sum / 4, largest) * engine.shape().kv_bytes_per_page();
}

void CheckAnswer(const Stream& stream, const StreamOutput& output, const std::vector<TokenId>& alone,
                 StreamsResult* result) {
  SCOPED_TRACE(stream.request.id + " " + stream.request.policy->Describe());
  const std::optional<FinishedEvent> finished = output.finished();
  ASSERT_TRUE(finished.has_value());
  result->num_preemptions += finished->statistics.preemptions;
  const std::vector<TokenId> tokens = output.tokens();
  if (finished->status.ok()) {
    ++result->num_completed;
    EXPECT_EQ(tokens, alone);
    return;
  }
  ++result->num_cut;
  EXPECT_TRUE(stream.cancel_at_tokens || stream.deadline) << finished->status;
  ASSERT_LE(tokens.size(), alone.size());
  EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), alone.begin()));
}

}  // namespace

StreamsResult CompareStreamsWithEachAlone(const EngineMaker& make_engine, const StreamsOptions& options) {
  EngineOptions engine_options;
  engine_options.page_tokens = 16;
  engine_options.engine = {.max_num_seqs = options.num_streams, .prefix_caching = false};
  const std::unique_ptr<Engine> roomy = make_engine(engine_options);
  roomy->Start();
  const std::vector<Stream> streams = DrawStreams(roomy->shape(), options);
  const std::vector<std::vector<TokenId>> alone = RunEachAlone(roomy.get(), streams);

  engine_options.kv_cache_bytes = QuarterOfTheBytes(streams, *roomy);
  engine_options.engine.prefix_caching = true;
  engine_options.engine.poison_freed_pages = true;
  const std::unique_ptr<Engine> engine = make_engine(engine_options);
  std::vector<std::shared_ptr<StreamOutput>> outputs;
  for (const Stream& stream : streams) {
    Request request = stream.request;
    request.arrival = Clock::Real()->Now();
    if (stream.deadline) request.deadline = request.arrival + *stream.deadline;
    outputs.push_back(Submit(engine.get(), std::move(request), stream.cancel_at_tokens));
  }
  // Not before all wait: how many compete for pages must not depend on how fast this thread submits.
  engine->Start();
  EXPECT_TRUE(engine->WaitIdle(kNoDeadline));
  EXPECT_EQ(engine->stats().kv_pages_used, 0);
  EXPECT_EQ(engine->stats().requests_queued, 0);
  StreamsResult result;
  for (size_t i = 0; i < streams.size(); ++i) CheckAnswer(streams[i], *outputs[i], alone[i], &result);
  return result;
}

}  // namespace farspan
