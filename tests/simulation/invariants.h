// SPDX-License-Identifier: Apache-2.0
// What must hold between any two steps of an engine.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/engine_accounting.h"
#include "engine/metrics/metrics_sink.h"
#include "tests/simulation/verdict.h"

namespace farspan {

// The token of a live request's sample at a logical position.
using TokenAt = std::function<TokenId(const SequenceAccount& sequence, int64_t position)>;

// "page_accounting": each page is free, cached or in use, and its references are exactly those that hold it.
void CheckPages(const EngineAccounting& accounting, Verdict* verdict);

// "page_sharing": who holds one page has the same tokens up to its end, the same tenant, and fingerprints that allow
// it.
void CheckSharing(const EngineAccounting& accounting, int64_t page_tokens, const TokenAt& token_at, Verdict* verdict);

// "gauges": what was published equals what is held, and sums to all pages.
void CheckGauges(const EngineAccounting& accounting, const EngineGauges& gauges, Verdict* verdict);

// "gauges": each policy's requests and bytes are those of its sequences, a shared page counted in each.
void CheckPolicyGauges(const EngineAccounting& accounting, const EngineGauges& gauges, int64_t page_bytes,
                       Verdict* verdict);

}  // namespace farspan
