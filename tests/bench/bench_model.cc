// SPDX-License-Identifier: Apache-2.0
// farspan-bench-model: what one step of a model takes on a device, without the engine's loop: passes are built by hand
// over KV pages that a generator has filled, so that decoding at any depth needs no prefill.
//
//   farspan-bench-model --model random:llama-3.1-8b|PATH [--device auto|cpu|cuda:N] [--threads N]
//                       [--attention 'quest { }']... [--batch N,...] [--context N,...] [--steps N] [--warmups N]
//                       [--prefill N,...] [--depth N] [--chunk N] [--decode-after N] [--kv-cache-dtype T]
//                       [--block-size N] [--cold] [--memory] [--json]
//
// A decode step is Forward and a greedy Draw of `batch` sequences, each with `context` tokens of its own, its query
// included; no context is 0. A prefill computes N tokens behind `depth` filled ones in chunks, to the first token, and
// says at which rate attention ran, causal operations counted as half; --decode-after measures that many steps behind
// it. Medians, with the smallest and the largest. With --cold, 256 MiB are copied before each step, which pushes
// everything out of caches. --memory shows what is held of each kind beside what the model's shape says.
//
// A context of a million tokens, most of it filled by the generator:
//   --model random:llama-3.1-8b,context=1048576 --kv-cache-dtype fp8 --context 0 --depth 982976 --prefill 65536
//   --chunk 8448 --decode-after 64 --warmups 0 --steps 1 --memory
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/attention/registry.h"
#include "engine/backend/device.h"
#include "engine/backend/memory_text.h"
#include "engine/base/check.h"
#include "engine/base/math.h"
#include "engine/batch_builder.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/gguf.h"
#include "engine/model/model_registry.h"
#include "google/protobuf/text_format.h"
#include "tests/bench/bench_model_options.h"

namespace farspan {
namespace {

using Policy = std::shared_ptr<const AttentionPolicy>;

struct Measurement {
  double median_ms = 0, least_ms = 0, most_ms = 0;
  double attention_ms = 0, attention_tflops = 0;  // of a prefill; the rate where every query reads all before it
};

Measurement MeasurementOf(std::vector<double> milliseconds) {
  std::sort(milliseconds.begin(), milliseconds.end());
  return {.median_ms = milliseconds[milliseconds.size() / 2],
          .least_ms = milliseconds.front(),
          .most_ms = milliseconds.back()};
}

// A device with a model and filled pages.
class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    device_ =
        Require(OpenDevice(options.text.at("device"), {.num_threads = static_cast<int>(options.number("threads"))}));
    LoadWeights();
    const ModelShape& shape = model_->shape();
    const int64_t num_pages = NumPages(shape);
    kv_ = Require(KvCache::Create(shape, num_pages, backend(), Features()));
    pool_ = std::make_unique<PagePool>(num_pages);
    FillPages();
    if (options.cold) {
      for (auto* buffer : {&cold_from_, &cold_to_})
        *buffer = Require(backend()->Allocate(kColdBytes, MemoryKind::kWorkspace));
    }
    std::fprintf(stderr, "%s; %s; weights %.2f GB, KV pages %.2f GB, side data %.2f GB\n", device_.reason.c_str(),
                 options.text.at("model").c_str(), Gigabytes(MemoryKind::kWeights), Gigabytes(MemoryKind::kKvPages),
                 Gigabytes(MemoryKind::kSideData));
  }

  Policy MakePolicy(const std::string& text) const {
    v1::AttentionSpec spec;
    if (!google::protobuf::TextFormat::ParseFromString(text, &spec)) {
      Fail("--attention: must be an AttentionSpec in protobuf text format");
    }
    Policy policy = Require(BuiltinPolicies().Create(spec, model_->shape()));
    if (!Covers(backend()->caps(), policy->needs())) Fail(absl::StrCat("the device does not run ", text));
    return policy;
  }

