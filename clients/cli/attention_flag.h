// SPDX-License-Identifier: Apache-2.0
// Attention policies as a person writes and reads them.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "clients/cli/flag_set.h"
#include "farspan/v1/attention.pb.h"

namespace farspan::cli {

// Protobuf text format, "window { sink_tokens: 4 }", or a policy's bare name, "dense". INVALID_ARGUMENT says what is
// wrong and which policies there are.
absl::StatusOr<v1::AttentionSpec> ParseAttention(const std::string& text);

// The policy's name and, in braces, the options that differ from their defaults: "window{window_tokens=64}".
std::string AttentionLabel(const v1::AttentionSpec& attention);

// A flag that sets the policy that `mutable_spec()` returns, called only when the flag is given.
void AddAttentionFlag(const std::string& name, const std::string& doc, std::function<v1::AttentionSpec*()> mutable_spec,
                      FlagSet* flags);

// A flag that adds to `specs` each time that it is given, up to `max_items`.
void AddAttentionFlag(const std::string& name, const std::string& doc, int64_t max_items,
                      google::protobuf::RepeatedPtrField<v1::AttentionSpec>* specs, FlagSet* flags);

}  // namespace farspan::cli
