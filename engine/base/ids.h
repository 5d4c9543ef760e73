// SPDX-License-Identifier: Apache-2.0
// Identifiers as distinct types, so that a page cannot be passed where a sequence is meant.
#pragma once

#include <compare>
#include <cstdint>

namespace farspan {

// A vocabulary index. Plain, because models, samplers and kernels do arithmetic on spans of them.
using TokenId = int32_t;

// A slot of the KV page pool, the same in every layer.
enum class PageId : int32_t {};

// One accepted request inside the engine; never reused while the engine lives.
enum class SequenceId : int64_t {};

// Names everything about a policy that changes the bytes it writes into KV pages. Pages may be shared exactly between
// sequences whose fingerprints are equal. Dense is the zero fingerprint.
struct KvFingerprint {
  uint64_t value = 0;
  friend auto operator<=>(const KvFingerprint&, const KvFingerprint&) = default;
};

}  // namespace farspan
