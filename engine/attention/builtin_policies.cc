// SPDX-License-Identifier: Apache-2.0
#include "engine/attention/builtin_policies.h"

namespace farspan {

PolicyRegistry BuiltinPolicies() {
  PolicyRegistry registry;
  registry.Register(DenseRegistration());
  registry.Register(QuestRegistration());
  registry.Register(WindowRegistration());
  return registry;
}

}  // namespace farspan
