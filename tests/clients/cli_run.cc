// SPDX-License-Identifier: Apache-2.0
#include "tests/clients/cli_run.h"

namespace farspan::cli {

CliRun::CliRun()
    : interrupt([this] { gave_up = true; }), console{.in = input, .out = out_, .err = err_, .interrupt = interrupt} {}

CliResult CliRun::Run(const std::vector<std::string>& arguments) {
  out_.str("");
  err_.str("");
  const int code = RunFarspan(arguments, &console);
  return {static_cast<ExitCode>(code), out_.str(), err_.str()};
}

}  // namespace farspan::cli
