// SPDX-License-Identifier: Apache-2.0
// AttentionPolicy: which cached tokens each query reads, and which may be forgotten. One request's choice.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/attention/plan.h"
#include "engine/base/ids.h"
#include "engine/base/model_shape.h"

namespace farspan {

// What a policy may know of a sequence when it plans one step.
struct CacheView {
  TokenRange queries;         // logical positions that this plan is for: a chunk of the prompt, or one decode row
  int64_t prompt_tokens = 0;  // queries below this are prefill
};

// How a policy produces its answers, as reported in every response.
enum class PolicyMode : uint8_t { kDense, kTrainingFree, kTrained };

// Immutable, stateless, deterministic; shared by any number of requests and threads.
class AttentionPolicy {
 public:
  virtual ~AttentionPolicy() = default;

  // Stable name from the closed set of the registry: metrics label and log field.
  virtual std::string_view name() const = 0;
  // The effective options in protobuf text form, defaults filled in: `window { sink_tokens: 4 window_tokens: 1024 }`.
  virtual std::string Describe() const = 0;
  virtual PolicyMode mode() const = 0;

  // Equal fingerprints may share pages of prompt tokens.
  virtual KvFingerprint prefill_fingerprint() const = 0;
  // Equal fingerprints may share pages that hold any decoded token.
  virtual KvFingerprint decode_fingerprint() const = 0;

  // Upper bound on pages held at any time by a sequence of at most `tokens`, computed in chunks of at most
  // `chunk_tokens`, the chunk in flight and copies included. Never decreases in either argument; admission relies on
  // it.
  virtual int64_t MaxPages(int64_t tokens, int64_t chunk_tokens) const = 0;

  // Plan features used by any plan of this policy; compared with Backend::caps() when a request is submitted.
  virtual PlanFeatures needs() const = 0;

  // What the queries of one step read. Never reads a token that an earlier plan dropped; the reads of one query do not
  // depend on how the prompt was cut into chunks.
  virtual AttentionPlan Plan(const CacheView& view) const = 0;
};

}  // namespace farspan
