// SPDX-License-Identifier: Apache-2.0
// Who calls and in which trace: what is read from a call's metadata.
#pragma once

#include <map>
#include <string>

#include <grpcpp/support/string_ref.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/trace_context.h"

namespace farspan {

inline constexpr char kTenantHeader[] = "x-farspan-tenant";
inline constexpr size_t kMaxTenantBytes = 64;

struct CallOrigin {
  TraceContext trace;
  std::string tenant;    // empty: the one of all callers that name none
  absl::Status refusal;  // INVALID_ARGUMENT for a tenant that is no tenant's name
};

// The tenant is read only where the header is trusted. A malformed or repeated traceparent begins a new trace.
CallOrigin ReadOrigin(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, bool trust_tenant_header);

// What the log writes for a tenant: 16 digits of its SHA-256. Equal for equal names; short names can be guessed from
// it.
std::string TenantHash(absl::string_view tenant);

}  // namespace farspan
