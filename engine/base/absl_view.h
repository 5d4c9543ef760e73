// SPDX-License-Identifier: Apache-2.0
// Debian's Abseil keeps a string_view of its own, which StrCat and the escapers take; ours is std::string_view.
#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace farspan {

// absl::StrCat("key ", AbslView(key));
inline absl::string_view AbslView(std::string_view text) { return absl::string_view(text.data(), text.size()); }

}  // namespace farspan
