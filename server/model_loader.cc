// SPDX-License-Identifier: Apache-2.0
#include "server/model_loader.h"

#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "engine/engine_factory.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/model/hash_model_options.h"
#include "engine/model/random_model_options.h"
#include "engine/text/bpe.h"
#include "engine/text/byte_vocabulary.h"
#include "server/cpu_count.h"
#include "server/model_description.h"

namespace farspan {
namespace {

constexpr char kMaxModelLen[] = "--max-model-len";

// Of the file, before the engine says more of it; 0 where the file does not say.
int64_t DeclaredContextTokens(const GgufMetadata& metadata) {
  const absl::StatusOr<std::string_view> architecture = metadata.GetString("general.architecture");
  if (!architecture.ok()) return 0;
  const auto context = metadata.GetUint(std::string(*architecture) + ".context_length", 1, uint64_t{1} << 32);
  return context.ok() ? static_cast<int64_t>(*context) : 0;
}

CpuIsa IsaOf(CpuIsaChoice choice) {
  switch (choice) {
    case CpuIsaChoice::kPortable:
      return CpuIsa::kPortable;
    case CpuIsaChoice::kAvx2:
      return CpuIsa::kAvx2;
    case CpuIsaChoice::kAvx512:
      return CpuIsa::kAvx512;
    case CpuIsaChoice::kAuto:
      break;
  }
  return CpuIsa::kAuto;
}

EngineOptions OptionsOf(const ServerConfig& config, const ServedModel& model, int64_t context_tokens) {
  EngineOptions options;
  options.cpu = {.isa = IsaOf(config.cpu_isa), .num_threads = static_cast<int>(model.num_threads)};
  options.max_context_tokens = config.max_model_len.value_or(0);
  options.page_tokens = config.block_size;
  options.kv_dtype = config.kv_cache_dtype;
  options.kv_cache_bytes = config.kv_cache_bytes.value_or(0);
  options.gpu_memory_utilization = config.gpu_memory_utilization;
  const BatchLimits limits = BatchLimitsOn(model.device.is_cuda(), config);
  options.engine.max_num_seqs = limits.max_num_seqs;
  options.engine.max_num_batched_tokens = limits.max_num_batched_tokens;
  options.engine.max_num_queued_requests = config.max_num_queued_reqs;
  options.engine.max_num_queued_requests_per_tenant =
      config.max_num_queued_reqs_per_tenant.value_or(config.max_num_queued_reqs);
  options.engine.prefix_caching = config.enable_prefix_caching;
  options.engine.max_inter_token_latency = std::chrono::milliseconds(config.max_itl_ms);
  options.engine.max_num_queued_tokens = config.max_num_queued_tokens.value_or(kQueuedContexts * context_tokens);
  return options;
}

// Refusals of an option name it, and too little memory is too little for the options; everything else is about the
// file.
ExitCode CodeOf(const absl::Status& status) {
  if (absl::IsInternal(status)) return ExitCode::kInternal;
  if (absl::IsResourceExhausted(status)) return ExitCode::kUsage;
  for (const char* option : {kMaxModelLen, "device", "kv_cache_dtype", "cpu_isa", "threads", "max_context_tokens",
                             "page_tokens", "block_size", "kv_cache_bytes", "max_num_", "max_batch_rows"}) {
    if (absl::StartsWith(status.message(), option)) return ExitCode::kUsage;
  }
  return ExitCode::kBadModel;
}

// What stands before an engine of the model can be made.
absl::StatusOr<std::unique_ptr<ServedModel>> Begin(const ServerConfig& config, Vocabulary vocabulary) {
  const std::string template_text = std::exchange(vocabulary.chat_template, "");
  auto model = std::make_unique<ServedModel>();
  FARSPAN_ASSIGN_OR_RETURN(model->device, ChooseServedDevice(config));
  Log().info("device: {}", model->device.reason);
  FARSPAN_ASSIGN_OR_RETURN(model->tokenizer, CreateBpeTokenizer(std::move(vocabulary)));
  absl::StatusOr<ChatTemplate> chat_template = ChatTemplate::Create(template_text, *model->tokenizer);
  if (chat_template.ok()) model->chat_template = *std::move(chat_template);
  model->name = ServedModelName(config);
  model->policies = BuiltinPolicies();
  model->default_attention = config.attention_policy;
  model->num_threads = config.threads ? *config.threads : AvailableCores();
  return model;
}

// `source` is the file or the settings of a hash or random model; `declared` its context, 0 where the file does not
// say.
template <typename Source>
absl::StatusOr<std::unique_ptr<ServedModel>> Finish(const ServerConfig& config, const Source& source, int64_t declared,
                                                    std::unique_ptr<ServedModel> model, MetricsSink* metrics) {
  const int64_t context = config.max_model_len.value_or(declared);
  if (declared > 0 && context > declared) {
    return absl::InvalidArgumentError(
        absl::StrCat(kMaxModelLen, ": must be at most the model's ", declared, " tokens, got ", context));
  }
  const EngineOptions options = OptionsOf(config, *model, context);
  FARSPAN_ASSIGN_OR_RETURN(Device device, OpenDevice(model->device, options.cpu));
  FARSPAN_ASSIGN_OR_RETURN(model->engine, CreateEngine(std::move(device), source, options, metrics));
  model->shape = model->engine->shape();
  model->system_fingerprint =
      absl::StrCat("farspan-", kServerVersion, "-", model->engine->model_info().weights_id, "-",
                   std::string(model->engine->backend().name()), "-", KvDtypeName(model->shape.kv_dtype));
  return model;
}

absl::StatusOr<std::unique_ptr<ServedModel>> Load(const ServerConfig& config, MetricsSink* metrics) {
  if (IsHashModelName(config.model_path)) {
    FARSPAN_ASSIGN_OR_RETURN(const HashModelOptions hash, ParseHashModelName(config.model_path));
    FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<ServedModel> model, Begin(config, ByteVocabulary()));
    return Finish(config, hash, hash.context_tokens, std::move(model), metrics);
  }
  if (IsRandomModelName(config.model_path)) {
    FARSPAN_ASSIGN_OR_RETURN(const RandomModelOptions random, ParseRandomModelName(config.model_path));
    const LlamaSpec& spec = random.shape.spec;
    FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<ServedModel> model, Begin(config, ByteVocabulary(spec.vocab_size)));
    return Finish(config, random, spec.config.context_tokens, std::move(model), metrics);
  }
  FARSPAN_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(config.model_path));
  FARSPAN_ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadGgufVocabulary(file.metadata()));
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<ServedModel> model, Begin(config, std::move(vocabulary)));
  return Finish(config, file, DeclaredContextTokens(file.metadata()), std::move(model), metrics);
}

}  // namespace

