// SPDX-License-Identifier: Apache-2.0
// The streams and surroundings of one run of the command line.
#pragma once

#include <istream>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "clients/cli/interrupt.h"

namespace farspan::cli {

struct Console {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  Interrupt& interrupt;
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool color = false;          // only where a terminal shows it
  int columns = 100;           // of the terminal; of the help where there is none
  std::string default_server;  // FARSPAN_SERVER; empty where unset

  // Text that a server sent, as this output may show it: escaped on a terminal, raw elsewhere.
  std::string ForOut(absl::string_view text) const;
  std::string ForErr(absl::string_view text) const;
};

}  // namespace farspan::cli
