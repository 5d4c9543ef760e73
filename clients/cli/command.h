// SPDX-License-Identifier: Apache-2.0
// One subcommand of `farspan`: its flags, its help and what it does.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "clients/cli/console.h"
#include "clients/cli/exit_code.h"
#include "clients/cli/flag_set.h"
#include "clients/cpp/client.h"

namespace farspan::cli {

// The server, how long to wait for it and in whose name; flags of every command.
class Connection {
 public:
  // `default_timeout_seconds` 0: no limit.
  explicit Connection(double default_timeout_seconds = 0) : timeout_seconds_(default_timeout_seconds) {}

  void AddTo(FlagSet* flags);

  // FARSPAN_SERVER, else the default address, where no flag was given.
  std::string Target(const Console& console) const;
  absl::StatusOr<Client> Connect(const Console& console) const;
  CallOptions Options(const Interrupt::Action& action) const;

 private:
  std::optional<std::string> server_;
  std::string tenant_;
  double timeout_seconds_;
};

class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;
  virtual std::string summary() const = 0;
  virtual std::vector<std::string> examples() const = 0;
  // The flags write into the command, which outlives them.
  virtual void AddFlags(FlagSet* flags) = 0;
  // After the flags are parsed: what is wrong with them together.
  virtual absl::Status Check() const { return absl::OkStatus(); }
  virtual Outcome Run(Console* console) = 0;
};

// What to say of an environment variable that nothing reads and that resembles one that the command line reads; empty
// where there is nothing to say.
std::string VariableWarning(absl::string_view name);

std::unique_ptr<Command> NewGenerateCommand();
std::unique_ptr<Command> NewChatCommand();
std::unique_ptr<Command> NewCompareCommand();
std::unique_ptr<Command> NewBenchCommand();
std::unique_ptr<Command> NewTopCommand();
std::unique_ptr<Command> NewPoliciesCommand();
std::unique_ptr<Command> NewTokenizeCommand();
std::unique_ptr<Command> NewInfoCommand();
std::unique_ptr<Command> NewHealthCommand();

// All commands, in the order of the help.
std::vector<std::unique_ptr<Command>> AllCommands();

// The whole program: `arguments` without the program's name. Prints help, version and failures; returns the exit code.
int RunFarspan(const std::vector<std::string>& arguments, Console* console);

}  // namespace farspan::cli
