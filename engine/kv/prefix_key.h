// SPDX-License-Identifier: Apache-2.0
// The name of a KV page's content: a SHA-256 over everything that decides its bytes. Equal keys, equal pages.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/ids.h"
#include "engine/base/model_shape.h"

namespace farspan {

using PrefixKey = std::array<uint8_t, 32>;

// What computed a page: decode rows sum in another order than prefill does, so that the same tokens have other bits.
enum class PagePhase : uint8_t { kPrompt, kDecoded };

// Who may share pages with whom: length-framed tenant, model, policy fingerprint, phase and element type, so that no
// two different scopes have one spelling. Compared whole, so a collision of keys never crosses it.
using PrefixScope = std::shared_ptr<const std::string>;

PrefixScope MakePrefixScope(std::string_view tenant, std::string_view model_id, KvFingerprint fingerprint,
                            PagePhase phase, KvDtype kv_dtype);

// The key of the page that holds `tokens` after the page named `parent`; the first page's parent is PrefixKey{}.
PrefixKey MakePrefixKey(const PrefixScope& scope, const PrefixKey& parent, std::span<const TokenId> tokens);

}  // namespace farspan
