// SPDX-License-Identifier: Apache-2.0
#include "engine/attention/registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/attention/field_rules.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace farspan {
namespace {

const google::protobuf::OneofDescriptor& PolicyOneof() {
  return *v1::AttentionSpec::descriptor()->FindOneofByName("policy");
}

bool IsVariant(std::string_view name) {
  const auto& oneof = PolicyOneof();
  for (int i = 0; i < oneof.field_count(); ++i) {
    if (oneof.field(i)->name() == name) return true;
  }
  return false;
}

}  // namespace

void PolicyRegistry::Register(PolicyRegistration registration) {
  const std::string_view name = registration.traits.name;
  FARSPAN_CHECK(IsVariant(name), "policy=", std::string(name));
  const auto place = std::lower_bound(registrations_.begin(), registrations_.end(), name,
                                      [](const auto& entry, std::string_view n) { return entry.traits.name < n; });
  FARSPAN_CHECK(place == registrations_.end() || place->traits.name != name, "policy=", std::string(name));
  registrations_.insert(place, std::move(registration));
}

absl::StatusOr<const PolicyRegistration*> PolicyRegistry::Find(const v1::AttentionSpec& spec) const {
  const auto* variant = spec.GetReflection()->GetOneofFieldDescriptor(spec, &PolicyOneof());
  if (variant == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention: must name a policy that this server knows, got none; known: ", Names()));
  }
  FARSPAN_RETURN_IF_ERROR(FirstViolation(CheckFieldRules(spec, "attention")));
  for (const PolicyRegistration& registration : registrations_) {
    if (registration.traits.name != variant->name()) continue;
    if (registration.check) FARSPAN_RETURN_IF_ERROR(registration.check(WithDefaults(spec)));
    return &registration;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("attention: policy ", variant->name(), " is not built into this server; known: ", Names()));
}

absl::Status PolicyRegistry::Check(const v1::AttentionSpec& spec) const { return Find(spec).status(); }

absl::StatusOr<std::shared_ptr<const AttentionPolicy>> PolicyRegistry::Create(const v1::AttentionSpec& spec,
                                                                              const ModelShape& shape) const {
  FARSPAN_ASSIGN_OR_RETURN(const PolicyRegistration* registration, Find(spec));
  return registration->create(WithDefaults(spec), shape);
}

std::string PolicyRegistry::Names() const {
  std::string names;
  for (const PolicyRegistration& registration : registrations_) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(registration.traits.name));
  }
  return names;
}

v1::AttentionSpec WithDefaults(const v1::AttentionSpec& spec) {
  v1::AttentionSpec effective = spec;
  ApplyDefaults(&effective);
  return effective;
}

}  // namespace farspan
