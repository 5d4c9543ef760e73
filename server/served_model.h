// SPDX-License-Identifier: Apache-2.0
// The model that this server serves, as its services see it: names and the parts that turn requests into tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/attention/registry.h"
#include "engine/backend/device.h"
#include "engine/engine.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "farspan/v1/attention.pb.h"

namespace farspan {

// Immutable once built, except the engine, which is thread-safe. Outlives every call.
struct ServedModel {
  std::string name;                // what requests may call it
  std::string system_fingerprint;  // build, weights and device
  std::unique_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;  // absent: chats are refused
  PolicyRegistry policies;
  v1::AttentionSpec default_attention;
  DeviceChoice device;
  ModelShape shape;  // max_context_tokens is the limit of prompt and output together
  int64_t num_threads = 1;
  std::unique_ptr<Engine> engine;  // last: it is destroyed first
};

}  // namespace farspan
