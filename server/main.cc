// SPDX-License-Identifier: Apache-2.0
// farspan-server: flags in, exit code out.
#include <cstdio>
#include <string>
#include <vector>

#include "server/config.h"
#include "server/lifecycle.h"
#include "server/model_description.h"

int main(int argc, char** argv) {
  const farspan::CommandLine line =
      farspan::ParseCommandLine(std::vector<std::string>(argv + 1, argv + argc), farspan::ProcessEnvironment());
  switch (line.action) {
    case farspan::CommandAction::kHelp:
      std::fputs(farspan::HelpText().c_str(), stdout);
      return 0;
    case farspan::CommandAction::kVersion:
      std::printf("farspan-server %s\n", farspan::kServerVersion);
      return 0;
    case farspan::CommandAction::kPrintConfig:
    case farspan::CommandAction::kServe:
      break;
  }
  for (const std::string& error : line.errors) std::fprintf(stderr, "farspan-server: %s\n", error.c_str());
  if (!line.errors.empty()) return static_cast<int>(farspan::ExitCode::kUsage);
  if (line.action == farspan::CommandAction::kPrintConfig) {
    for (const std::string& warning : line.warnings) std::fprintf(stderr, "farspan-server: %s\n", warning.c_str());
    std::fputs(farspan::ConfigText(farspan::WithDeviceChosen(line)).c_str(), stdout);
    return 0;
  }
  return static_cast<int>(farspan::RunServer(line));
}