  Measurement Decode(const AttentionPolicy& policy, int64_t batch_size, int64_t context) {
    const std::vector<BlockTable> tables = TakePages(batch_size, context);
    const ForwardBatch batch = DecodeBatch(policy, tables, context, context - 1);
    return Measure([&] { Step(batch); });
  }

  // Steps one after the other behind a prefill.
  Measurement DecodeAfter(const AttentionPolicy& policy, int64_t prompt_tokens, int64_t num_steps) {
    const std::vector<BlockTable> tables = TakePages(1, prompt_tokens + num_steps);
    std::vector<double> milliseconds;
    for (int64_t step = 1; step <= num_steps; ++step) {
      const ForwardBatch batch = DecodeBatch(policy, tables, prompt_tokens + step, prompt_tokens);
      milliseconds.push_back(Timed([&] { Step(batch); }));
    }
    return MeasurementOf(std::move(milliseconds));
  }

  // The whole prompt, its chunks one after the other, to the first token.
  Measurement Prefill(const AttentionPolicy& policy, int64_t prompt_tokens, int64_t depth, int64_t chunk) {
    const int64_t end = depth + prompt_tokens;
    const std::vector<BlockTable> tables = TakePages(1, end);
    std::vector<ForwardBatch> batches;
    bool is_dense = true;
    for (int64_t begin = depth; begin < end; begin += chunk) {
      const TokenRange queries = {.begin = begin, .end = std::min(end, begin + chunk)};
      ForwardBatch& batch = batches.emplace_back();
      const AttentionPlan plan = policy.Plan({.queries = queries, .prompt_tokens = end});
      is_dense &= plan.reads.size() == 1 && plan.left_window_tokens == kUnboundedTokens;
      AppendPrefillAttention(plan, queries, tables[0], model_->shape(), &batch);
      for (int64_t position = queries.begin; position < queries.end; ++position) AppendRow(position, tables[0], &batch);
      if (queries.end == end) batch.logit_rows.push_back(queries.size() - 1);
    }
    const SteadyDuration before = backend()->OpTime(TimedOp::kPrefillAttention);
    Measurement measured = Measure([&] {
      for (const ForwardBatch& batch : batches) Step(batch);
    });
    const std::chrono::duration<double, std::milli> attention = backend()->OpTime(TimedOp::kPrefillAttention) - before;
    const auto num_runs = static_cast<double>(options_.number("warmups") + NumSteps());
    measured.attention_ms = attention.count() / num_runs;
    const ModelShape& shape = model_->shape();
    const auto keys = static_cast<double>(prompt_tokens) * (static_cast<double>(depth + end) / 2);
    const double operations = 4 * keys * static_cast<double>(shape.head_dim * shape.num_heads * shape.num_layers);
    if (is_dense && measured.attention_ms > 0) measured.attention_tflops = operations / measured.attention_ms / 1e9;
    return measured;
  }

  // What is held, and of what the shape decides also what it should be.
  void PrintMemory() const {
    const ModelShape& shape = model_->shape();
    const int64_t page_bytes =
        shape.page_tokens * shape.num_layers * shape.num_kv_heads * 2 * shape.head_dim * KvElementBytes(shape.kv_dtype);
    const int64_t formulas[kNumMemoryKinds] = {model_->info().weight_bytes, kv_->num_pages() * page_bytes,
                                               kv_->num_pages() * KvCache::SideDataBytesPerPage(shape, Features()), -1,
                                               -1};
    for (int i = 0; i < kNumMemoryKinds; ++i) {
      const auto kind = static_cast<MemoryKind>(i);
      std::printf("memory  %-24s %15lld bytes", std::string(MemoryKindName(kind)).c_str(),
                  static_cast<long long>(backend()->MemoryBytes(kind)));
      if (formulas[i] >= 0) std::printf(", by the shape %15lld", static_cast<long long>(formulas[i]));
      std::printf("\n");
    }
    std::printf("memory  %-24s %15lld bytes; pages of %lld tokens in %s: %lld\n", "all",
                static_cast<long long>(HeldBytes(*backend())), static_cast<long long>(shape.page_tokens),
                KvDtypeName(shape.kv_dtype), static_cast<long long>(kv_->num_pages()));
    std::fflush(stdout);
  }

