// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/progress_line.h"

#include "clients/cli/display_text.h"

namespace farspan::cli {
namespace {

constexpr std::chrono::milliseconds kInterval{100};
constexpr const char* kEraseLine = "\r\x1b[K";

}  // namespace

ProgressLine::ProgressLine(Console* console, bool wanted)
    : console_(console), enabled_(wanted && console->err_is_terminal) {}

void ProgressLine::Show(absl::string_view text) {
  const auto now = std::chrono::steady_clock::now();
  if (!enabled_ || (last_ && now - *last_ < kInterval)) return;
  last_ = now;
  shown_ = true;
  const std::string line = ClipToWidth(EscapeControls(text, Controls::kEscapeAll), console_->columns - 1);
  console_->err << kEraseLine << (console_->color ? "\x1b[2m" : "") << line << (console_->color ? "\x1b[0m" : "");
  console_->err.flush();
}

void ProgressLine::Clear() {
  if (!shown_) return;
  shown_ = false;
  console_->err << kEraseLine;
  console_->err.flush();
}

}  // namespace farspan::cli
