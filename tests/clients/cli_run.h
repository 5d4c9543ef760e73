// SPDX-License-Identifier: Apache-2.0
// Runs the command line in this process on streams of the test's.
#pragma once

#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

#include "clients/cli/command.h"

namespace farspan::cli {

struct CliResult {
  ExitCode code = ExitCode::kOk;
  std::string out;
  std::string err;
};

class CliRun {
 public:
  CliRun();

  // `console` and `input` may be changed before.
  CliResult Run(const std::vector<std::string>& arguments);

  std::istringstream input;
  Interrupt interrupt;
  Console console;
  bool gave_up = false;

 private:
  std::ostringstream out_;
  std::ostringstream err_;
};

}  // namespace farspan::cli
