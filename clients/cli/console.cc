// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/console.h"

#include "clients/cli/display_text.h"

namespace farspan::cli {

std::string Console::ForOut(absl::string_view text) const {
  return out_is_terminal ? EscapeControls(text, Controls::kKeepNewlines) : std::string(text);
}

std::string Console::ForErr(absl::string_view text) const {
  return err_is_terminal ? EscapeControls(text, Controls::kKeepNewlines) : std::string(text);
}

}  // namespace farspan::cli
