// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/command.h"

namespace farspan::cli {
namespace {

constexpr const char* kVersionLine = "farspan " FARSPAN_VERSION "\n";

int HelpColumns(const Console& console) { return std::clamp(console.columns, 60, 100); }

std::string ProgramHelp(const std::vector<std::unique_ptr<Command>>& commands, int columns) {
  std::string help =
      "farspan: talk to a Farspan inference server.\n\n"
      "Usage: farspan COMMAND [--flag VALUE ...]\n"
      "       farspan COMMAND --help\n"
      "       farspan --version\n\nCommands:\n";
  for (const auto& command : commands)
    absl::StrAppendFormat(&help, "  %-10s %s\n", command->name(), command->summary());
  absl::StrAppend(&help, "\nEnvironment:\n  FARSPAN_SERVER  the server's HOST:PORT where --server is not given\n",
                  "  NO_COLOR        no colours on a terminal\n\nExit codes:\n");
  for (const ExitCodeDoc& doc : ExitCodeDocs()) {
    absl::StrAppendFormat(&help, "  %3d  %s", static_cast<int>(doc.code), Wrap(doc.meaning, 7, columns).substr(7));
  }
  return help;
}

std::string CommandHelp(const Command& command, const FlagSet& flags, int columns) {
  std::string help = absl::StrCat("farspan ", command.name(), ": ", command.summary(), "\n\nExamples:\n");
  for (const std::string& example : command.examples()) absl::StrAppend(&help, "  ", example, "\n");
  return absl::StrCat(help, "\n", flags.Help(columns));
}

int Report(const Outcome& outcome, Console* console) {
  if (!outcome.sentence.empty()) {
    console->out.flush();
    console->err << (console->color && console->err_is_terminal ? "\x1b[31mfarspan:\x1b[0m " : "farspan: ")
                 << console->ForErr(outcome.sentence) << "\n";
  }
  return static_cast<int>(outcome.code);
}

Outcome RunCommand(Command* command, const std::vector<std::string>& arguments, Console* console) {
  FlagSet flags;
  command->AddFlags(&flags);
  if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end() ||
      std::find(arguments.begin(), arguments.end(), "-h") != arguments.end()) {
    console->out << CommandHelp(*command, flags, HelpColumns(*console));
    return {};
  }
  absl::Status status = flags.Parse(arguments);
  if (status.ok()) status = command->Check();
  return status.ok() ? command->Run(console) : UsageFailure(status);
}

Outcome UnknownCommand(const std::string& word, const std::vector<std::unique_ptr<Command>>& commands) {
  if (absl::StartsWith(word, "-")) {
    return {ExitCode::kUsage,
            absl::StrCat("unknown flag ", Quoted(word), " before the command; flags follow the command")};
  }
  std::vector<std::string> names;
  for (const auto& command : commands) names.push_back(command->name());
  const std::optional<std::string> nearest = NearestName(word, names);
  return {ExitCode::kUsage, absl::StrCat("unknown command ", Quoted(word),
                                         nearest ? absl::StrCat(", did you mean ", *nearest, "?")
                                                 : "; farspan --help lists the commands")};
}

Outcome Dispatch(const std::vector<std::string>& arguments, Console* console) {
  const std::vector<std::unique_ptr<Command>> commands = AllCommands();
  if (arguments.empty()) {
    console->err << ProgramHelp(commands, HelpColumns(*console));
    return {ExitCode::kUsage, ""};
  }
  const std::string& word = arguments.front();
  if (word == "--help" || word == "-h" || word == "help") {
    console->out << ProgramHelp(commands, HelpColumns(*console));
    return {};
  }
  if (word == "--version") {
    console->out << kVersionLine;
    return {};
  }
  for (const auto& command : commands) {
    if (command->name() == word) return RunCommand(command.get(), {arguments.begin() + 1, arguments.end()}, console);
  }
  return UnknownCommand(word, commands);
}

}  // namespace

std::vector<std::unique_ptr<Command>> AllCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  for (const auto create : {NewGenerateCommand, NewChatCommand, NewCompareCommand, NewBenchCommand, NewTopCommand,
                            NewPoliciesCommand, NewTokenizeCommand, NewInfoCommand, NewHealthCommand}) {
    commands.push_back(create());
  }
  return commands;
}

int RunFarspan(const std::vector<std::string>& arguments, Console* console) {
  Outcome outcome = Dispatch(arguments, console);
  if (!console->out.flush() && outcome.code == ExitCode::kOk) {
    outcome = {ExitCode::kOutputFailed, "the output cannot be written"};
  }
  return Report(outcome, console);
}

}  // namespace farspan::cli
