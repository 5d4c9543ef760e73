// SPDX-License-Identifier: Apache-2.0
// The flags of a GenerationSpec except its prompt, made from the messages' rules.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "clients/cli/flag_set.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

// Parsing writes into `spec`, which must outlive the flags.
void AddGenerationFlags(v1::GenerationSpec* spec, FlagSet* flags);

// INVALID_ARGUMENT where several samples are asked for, which `place` ("a chat") has no use for.
absl::Status CheckOneSample(const v1::GenerationSpec& spec, const std::string& place);

}  // namespace farspan::cli
