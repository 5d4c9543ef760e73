// SPDX-License-Identifier: Apache-2.0
#include "engine/kv/prefix_key.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace farspan {
namespace {

PrefixScope Scope(std::string_view tenant, std::string_view model = "model") {
  return MakePrefixScope({.tenant = tenant, .model_id = model});
}

std::string Hex(const PrefixKey& key) {
  std::string hex;
  for (const uint8_t byte : key) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[byte >> 4];
    hex += kDigits[byte & 15];
  }
  return hex;
}

TEST(PrefixKeyTest, EveryPartOfTheScopeCounts) {
  const std::vector<TokenId> tokens = {1, 2, 3};
  const PrefixKey key = MakePrefixKey(Scope("a"), PrefixKey{}, tokens);
  EXPECT_EQ(MakePrefixKey(Scope("a"), PrefixKey{}, tokens), key);
  EXPECT_NE(MakePrefixKey(Scope("b"), PrefixKey{}, tokens), key);
  EXPECT_NE(MakePrefixKey(Scope("a", "other"), PrefixKey{}, tokens), key);
  const PrefixScopeParts parts = {.tenant = "a", .model_id = "model"};
  PrefixScopeParts sparse = parts, decoded = parts, decoded_later = parts, wide = parts;
  sparse.fingerprint = KvFingerprint{7};
  decoded.decoded_from = 0;
  decoded_later.decoded_from = 5;
  wide.kv_dtype = KvDtype::kF32;
  std::vector<PrefixKey> keys = {key};
  for (const PrefixScopeParts& other : {sparse, decoded, decoded_later, wide}) {
    const PrefixKey other_key = MakePrefixKey(MakePrefixScope(other), PrefixKey{}, tokens);
    EXPECT_EQ(std::count(keys.begin(), keys.end(), other_key), 0);
    keys.push_back(other_key);
  }
  EXPECT_NE(MakePrefixKey(Scope("a"), key, tokens), key) << "the parent";
  EXPECT_NE(MakePrefixKey(Scope("a"), PrefixKey{}, std::vector<TokenId>{1, 2, 4}), key);
}

TEST(PrefixKeyTest, NoTwoScopesShareASpelling) {
  EXPECT_NE(*Scope("org_1", "2345"), *Scope("org_12345", ""));
  EXPECT_NE(*Scope("", "a"), *Scope("a", ""));
}

// Computed apart from this code: python3 -c "import hashlib, struct; q=lambda n: struct.pack('<Q', n);
// s=q(1)+b'a'+q(5)+b'model'+q(0)+q(0)+q(4)+b'bf16'; t=struct.pack('<3i',1,2,3);
// print(hashlib.sha256(q(len(s))+s+q(32)+bytes(32)+q(len(t))+t).hexdigest())"
TEST(PrefixKeyTest, IsTheSha256OfTheFramedParts) {
  EXPECT_EQ(Hex(MakePrefixKey(Scope("a"), PrefixKey{}, std::vector<TokenId>{1, 2, 3})),
            "fafe466aca9a2e0f76671f55dab417f8742da54af5bf0f76c79c40f1b00115ac");
}

}  // namespace
}  // namespace farspan