  std::string_view backend_name() const { return device_.backend->name(); }

 private:
  static constexpr int64_t kColdBytes = int64_t{256} << 20;

  // A row a table, whose query is the last of `context` tokens.
  ForwardBatch DecodeBatch(const AttentionPolicy& policy, const std::vector<BlockTable>& tables, int64_t context,
                           int64_t prompt_tokens) const {
    ForwardBatch batch;
    for (size_t i = 0; i < tables.size(); ++i) {
      const TokenRange query = {.begin = context - 1, .end = context};
      const AttentionPlan plan = policy.Plan({.queries = query, .prompt_tokens = prompt_tokens});
      AppendDecodeAttention(plan, static_cast<int64_t>(i), query, tables[i], model_->shape(), &batch);
      AppendRow(context - 1, tables[i], &batch);
      batch.logit_rows.push_back(static_cast<int64_t>(i));
    }
    return batch;
  }

  int64_t NumSteps() const { return std::max<int64_t>(options_.number("steps"), 1); }

  Backend* backend() const { return device_.backend.get(); }
  double Gigabytes(MemoryKind kind) const { return static_cast<double>(backend()->MemoryBytes(kind)) / 1e9; }

  void LoadWeights() {
    const std::string& name = options_.text.at("model");
    const int64_t page_tokens = options_.number("block-size");
    int64_t sequences = 1;
    for (const int64_t batch : options_.numbers("batch")) sequences = std::max(sequences, batch);
    const int64_t chunk = options_.text.at("prefill").empty() ? 1 : options_.number("chunk");
    const ModelOptions model_options = {.max_batch_rows = std::max(chunk, sequences),
                                        .max_sequences = sequences,
                                        .page_tokens = page_tokens > 0 ? page_tokens : device_.default_page_tokens,
                                        .kv_dtype = DtypeOf(options_.text.at("kv-cache-dtype"))};
    model_ = IsRandomModelName(name) ? Require(LoadModel(Require(ParseRandomModelName(name)), backend(), model_options))
                                     : Require(LoadModel(name, backend(), model_options));
  }

  // The selectors that any of the policies needs.
  PlanFeatures Features() const {
    PlanFeatures features = PlanFeatures::kNone;
    for (const std::string& text : options_.attention) features = features | MakePolicy(text)->needs();
    return features;
  }

  int64_t NumPages(const ModelShape& shape) const {
    int64_t pages = 1;
    for (const int64_t batch : options_.numbers("batch")) {
      for (const int64_t context : options_.numbers("context")) {
        pages = std::max(pages, batch * CeilDiv(context, shape.page_tokens));
      }
    }
    for (const int64_t prefill : options_.numbers("prefill")) {
      const int64_t tokens = options_.number("depth") + prefill + options_.number("decode-after");
      pages = std::max(pages, CeilDiv(tokens, shape.page_tokens));
    }
    return pages;
  }

  void FillPages() {
    for (int64_t i = 0; i < model_->shape().num_layers; ++i) {
      const kernels::KvLayerView layer = kv_->layer(i);
      backend()->FillRandom({.data = layer.data,
                             .format = FormatOf(layer.element),
                             .num_values = layer.num_pages * layer.page_elements(),
                             .key = 0x6b76 + static_cast<uint64_t>(i),
                             .exponent = 1});
    }
    Require(backend()->Wait(backend()->Submit()));
  }

  std::vector<BlockTable> TakePages(int64_t sequences, int64_t tokens) {
    std::vector<BlockTable> tables;
    for (int64_t i = 0; i < sequences; ++i) {
      BlockTable& table = tables.emplace_back(model_->shape().page_tokens);
      for (int64_t page = table.PagesMissing(tokens); page > 0; --page) table.Append(*pool_->Take());
    }
    return tables;
  }

