// SPDX-License-Identifier: Apache-2.0
// Builds a Llama from a GGUF file: checks the config, loads every tensor, takes the activations.
#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/status_macros.h"
#include "engine/model/llama.h"
#include "engine/model/weights.h"

namespace farspan {
namespace {

constexpr char kEmbeddingName[] = "token_embd.weight";
constexpr char kOutputName[] = "output.weight";
constexpr char kRopeFactorsName[] = "rope_freqs.weight";

// A text's tokens index the embedding's rows: the file may have more rows than tokens, not fewer.
absl::Status CheckTokensHaveRows(const GgufMetadata& metadata, int64_t vocab_size) {
  constexpr std::string_view kKey = "tokenizer.ggml.tokens";
  if (!metadata.Has(kKey)) return absl::OkStatus();
  FARSPAN_ASSIGN_OR_RETURN(const std::span<const std::string> tokens, metadata.GetStrings(kKey));
  if (std::cmp_less_equal(tokens.size(), vocab_size)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("key ", AbslView(kKey), ": expected at most ", vocab_size,
                                                 " tokens, one for each row of ", kEmbeddingName, ", got ",
                                                 tokens.size()));
}

// The embedding's rows are the vocabulary; the optional key must agree.
absl::StatusOr<int64_t> VocabSize(const GgufFile& file, const LlamaConfig& config) {
  constexpr std::string_view kKey = "llama.vocab_size";
  const GgufTensor* embedding = file.FindTensor(kEmbeddingName);
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > LlamaLimits::kMaxVocabSize ||
      embedding->columns() != config.width) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", kEmbeddingName, ": expected [vocabulary of at most ", LlamaLimits::kMaxVocabSize, ", ",
                     config.width, "], got ", embedding == nullptr ? "no such tensor" : ShapeText(embedding->shape)));
  }
  const int64_t vocab_size = embedding->shape[0];
  if (file.metadata().Has(kKey)) {
    const auto rows = static_cast<uint64_t>(vocab_size);
    FARSPAN_RETURN_IF_ERROR(file.metadata().GetUint(kKey, rows, rows).status());
  }
  FARSPAN_RETURN_IF_ERROR(CheckTokensHaveRows(file.metadata(), vocab_size));
  return vocab_size;
}

