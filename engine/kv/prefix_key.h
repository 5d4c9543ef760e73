// SPDX-License-Identifier: Apache-2.0
// The name of a KV page's content: a SHA-256 over everything that decides its bytes. Equal keys, equal pages.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/ids.h"
#include "engine/base/model_shape.h"

namespace farspan {

using PrefixKey = std::array<uint8_t, 32>;

// What decides a page's bytes beside its tokens and those before it.
struct PrefixScopeParts {
  std::string_view tenant;
  std::string_view model_id;
  KvFingerprint fingerprint;
  KvDtype kv_dtype = KvDtype::kBf16;
  // Pages of prompt tokens alone have none. Decode rows sum in another order than prefill, so that the same tokens have
  // other bits: for other pages, how many tokens of the page that holds the prompt's end are the prompt's.
  std::optional<int64_t> decoded_from;
};

// Who may share pages with whom: its parts, length-framed, so that no two different scopes have one spelling. Compared
// whole, so a collision of keys never crosses it.
using PrefixScope = std::shared_ptr<const std::string>;

PrefixScope MakePrefixScope(const PrefixScopeParts& parts);

// The key of the page that holds `tokens` after the page named `parent`; the first page's parent is PrefixKey{}.
PrefixKey MakePrefixKey(const PrefixScope& scope, const PrefixKey& parent, std::span<const TokenId> tokens);

}  // namespace farspan
