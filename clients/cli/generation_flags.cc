// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/generation_flags.h"

#include "absl/strings/str_cat.h"
#include "clients/cli/rule_flags.h"

namespace farspan::cli {

void AddGenerationFlags(v1::GenerationSpec* spec, FlagSet* flags) {
  AddRuleFlags(spec->mutable_sampling(), "Sampling", flags);
  AddRuleFlags(spec->mutable_stopping(), "Stopping", flags);
  AddRuleFlags(spec->mutable_output(), "Output", flags);
  AddRuleFlags(spec->mutable_kv(), "Request", flags);
  AddRuleFlags(spec, "Request", flags);
}

absl::Status CheckOneSample(const v1::GenerationSpec& spec, const std::string& place) {
  if (spec.sampling().n() <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--n: must be 1 in ", place, ", got ", spec.sampling().n()));
}

}  // namespace farspan::cli
