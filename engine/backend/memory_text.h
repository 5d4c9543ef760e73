// SPDX-License-Identifier: Apache-2.0
// What a backend holds, in words: for whoever has to find out why there was too little.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/backend/backend.h"

namespace farspan {

// "weights", "KV pages".
absl::string_view MemoryKindName(MemoryKind kind);

// Of all kinds together.
int64_t HeldBytes(const Backend& backend);

// What the whole device lacks beside that and what is free: what its libraries and other programs have. 0 where the
// device is the host.
int64_t OtherBytes(const Backend& backend);

// "held: weights 269100288, KV pages 0, side data of KV pages 0, activations 1024, workspace 0 bytes", and on a device
// with memory of its own ", by CUDA itself and others 612368384, free 149000000000 of 150754820096".
std::string HeldText(const Backend& backend);

}  // namespace farspan
