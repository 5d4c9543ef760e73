// SPDX-License-Identifier: Apache-2.0
// One line on a terminal's standard error that is overwritten as work goes on; nothing where it is no terminal.
#pragma once

#include <chrono>
#include <optional>

#include "absl/strings/string_view.h"
#include "clients/cli/console.h"

namespace farspan::cli {

class ProgressLine {
 public:
  ProgressLine(Console* console, bool wanted);
  ~ProgressLine() { Clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // At most ten times a second; calls between are dropped.
  void Show(absl::string_view text);
  void Clear();

 private:
  Console* const console_;
  const bool enabled_;
  bool shown_ = false;
  std::optional<std::chrono::steady_clock::time_point> last_;
};

}  // namespace farspan::cli