  void AppendRow(int64_t position, const BlockTable& pages, ForwardBatch* batch) const {
    const int64_t token = (position * 7919 + batch->num_rows() * 104729 + 17) % model_->shape().vocab_size;
    batch->token_ids.push_back(static_cast<TokenId>(token));
    batch->positions.push_back(position);
    batch->kv_slots.push_back({.page = static_cast<int32_t>(pages.page_of(position)),
                               .token = static_cast<int32_t>(position % pages.page_tokens())});
  }

  void Step(const ForwardBatch& batch) {
    std::vector<DrawRequest> draws(batch.logit_rows.size());
    for (size_t i = 0; i < draws.size(); ++i) {
      draws[i].logit_row = static_cast<int64_t>(i);
      draws[i].sampling.temperature = 0;
    }
    model_->BeginStep(batch, draws, *kv_);
    for (const DrawResult& result : Require(model_->EndStep())) Require(result.status());
  }

  static double Timed(const std::function<void()>& step) {
    const SteadyTime begin = Clock::Real()->Now();
    step();
    const std::chrono::duration<double, std::milli> elapsed = Clock::Real()->Now() - begin;
    return elapsed.count();
  }

  Measurement Measure(const std::function<void()>& step) {
    std::vector<double> milliseconds;
    for (int64_t i = -options_.number("warmups"); i < NumSteps(); ++i) {
      if (options_.cold) {
        backend()->CopyBytes(cold_to_->data(), cold_from_->data(), kColdBytes);
        Require(backend()->Wait(backend()->Submit()));
      }
      const double elapsed = Timed(step);
      if (i >= 0) milliseconds.push_back(elapsed);
    }
    return MeasurementOf(std::move(milliseconds));
  }

  const Options& options_;
  Device device_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Buffer> cold_from_, cold_to_;
};

void Print(const Options& options, const Bench& bench, const std::string& what, const std::string& attention,
           int64_t batch, int64_t tokens, int64_t depth, const Measurement& measured) {
  const char* format = options.json
                           ? "{\"backend\":\"%s\",\"what\":\"%s\",\"attention\":\"%s\",\"batch\":%lld,\"tokens\":%lld,"
                             "\"depth\":%lld,\"cold\":%d,\"median_ms\":%.4f,\"least_ms\":%.4f,\"most_ms\":%.4f"
                           : "%s %-7s %-40s batch %4lld tokens %8lld depth %8lld cold %d: %10.3f ms (%.3f to %.3f)";
  std::printf(format, std::string(bench.backend_name()).c_str(), what.c_str(), attention.c_str(),
              static_cast<long long>(batch), static_cast<long long>(tokens), static_cast<long long>(depth),
              options.cold ? 1 : 0, measured.median_ms, measured.least_ms, measured.most_ms);
  if (measured.attention_ms > 0) {
    std::printf(options.json ? ",\"attention_ms\":%.4f,\"attention_tflops\":%.2f" : ", attention %.3f ms, %.1f TFLOP/s",
                measured.attention_ms, measured.attention_tflops);
  }
  std::printf(options.json ? "}\n" : "\n");
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  Bench bench(options);
  if (options.memory) bench.PrintMemory();
  for (const std::string& attention : options.attention) {
    const Policy policy = bench.MakePolicy(attention);
    for (const int64_t batch : options.numbers("batch")) {
      for (const int64_t context : options.numbers("context")) {
        if (context < 1) continue;
        Print(options, bench, "decode", attention, batch, 1, context - 1, bench.Decode(*policy, batch, context));
      }
    }
    for (const int64_t prefill : options.numbers("prefill")) {
      const int64_t depth = options.number("depth");
      Print(options, bench, "prefill", attention, 1, prefill, depth,
            bench.Prefill(*policy, prefill, depth, options.number("chunk")));
      if (const int64_t num_steps = options.number("decode-after"); num_steps > 0) {
        Print(options, bench, "decode", attention, 1, num_steps, depth + prefill,
              bench.DecodeAfter(*policy, depth + prefill, num_steps));
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) { return farspan::Main(argc, argv); }