std::unique_ptr<ServedModel> LoadServedModel(const ServerConfig& config, MetricsSink* metrics, LoadError* error) {
  absl::StatusOr<std::unique_ptr<ServedModel>> model = Load(config, metrics);
  if (model.ok()) return *std::move(model);
  *error = {.exit_code = CodeOf(model.status()), .sentence = std::string(model.status().message())};
  return nullptr;
}

std::vector<ConfigValue> EffectiveValues(std::vector<ConfigValue> values, const ServedModel& model) {
  const Engine& engine = *model.engine;
  std::map<std::string, std::string> resolved = {
      {"device", model.device.name},
      {"block-size", absl::StrCat(model.shape.page_tokens)},
      {"max-model-len", absl::StrCat(model.shape.max_context_tokens)},
      {"kv-cache-bytes", absl::StrCat(engine.kv_cache_bytes())},
      {"threads", absl::StrCat(model.num_threads)},
      {"max-num-seqs", absl::StrCat(engine.config().max_num_seqs)},
      {"max-num-batched-tokens", absl::StrCat(engine.config().max_num_batched_tokens)},
      {"max-num-queued-tokens", absl::StrCat(engine.config().max_num_queued_tokens)},
      {"max-num-queued-reqs-per-tenant", absl::StrCat(engine.config().max_num_queued_requests_per_tenant)},
      {"served-model-name", model.name}};
  if (!model.device.is_cuda()) {
    const std::string_view name = engine.backend().name();
    resolved["cpu-isa"] = std::string(name.substr(name.find('/') + 1));
  }
  for (ConfigValue& value : values) {
    const auto place = resolved.find(value.name);
    if (place != resolved.end()) value.value = place->second;
  }
  return values;
}

}  // namespace farspan
