// SPDX-License-Identifier: Apache-2.0
// PolicyRegistry: from a request's AttentionSpec to an AttentionPolicy. Filled once before serving, const afterwards.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "farspan/v1/attention.pb.h"

namespace farspan {

// How finely a policy chooses tokens.
enum class Granularity : uint8_t { kToken, kBlock };

// What a policy is, apart from any request's options.
struct PolicyTraits {
  std::string_view name;     // the oneof field's name
  std::string_view summary;  // one sentence
  std::string_view paper;    // title and identifier; empty for dense
  bool sparse_prefill = false;
  bool sparse_decode = false;
  bool evicts = false;
  bool shares_dense_prompt_pages = false;
  Granularity granularity = Granularity::kToken;
  int version = 1;  // raised when outputs change
};

using PolicyFactory = std::function<absl::StatusOr<std::shared_ptr<const AttentionPolicy>>(
    const v1::AttentionSpec& spec, const ModelShape& shape)>;

// What options must hold together, and no field's rule says, whatever the model. INVALID_ARGUMENT names the option.
using PolicyCheck = std::function<absl::Status(const v1::AttentionSpec& spec)>;

struct PolicyRegistration {
  PolicyTraits traits;
  PolicyFactory create;
  PolicyCheck check = nullptr;  // before `create`; null where the fields' rules say all
};

// Thread-safe once filled.
class PolicyRegistry {
 public:
  // A second registration of one name, or a name that is no oneof field, ends the process.
  void Register(PolicyRegistration registration);

  // All that Create refuses about `spec` without a model.
  absl::Status Check(const v1::AttentionSpec& spec) const;

  // INVALID_ARGUMENT names the bad option, its rule and the value got; an empty spec is refused with the known names.
  absl::StatusOr<std::shared_ptr<const AttentionPolicy>> Create(const v1::AttentionSpec& spec,
                                                                const ModelShape& shape) const;

  // Sorted by name.
  const std::vector<PolicyRegistration>& registrations() const { return registrations_; }
  // "dense, quest, window"
  std::string Names() const;

 private:
  // The one that `spec` names, or what is wrong with `spec`.
  absl::StatusOr<const PolicyRegistration*> Find(const v1::AttentionSpec& spec) const;

  std::vector<PolicyRegistration> registrations_;
};

// Every policy of this build; see builtin_policies.cc for the list.
PolicyRegistry BuiltinPolicies();

// The options of `spec`'s variant with absent fields set to their declared defaults.
v1::AttentionSpec WithDefaults(const v1::AttentionSpec& spec);

}  // namespace farspan
