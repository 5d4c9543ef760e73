// SPDX-License-Identifier: Apache-2.0
// The options of a sink for the policies of this build and a small model.
#pragma once

#include "server/prometheus_sink.h"

namespace farspan {

inline MetricsOptions OptionsForTest() {
  MetricsOptions options;
  options.model_name = "tiny";
  const PolicyRegistry registry = BuiltinPolicies();
  for (const PolicyRegistration& registration : registry.registrations()) {
    options.policies.push_back(registration.traits);
  }
  options.architecture = "llama";
  options.weights_id = "1234";
  options.shape = {.num_layers = 2,
                   .num_heads = 4,
                   .num_kv_heads = 2,
                   .head_dim = 16,
                   .max_context_tokens = 4096,
                   .vocab_size = 300};
  options.kv_pages_total = 100;
  return options;
}

}  // namespace farspan