// Biases are part of some files of the family and of none of the networks that we run.
absl::Status RefuseBiases(const GgufFile& file) {
  constexpr std::string_view kSuffix = ".bias";
  for (const GgufTensor& tensor : file.tensors()) {
    if (std::string_view(tensor.name).ends_with(kSuffix)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, ": expected a network without biases, got ", ShapeText(tensor.shape)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<LlamaLayer> LoadLayer(const LlamaConfig& config, int64_t index, WeightSource& loader) {
  const auto name = [index](const char* part) { return absl::StrCat("blk.", index, ".", part, ".weight"); };
  LlamaLayer layer;
  FARSPAN_ASSIGN_OR_RETURN(layer.attention_norm, loader.LoadVector(name("attn_norm"), config.width));
  FARSPAN_RETURN_IF_ERROR(loader.LoadStack({{name("attn_q"), config.query_width(), &layer.query},
                                            {name("attn_k"), config.kv_width(), &layer.key},
                                            {name("attn_v"), config.kv_width(), &layer.value}},
                                           config.width));
  FARSPAN_ASSIGN_OR_RETURN(layer.attention_output,
                           loader.LoadMatrix(name("attn_output"), config.width, config.query_width()));
  FARSPAN_ASSIGN_OR_RETURN(layer.feed_forward_norm, loader.LoadVector(name("ffn_norm"), config.width));
  FARSPAN_RETURN_IF_ERROR(loader.LoadStack({{name("ffn_gate"), config.feed_forward_width, &layer.gate},
                                            {name("ffn_up"), config.feed_forward_width, &layer.up}},
                                           config.width));
  FARSPAN_ASSIGN_OR_RETURN(layer.down, loader.LoadMatrix(name("ffn_down"), config.width, config.feed_forward_width));
  return layer;
}

absl::StatusOr<std::vector<float>> RopeFactors(const LlamaConfig& config, WeightSource& loader) {
  if (!loader.Has(kRopeFactorsName)) return std::vector<float>();
  FARSPAN_ASSIGN_OR_RETURN(std::vector<float> factors, loader.ReadVector(kRopeFactorsName, config.rope_dim / 2));
  for (const float factor : factors) {
    // A smaller one would turn positions into angles beyond any use.
    constexpr float kMinFactor = 1.0f / 4096;
    if (!(factor >= kMinFactor)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", kRopeFactorsName, ": expected divisors of at least 1/4096, got ", factor));
    }
  }
  return factors;
}

absl::StatusOr<LlamaWeights> LoadWeights(const LlamaConfig& config, int64_t vocab_size, Backend* backend,
                                         WeightSource& loader) {
  LlamaWeights weights{};
  FARSPAN_RETURN_IF_ERROR(loader.Reserve());
  FARSPAN_ASSIGN_OR_RETURN(weights.embedding, loader.LoadMatrix(kEmbeddingName, vocab_size, config.width));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    FARSPAN_ASSIGN_OR_RETURN(LlamaLayer layer, LoadLayer(config, i, loader));
    weights.layers.push_back(layer);
  }
  FARSPAN_ASSIGN_OR_RETURN(weights.output_norm, loader.LoadVector("output_norm.weight", config.width));
  weights.output = weights.embedding;
  if (loader.Has(kOutputName)) {
    FARSPAN_ASSIGN_OR_RETURN(weights.output, loader.LoadMatrix(kOutputName, vocab_size, config.width));
  }
  FARSPAN_ASSIGN_OR_RETURN(const std::vector<float> factors, RopeFactors(config, loader));
  FARSPAN_RETURN_IF_ERROR(loader.Finish());
  weights.buffers = loader.TakeBuffers();

  const std::vector<double> frequencies = RopeFrequencies(config, factors);
  const auto bytes = std::as_bytes(std::span(frequencies));
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                           backend->Allocate(static_cast<int64_t>(bytes.size()), MemoryKind::kWeights));
  FARSPAN_RETURN_IF_ERROR(backend->Upload(buffer->data(), bytes));
  weights.frequencies = static_cast<const double*>(buffer->data());
  weights.buffers.push_back(std::move(buffer));
  return weights;
}

absl::StatusOr<LlamaActivations> AllocateActivations(const LlamaConfig& config, int64_t vocab_size, int64_t rows,
                                                     Backend* backend) {
  LlamaActivations activations{};
  constexpr int64_t kFloat = sizeof(float);
  const int64_t activation = kernels::ActivationBytes(backend->activation());
  // Where tokens are drawn on the device, one pass over the output matrix serves a whole decode step.
  activations.logit_rows =
      backend->draws() ? std::max(kMaxLogitRows, std::min(rows, kernels::kMaxDrawRows)) : kMaxLogitRows;
  LlamaActivations& a = activations;
  const auto for_each = [&](const auto& take) {
    take(rows * config.width * kFloat, &a.hidden);
    take(rows * config.width * activation, &a.normed);
    take(rows * config.query_width() * activation, &a.query);
    take(rows * backend->ProjectedWidth(config.query_width(), config.kv_width()) * activation, &a.projected);
    take(rows * config.query_width() * activation, &a.attention);
    take(rows * backend->InnerWidth(config.feed_forward_width) * activation, &a.inner);
    take(rows * config.rope_dim * kFloat, &a.cos_sin);
    take(a.logit_rows * vocab_size * kFloat, &a.logits);
    if (backend->draws()) take(rows * static_cast<int64_t>(sizeof(TokenId)), &a.drawn_ids);
  };
  int64_t total_bytes = 0;
  for_each([&](int64_t size_bytes, auto**) { total_bytes += Arena::PieceBytes(size_bytes); });
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend->Allocate(total_bytes, MemoryKind::kActivations));
  Arena arena(std::move(buffer));
  for_each([&]<typename T>(int64_t size_bytes, T** place) { *place = static_cast<T*>(arena.Take(size_bytes)); });
  activations.buffers.push_back(arena.Release());
  if (a.drawn_ids != nullptr) {
    // A step behind one that found no memory reads ids that nobody drew: they are to name rows of the embedding too.
    const std::vector<TokenId> ids(static_cast<size_t>(rows), 0);
    FARSPAN_RETURN_IF_ERROR(backend->Upload(a.drawn_ids, std::as_bytes(std::span(ids))));
  }
  return activations;
}

