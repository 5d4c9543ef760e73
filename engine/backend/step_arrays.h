// SPDX-License-Identifier: Apache-2.0
// How much memory the arrays of one step take on a device: what is set aside for them once, before the first step.
#pragma once

#include <cstdint>

#include "engine/base/model_shape.h"

namespace farspan {

// What a step holds at most.
struct StepLimits {
  int64_t max_rows = 1;       // of one pass
  int64_t max_sequences = 1;  // whose tokens they are
};

// Room for the arrays of every step of dense or window rows, whatever the contexts' lengths, and for choosing an eighth
// of each context, at least 4,096 tokens, by blocks of the smallest size; at most 256 MiB. A step that takes more is
// refused when it comes.
int64_t StepArrayBytes(const ModelShape& shape, const StepLimits& limits);

}  // namespace farspan
