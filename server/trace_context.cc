// SPDX-License-Identifier: Apache-2.0
#include "server/trace_context.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_format.h"

namespace farspan {
namespace {

// "00-" trace-id "-" parent-id "-" flags.
constexpr size_t kTraceIdAt = 3;
constexpr size_t kTraceIdDigits = 32;
constexpr size_t kParentIdAt = kTraceIdAt + kTraceIdDigits + 1;
constexpr size_t kParentIdDigits = 16;
constexpr size_t kFlagsAt = kParentIdAt + kParentIdDigits + 1;
constexpr size_t kFlagsDigits = 2;
constexpr size_t kSize = kFlagsAt + kFlagsDigits;

int DigitValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return DigitValue(c) >= 0; });
}

bool IsId(absl::string_view text) {
  return IsHex(text) && std::any_of(text.begin(), text.end(), [](char c) { return c != '0'; });
}

// 16 digits, not all zero.
std::string RandomId() {
  thread_local std::mt19937_64 generator([] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }());
  return absl::StrFormat("%016x", std::max<uint64_t>(1, generator()));
}

}  // namespace

std::optional<TraceContext> ContinueTrace(absl::string_view traceparent) {
  if (traceparent.size() < kSize) return std::nullopt;
  const absl::string_view version = traceparent.substr(0, 2);
  if (!IsHex(version) || version == "ff") return std::nullopt;
  const bool has_more = traceparent.size() > kSize;
  if (has_more && (version == "00" || traceparent[kSize] != '-')) return std::nullopt;
  const absl::string_view trace_id = traceparent.substr(kTraceIdAt, kTraceIdDigits);
  const absl::string_view parent_id = traceparent.substr(kParentIdAt, kParentIdDigits);
  const absl::string_view flags = traceparent.substr(kFlagsAt, kFlagsDigits);
  for (const size_t hyphen : {kTraceIdAt - 1, kParentIdAt - 1, kFlagsAt - 1}) {
    if (traceparent[hyphen] != '-') return std::nullopt;
  }
  if (!IsId(trace_id) || !IsId(parent_id) || !IsHex(flags)) return std::nullopt;
  return TraceContext{.trace_id = std::string(trace_id),
                      .span_id = RandomId(),
                      .parent_span_id = std::string(parent_id),
                      .flags = static_cast<uint8_t>(DigitValue(flags[0]) * 16 + DigitValue(flags[1]))};
}

TraceContext BeginTrace() { return {.trace_id = RandomId() + RandomId(), .span_id = RandomId()}; }

}  // namespace farspan
