// SPDX-License-Identifier: Apache-2.0
// UTF-8 text as a terminal shows it. Bytes that are no UTF-8 count as one column each and are escaped.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace farspan::cli {

enum class Controls { kKeepNewlines, kEscapeAll };

// Replaces control characters (C0, DEL, C1), bidirectional overrides and malformed bytes by visible escapes such as
// \x1b, so that a text cannot steer a terminal. kKeepNewlines keeps line feeds and tabs.
std::string EscapeControls(absl::string_view text, Controls controls);

// Columns that `text` takes; wide characters take two, combining marks none.
int DisplayWidth(absl::string_view text);

// The longest start of `text` within `columns`, "..." at its end where something was cut.
std::string ClipToWidth(absl::string_view text, int columns);

}  // namespace farspan::cli