// The file's text as any log or response may carry it.
std::string ShownName(std::string_view name) {
  constexpr size_t kMaxShownBytes = 128;
  return absl::CHexEscape(AbslView(name.substr(0, kMaxShownBytes)));
}

absl::StatusOr<ModelShape> ShapeOf(const LlamaConfig& config, int64_t vocab_size, const ModelOptions& options) {
  if (options.max_context_tokens > config.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_context_tokens: expected at most the model's ",
                                                   config.context_tokens, ", got ", options.max_context_tokens));
  }
  return ModelShape{
      .num_layers = config.num_layers,
      .num_heads = config.num_heads,
      .num_kv_heads = config.num_kv_heads,
      .head_dim = config.head_dim,
      .max_context_tokens = options.max_context_tokens > 0 ? options.max_context_tokens : config.context_tokens,
      .vocab_size = vocab_size,
      .page_tokens = options.page_tokens,
      .kv_dtype = options.kv_dtype};
}

// Kernels with bf16 activations read them eight at a time, and norm rows and turn heads of limited length.
absl::Status CheckFitsActivations(const LlamaConfig& config, const Backend& backend) {
  if (backend.activation() != kernels::Activation::kBf16) return absl::OkStatus();
  constexpr int64_t kMultiple = 8, kMaxWidth = 32768, kMaxHeadDim = 256;
  struct Limit {
    const char* name;
    int64_t value;
    int64_t most;
  };
  for (const Limit& limit : {Limit{"embedding_length", config.width, kMaxWidth},
                             Limit{"feed_forward_length", config.feed_forward_width, LlamaLimits::kMaxFeedForwardWidth},
                             Limit{"attention.key_length", config.head_dim, kMaxHeadDim}}) {
    if (limit.value % kMultiple == 0 && limit.value <= limit.most) continue;
    return absl::InvalidArgumentError(absl::StrCat(limit.name, ": expected a multiple of ", kMultiple, " of at most ",
                                                   limit.most, " on ", AbslView(backend.name()), ", got ", limit.value,
                                                   "; --device cpu runs it"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> CreateLlama(const LlamaSpec& spec, WeightSource& source, Backend* backend,
                                                   const ModelOptions& options) {
  const LlamaConfig& config = spec.config;
  FARSPAN_ASSIGN_OR_RETURN(const ModelShape shape, ShapeOf(config, spec.vocab_size, options));
  FARSPAN_RETURN_IF_ERROR(CheckFitsActivations(config, *backend));
  FARSPAN_RETURN_IF_ERROR(backend->Prepare(
      shape, {.max_rows = options.max_batch_rows,
              .max_sequences = options.max_sequences > 0 ? options.max_sequences : options.max_batch_rows}));
  FARSPAN_ASSIGN_OR_RETURN(LlamaWeights weights, LoadWeights(config, spec.vocab_size, backend, source));
  FARSPAN_ASSIGN_OR_RETURN(LlamaActivations activations,
                           AllocateActivations(config, spec.vocab_size, options.max_batch_rows, backend));
  ContentHash identity = source.content_hash();
  identity.AddText(config.Describe());
  ModelInfo info = {.architecture = "llama",
                    .name = spec.name,
                    .weights_id = identity.Hex(),
                    .num_parameters = source.num_parameters(),
                    .weight_bytes = source.size_bytes()};
  return std::make_unique<Llama>(config, shape, std::move(info), std::move(weights), std::move(activations),
                                 options.max_batch_rows, backend);
}

absl::StatusOr<std::unique_ptr<Model>> CreateLlama(const GgufFile& file, Backend* backend,
                                                   const ModelOptions& options) {
  LlamaSpec spec;
  FARSPAN_ASSIGN_OR_RETURN(spec.config, ReadLlamaConfig(file.metadata()));
  FARSPAN_ASSIGN_OR_RETURN(spec.vocab_size, VocabSize(file, spec.config));
  FARSPAN_ASSIGN_OR_RETURN(const std::optional<std::string_view> name, file.metadata().FindString("general.name"));
  spec.name = ShownName(name.value_or(""));
  FARSPAN_RETURN_IF_ERROR(RefuseBiases(file));
  WeightLoader loader(&file, backend);
  return CreateLlama(spec, loader, backend, options);
}

}  // namespace farspan
