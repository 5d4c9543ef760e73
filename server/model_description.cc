// SPDX-License-Identifier: Apache-2.0
#include "server/model_description.h"

#include <string>

#include "farspan/v1/options.pb.h"

namespace farspan {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

std::string TypeName(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM ? "enum" : field.type_name();
}

void DescribeOption(const FieldDescriptor& field, v1::AttentionOption* out) {
  const v1::FieldRule& rule = field.options().GetExtension(v1::rule);
  out->set_name(field.name());
  out->set_type(TypeName(field));
  out->set_doc(rule.doc());
  out->set_unit(rule.unit());
  out->set_default_value(rule.default_value());
  if (rule.has_minimum() && !rule.exclusive_minimum()) out->set_minimum(rule.minimum());
  if (rule.has_maximum()) out->set_maximum(rule.maximum());
  if (field.enum_type() == nullptr) return;
  for (int i = 0; i < field.enum_type()->value_count(); ++i) {
    if (field.enum_type()->value(i)->number() != 0) out->add_enum_values(field.enum_type()->value(i)->name());
  }
}

// Whether the policy, with its defaults, runs on this server's device.
bool Supported(const FieldDescriptor& variant, const ServedModel& model) {
  v1::AttentionSpec spec;
  spec.GetReflection()->MutableMessage(&spec, &variant);
  const auto policy = model.policies.Create(spec, model.shape);
  return policy.ok() && Covers(model.engine->backend().caps(), (*policy)->needs());
}

}  // namespace

void DescribeServer(const ServingContext& serving, v1::GetServerInfoResponse* out) {
  const ServedModel& model = *serving.model;
  const Engine& engine = *model.engine;
  const ModelInfo& info = engine.model_info();
  const ModelShape& shape = engine.shape();
  out->set_server_version(kServerVersion);
  out->set_api_version("farspan.v1");
  out->set_grpc_version(grpc::Version());
  out->set_backend(std::string(engine.backend().name()));
  out->set_device(model.device.name);
  out->set_device_reason(model.device.reason);
  out->set_threads_count(model.num_threads);
  v1::ServedModel& served = *out->mutable_model();
  served.set_name(model.name);
  served.set_architecture(info.architecture);
  served.set_parameters_count(info.num_parameters);
  served.set_weight_bytes(info.weight_bytes);
  served.set_max_context_tokens(model.shape.max_context_tokens);
  served.set_vocabulary_size(shape.vocab_size);
  served.set_layers_count(shape.num_layers);
  served.set_heads_count(shape.num_heads);
  served.set_kv_heads_count(shape.num_kv_heads);
  served.set_head_size(shape.head_dim);
  served.set_chat_supported(model.chat_template.has_value());
  served.set_weights_id(info.weights_id);
  v1::KvCacheInfo& kv = *out->mutable_kv_cache();
  kv.set_dtype(KvDtypeName(shape.kv_dtype));
  kv.set_page_tokens(shape.page_tokens);
  kv.set_pages_count(engine.stats().kv_pages_total);
  kv.set_total_bytes(engine.kv_cache_bytes());
  kv.set_bytes_per_token(shape.kv_bytes_per_token());
  *out->mutable_default_attention() = WithDefaults(model.default_attention);
  for (const ConfigValue& value : serving.config_values) {
    v1::ConfigEntry& entry = *out->add_config();
    entry.set_name(value.name);
    entry.set_value(value.value);
    entry.set_source(value.source);
  }
  out->set_system_fingerprint(model.system_fingerprint);
}

void DescribePolicies(const ServedModel& model, v1::ListAttentionPoliciesResponse* out) {
  const Descriptor* spec = v1::AttentionSpec::descriptor();
  for (const PolicyRegistration& registration : model.policies.registrations()) {
    const PolicyTraits& traits = registration.traits;
    const FieldDescriptor& variant = *spec->FindFieldByName(std::string(traits.name));
    v1::AttentionPolicyInfo& info = *out->add_policies();
    info.set_name(std::string(traits.name));
    info.set_summary(std::string(traits.summary));
    info.set_paper(std::string(traits.paper));
    for (int i = 0; i < variant.message_type()->field_count(); ++i) {
      DescribeOption(*variant.message_type()->field(i), info.add_options());
    }
    info.set_sparse_prefill(traits.sparse_prefill);
    info.set_sparse_decode(traits.sparse_decode);
    info.set_evicts(traits.evicts);
    info.set_shares_dense_prompt_pages(traits.shares_dense_prompt_pages);
    info.set_granularity(traits.granularity == Granularity::kToken ? v1::ATTENTION_GRANULARITY_TOKEN
                                                                   : v1::ATTENTION_GRANULARITY_BLOCK);
    info.set_version(traits.version);
    info.set_supported(Supported(variant, model));
  }
}

}  // namespace farspan
