// SPDX-License-Identifier: Apache-2.0
#include "server/call_origin.h"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/error.h"

namespace farspan {
namespace {

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

absl::Status Refusal(absl::string_view rule, absl::string_view got) {
  return InvalidFields({{kTenantHeader, absl::StrCat(rule, ", got ", got)}});
}

absl::Status ReadTenant(const Metadata& metadata, std::string* tenant) {
  const auto [begin, end] = metadata.equal_range(kTenantHeader);
  const auto count = std::distance(begin, end);
  if (count == 0) return absl::OkStatus();
  if (count > 1) return Refusal("must be given once", absl::StrCat(count, " times"));
  tenant->assign(begin->second.data(), begin->second.size());
  const bool printable = std::all_of(tenant->begin(), tenant->end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (!tenant->empty() && tenant->size() <= kMaxTenantBytes && printable) return absl::OkStatus();
  return Refusal(absl::StrCat("must have 1 to ", kMaxTenantBytes, " bytes of printable ASCII"),
                 printable ? absl::StrCat(tenant->size(), " bytes") : "other bytes");
}

}  // namespace

CallOrigin ReadOrigin(const Metadata& metadata, bool trust_tenant_header) {
  CallOrigin origin;
  std::optional<TraceContext> trace;
  const auto [begin, end] = metadata.equal_range("traceparent");
  if (std::distance(begin, end) == 1) {
    trace = ContinueTrace(absl::string_view(begin->second.data(), begin->second.size()));
  }
  origin.trace = trace ? *std::move(trace) : BeginTrace();
  if (trust_tenant_header) origin.refusal = ReadTenant(metadata, &origin.tenant);
  if (!origin.refusal.ok()) origin.tenant.clear();
  return origin;
}

std::string TenantHash(absl::string_view tenant) {
  constexpr size_t kShownBytes = 8;
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(tenant.data()), tenant.size(), digest.data());
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), kShownBytes));
}

}  // namespace farspan
