// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/prefix_key.h"

#include <openssl/sha.h>

#include <utility>

namespace farspan {
namespace {

void AppendNumber(uint64_t number, std::string* bytes) {
  for (int shift = 0; shift < 64; shift += 8) bytes->push_back(static_cast<char>((number >> shift) & 0xff));
}

void AppendFramed(std::string_view part, std::string* bytes) {
  AppendNumber(part.size(), bytes);
  bytes->append(part);
}

}  // namespace

PrefixScope MakePrefixScope(const PrefixScopeParts& parts) {
  std::string scope;
  AppendFramed(parts.tenant, &scope);
  AppendFramed(parts.model_id, &scope);
  AppendNumber(parts.fingerprint.value, &scope);
  AppendNumber(parts.decoded_from ? static_cast<uint64_t>(*parts.decoded_from) + 1 : 0, &scope);
  AppendFramed(KvDtypeName(parts.kv_dtype), &scope);
  return std::make_shared<const std::string>(std::move(scope));
}

PrefixKey MakePrefixKey(const PrefixScope& scope, const PrefixKey& parent, std::span<const TokenId> tokens) {
  std::string bytes;
  bytes.reserve(scope->size() + parent.size() + tokens.size_bytes() + 24);
  AppendFramed(*scope, &bytes);
  AppendFramed({reinterpret_cast<const char*>(parent.data()), parent.size()}, &bytes);
  AppendFramed({reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()}, &bytes);
  PrefixKey key;
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), key.data());
  return key;
}

}  // namespace farspan
