// SPDX-License-Identifier: Apache-2.0
#include "server/request_parser.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "server/error.h"
#include "server/prompt_encoder.h"
#include "server/request_rules.h"
#include "server/statistics_proto.h"

namespace farspan {
namespace {

uint64_t RandomSeed() {
  std::random_device device;
  // Positive, so that what is echoed as int64 reads like what a person would send.
  return ((uint64_t{device()} << 32) | device()) >> 1;
}

absl::Status Violation(std::string field, std::string description) {
  return InvalidFields({{std::move(field), std::move(description)}});
}

absl::Status CheckModelName(const std::string& name, const ServedModel& model) {
  if (name.empty() || name == model.name) return absl::OkStatus();
  // One text for every name that is not served, so that it tells nothing about files.
  return MakeError(absl::StatusCode::kNotFound, reason::kModelNotFound,
                   absl::StrCat("spec.model: not served here; this server serves ", model.name));
}

// Defaults are those that the fields declare (a test compares them).
SamplingParams ReadSampling(const v1::Sampling& sampling) {
  SamplingParams params;
  if (sampling.has_temperature()) params.temperature = sampling.temperature();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  if (sampling.has_top_k()) params.top_k = sampling.top_k();
  if (sampling.has_min_p()) params.min_p = sampling.min_p();
  if (sampling.has_frequency_penalty()) params.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_presence_penalty()) params.presence_penalty = sampling.presence_penalty();
  if (sampling.has_repetition_penalty()) params.repetition_penalty = sampling.repetition_penalty();
  params.seed = sampling.has_seed() ? static_cast<uint64_t>(sampling.seed()) : RandomSeed();
  return params;
}

void EchoSampling(const SamplingParams& params, int num_samples, v1::Sampling* out) {
  out->set_temperature(params.temperature);
  out->set_top_p(params.top_p);
  out->set_top_k(params.top_k);
  out->set_min_p(params.min_p);
  out->set_frequency_penalty(params.frequency_penalty);
  out->set_presence_penalty(params.presence_penalty);
  out->set_repetition_penalty(params.repetition_penalty);
  out->set_seed(static_cast<int64_t>(params.seed));
  out->set_n(num_samples);
}

// A wait that both the request and the server allow; zero where neither has a limit.
SteadyDuration EffectiveQueueDuration(const v1::GenerationSpec& spec, SteadyDuration server_limit) {
  if (!spec.has_max_queue_duration()) return server_limit;
  const SteadyDuration wanted = std::chrono::seconds(spec.max_queue_duration().seconds()) +
                                std::chrono::nanoseconds(spec.max_queue_duration().nanos());
  return server_limit == SteadyDuration::zero() ? wanted : std::min(wanted, server_limit);
}

// How the request stands among others: samples, cache, tenant, priority, limits of time.
void ReadScheduling(const v1::GenerationSpec& spec, const CallFacts& facts, ParsedGeneration* parsed) {
  Request& request = parsed->request;
  v1::GenerationStarted& started = parsed->presentation.started;
  request.id = facts.request_id;
  request.tenant = facts.tenant;
  request.arrival = facts.arrival;
  request.deadline = facts.deadline;
  request.num_samples = spec.sampling().has_n() ? spec.sampling().n() : 1;
  request.use_prefix_cache = !spec.kv().bypass_prefix_cache();
  request.priority = spec.priority();
  started.mutable_kv()->set_bypass_prefix_cache(!request.use_prefix_cache);
  started.set_priority(request.priority);
  const SteadyDuration wait = EffectiveQueueDuration(spec, facts.max_queue_duration);
  if (wait == SteadyDuration::zero()) return;
  request.queue_deadline = facts.arrival + wait;
  SetDuration(wait, started.mutable_max_queue_duration());
}

// max_tokens, or the rest of the context; refuses what does not fit it, and blames the prompt where it alone does not.
absl::StatusOr<int64_t> ReadMaxTokens(const v1::Stopping& stopping, int64_t prompt_tokens, int64_t context_tokens) {
  const int64_t left = context_tokens - prompt_tokens;
  const int64_t wanted = stopping.has_max_tokens() ? stopping.max_tokens() : std::max<int64_t>(left, 1);
  if (wanted <= left) return wanted;
  const bool prompt_fits = left > 0;
  const std::string description =
      prompt_fits
          ? absl::StrCat("prompt and max_tokens must fit the context of ", context_tokens, " tokens, got ",
                         prompt_tokens, " and ", wanted)
          : absl::StrCat("must be shorter than the context of ", context_tokens, " tokens, got ", prompt_tokens);
  return InvalidFields({{prompt_fits ? "spec.stopping.max_tokens" : "spec.prompt", description}},
                       reason::kPromptTooLong,
                       {{"prompt_tokens", absl::StrCat(prompt_tokens)},
                        {"max_tokens", absl::StrCat(wanted)},
                        {"max_model_len", absl::StrCat(context_tokens)}});
}

absl::Status ReadStopping(const v1::Stopping& stopping, const ServedModel& model, int64_t prompt_tokens,
                          StopConditions* stop) {
  FARSPAN_ASSIGN_OR_RETURN(stop->max_tokens, ReadMaxTokens(stopping, prompt_tokens, model.shape.max_context_tokens));
  stop->min_tokens = stopping.min_tokens();
  if (stop->min_tokens > stop->max_tokens) {
    return Violation("spec.stopping.min_tokens",
                     absl::StrCat("must not be above max_tokens (", stop->max_tokens, "), got ", stop->min_tokens));
  }
  FARSPAN_RETURN_IF_ERROR(
      CheckTokenIds(stopping.stop_token_ids(), "spec.stopping.stop_token_ids", model.shape.vocab_size));
  stop->stop_token_ids.assign(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  if (!stopping.ignore_eos()) {
    const std::span<const TokenId> eog = model.tokenizer->end_of_generation_ids();
    stop->stop_token_ids.insert(stop->stop_token_ids.end(), eog.begin(), eog.end());
  }
  std::sort(stop->stop_token_ids.begin(), stop->stop_token_ids.end());
  stop->stop_token_ids.erase(std::unique(stop->stop_token_ids.begin(), stop->stop_token_ids.end()),
                             stop->stop_token_ids.end());
  return absl::OkStatus();
}

// The registry's words about a field of "attention", or about all of it, under the path that it has in the request.
FieldViolation AtPath(absl::string_view message, const std::string& path) {
  const size_t colon = message.find(": ");
  absl::string_view field = message.substr(0, colon);
  if (colon == absl::string_view::npos || !absl::ConsumePrefix(&field, "attention")) {
    return {path, std::string(message)};
  }
  return {absl::StrCat(path, field), std::string(message.substr(colon + 2))};
}

// The policy's own words about `spec`, under the path of the request's field.
absl::StatusOr<std::shared_ptr<const AttentionPolicy>> CreatePolicy(const v1::AttentionSpec& spec,
                                                                    const std::string& path, const ServedModel& model) {
  absl::StatusOr<std::shared_ptr<const AttentionPolicy>> policy = model.policies.Create(spec, model.shape);
  if (policy.ok()) return policy;
  const FieldViolation violation = AtPath(policy.status().message(), path);
  if (absl::IsInvalidArgument(policy.status())) return InvalidFields({violation});
  return MakeError(policy.status().code(), reason::kPolicyUnsupported, Sentence(violation));
}

// Everything of a generation but its policy.
absl::StatusOr<ParsedGeneration> ParseSpec(const v1::GenerationSpec& spec, const CallFacts& facts,
                                           const ServedModel& model) {
  FARSPAN_RETURN_IF_ERROR(CheckModelName(spec.model(), model));
  FARSPAN_ASSIGN_OR_RETURN(EncodedPrompt prompt, EncodePrompt(spec.prompt(), "spec.prompt", model));
  ParsedGeneration parsed;
  Request& request = parsed.request;
  ReadScheduling(spec, facts, &parsed);
  request.prompt = std::move(prompt.tokens);
  request.sampling = ReadSampling(spec.sampling());
  const int64_t prompt_tokens = static_cast<int64_t>(request.prompt.size());
  FARSPAN_RETURN_IF_ERROR(ReadStopping(spec.stopping(), model, prompt_tokens, &request.stop));
  if (spec.output().has_logprobs()) request.logprobs = spec.output().logprobs();
  if (spec.output().has_prompt_logprobs()) request.prompt_logprobs = spec.output().prompt_logprobs();

  Presentation& presentation = parsed.presentation;
  const v1::Stopping& stopping = spec.stopping();
  presentation.stops = {.strings = {stopping.stop_strings().begin(), stopping.stop_strings().end()},
                        .include_string = stopping.include_stop_string(),
                        .min_tokens = request.stop.min_tokens,
                        .token_ids = request.stop.stop_token_ids};
  presentation.num_samples = request.num_samples;
  presentation.num_prompt_tokens = prompt_tokens;
  presentation.reports_logprobs = request.logprobs.has_value();
  presentation.reports_prompt_logprobs = request.prompt_logprobs.has_value();
  presentation.first_prompt_token = request.prompt.front();

  v1::GenerationStarted& started = presentation.started;
  started.set_request_id(facts.request_id);
  started.set_client_request_id(spec.client_request_id());
  started.set_model(model.name);
  EchoSampling(request.sampling, request.num_samples, started.mutable_sampling());
  *started.mutable_stopping() = stopping;
  started.mutable_stopping()->set_max_tokens(request.stop.max_tokens);
  started.mutable_stopping()->set_min_tokens(request.stop.min_tokens);
  started.mutable_stopping()->mutable_stop_token_ids()->Assign(request.stop.stop_token_ids.begin(),
                                                               request.stop.stop_token_ids.end());
  started.set_prompt_tokens_count(prompt_tokens);
  started.set_added_system_prompt(std::move(prompt.added_system_prompt));
  started.set_bos_added(prompt.bos_added);
  return parsed;
}

absl::Status SetPolicy(const v1::AttentionSpec& spec, const std::string& path, const ServedModel& model,
                       ParsedGeneration* parsed) {
  FARSPAN_ASSIGN_OR_RETURN(parsed->request.policy, CreatePolicy(spec, path, model));
  *parsed->presentation.started.mutable_attention() = WithDefaults(spec);
  parsed->presentation.mode = parsed->request.policy->mode();
  return absl::OkStatus();
}

absl::Status CheckFields(const google::protobuf::Message& request, bool has_spec, bool has_prompt) {
  std::vector<FieldViolation> violations = CheckRequest(request);
  if (!has_spec) violations.insert(violations.begin(), {"spec", "must be set"});
  if (has_spec && !has_prompt) violations.insert(violations.begin(), {"spec.prompt", "must be set"});
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

}  // namespace

absl::StatusOr<ParsedGeneration> ParseGeneration(const v1::GenerateRequest& request, const CallFacts& facts,
                                                 const ServedModel& model) {
  FARSPAN_RETURN_IF_ERROR(CheckFields(request, request.has_spec(), request.spec().has_prompt()));
  FARSPAN_ASSIGN_OR_RETURN(ParsedGeneration parsed, ParseSpec(request.spec(), facts, model));
  const v1::AttentionSpec& attention = request.has_attention() ? request.attention() : model.default_attention;
  FARSPAN_RETURN_IF_ERROR(SetPolicy(attention, "attention", model, &parsed));
  return parsed;
}

absl::StatusOr<std::vector<ParsedGeneration>> ParseComparison(const v1::ComparePoliciesRequest& request,
                                                              const CallFacts& facts, const ServedModel& model) {
  FARSPAN_RETURN_IF_ERROR(CheckFields(request, request.has_spec(), request.spec().has_prompt()));
  if (request.policies().empty()) return Violation("policies", "must have at least one element");
  v1::GenerationSpec spec = request.spec();
  if (spec.sampling().n() > 1) {
    return Violation("spec.sampling.n", absl::StrCat("must be 1 in a comparison, got ", spec.sampling().n()));
  }
  if (!spec.sampling().has_temperature()) spec.mutable_sampling()->set_temperature(0);
  // A run that found another's pages would not show what its policy costs.
  spec.mutable_kv()->set_bypass_prefix_cache(true);
  FARSPAN_ASSIGN_OR_RETURN(const ParsedGeneration shared, ParseSpec(spec, facts, model));
  v1::AttentionSpec dense;
  dense.mutable_dense();
  std::vector<ParsedGeneration> runs(1 + static_cast<size_t>(request.policies_size()), shared);
  FARSPAN_RETURN_IF_ERROR(
      SetPolicy(request.has_reference() ? request.reference() : dense, "reference", model, &runs.front()));
  for (int i = 0; i < request.policies_size(); ++i) {
    FARSPAN_RETURN_IF_ERROR(
        SetPolicy(request.policies(i), absl::StrCat("policies[", i, "]"), model, &runs[static_cast<size_t>(i) + 1]));
  }
  return runs;
}

}  // namespace farspan
