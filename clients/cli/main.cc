// SPDX-License-Identifier: Apache-2.0
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "clients/cli/command.h"

namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int TerminalColumns() {
  constexpr int kWithoutTerminal = 100;
  winsize size{};
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  }
  return kWithoutTerminal;
}

}  // namespace

int main(int argc, char** argv) {
  using farspan::cli::ExitCode;
  // The library would write its own lines to standard error beside ours.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  std::ios::sync_with_stdio(false);
  auto* const interrupt =
      new farspan::cli::Interrupt([] { _exit(static_cast<int>(ExitCode::kInterrupted)); });  // outlives its thread
  farspan::cli::ServeSigint(interrupt);

  farspan::cli::Console console{.in = std::cin, .out = std::cout, .err = std::cerr, .interrupt = *interrupt};
  console.in_is_terminal = isatty(STDIN_FILENO) != 0;
  console.out_is_terminal = isatty(STDOUT_FILENO) != 0;
  console.err_is_terminal = isatty(STDERR_FILENO) != 0;
  console.color = Environment("NO_COLOR").empty() && Environment("TERM") != "dumb";
  console.columns = TerminalColumns();
  console.default_server = Environment("FARSPAN_SERVER");
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string variable(*entry);
    const std::string warning = farspan::cli::VariableWarning(variable.substr(0, variable.find('=')));
    if (!warning.empty()) std::cerr << "farspan: " << warning << "\n";
  }
  return farspan::cli::RunFarspan(std::vector<std::string>(argv + 1, argv + argc), &console);
}
