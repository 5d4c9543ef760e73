// SPDX-License-Identifier: Apache-2.0
// The W3C trace context of a call: which trace it belongs to, and the span that this server's work is in it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace farspan {

// Ids are lower-case hexadecimal and never all zero.
struct TraceContext {
  std::string trace_id;        // 32 digits
  std::string span_id;         // 16 digits; this server's own
  std::string parent_span_id;  // the caller's; empty where the trace begins here
  uint8_t flags = 0;           // bit 0: the caller may have recorded the trace
};

// A child of the span that `traceparent` names. None where it is malformed by https://www.w3.org/TR/trace-context,
// whose later versions may append to it.
std::optional<TraceContext> ContinueTrace(absl::string_view traceparent);

// The first span of a new trace.
TraceContext BeginTrace();

}  // namespace farspan
