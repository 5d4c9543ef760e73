// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/generation_flags.h"

#include "clients/cli/rule_flags.h"

namespace farspan::cli {

void AddGenerationFlags(v1::GenerationSpec* spec, FlagSet* flags) {
  AddRuleFlags(spec->mutable_sampling(), "Sampling", flags);
  AddRuleFlags(spec->mutable_stopping(), "Stopping", flags);
  AddRuleFlags(spec->mutable_output(), "Output", flags);
  AddRuleFlags(spec, "Request", flags);
}

}  // namespace farspan::cli
