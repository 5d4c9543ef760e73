// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"

namespace farspan::cli {
namespace {

constexpr const char* kDefaultServer = "127.0.0.1:50051";
constexpr double kLongestTimeoutSeconds = 1e7;

}  // namespace

void Connection::AddTo(FlagSet* flags) {
  flags->AddText("server", "HOST:PORT",
                 absl::StrCat("The server [default: the environment's FARSPAN_SERVER, else ", kDefaultServer, "]."),
                 &server_);
  flags->Add({.name = "timeout",
              .value_name = "SECONDS",
              .doc = absl::StrCat("Gives up after this time [default ",
                                  timeout_seconds_ > 0 ? absl::StrCat(timeout_seconds_) : "none", "]."),
              .set = [this](const std::string& text) {
                double seconds = 0;
                if (!absl::SimpleAtod(text, &seconds) || !(seconds > 0) || seconds > kLongestTimeoutSeconds) {
                  return absl::InvalidArgumentError(
                      absl::StrCat("must be above 0 and at most 10000000 seconds, got ", Quoted(text)));
                }
                timeout_seconds_ = seconds;
                return absl::OkStatus();
              }});
}

std::string Connection::Target(const Console& console) const {
  if (server_) return *server_;
  return console.default_server.empty() ? kDefaultServer : console.default_server;
}

absl::StatusOr<Client> Connection::Connect(const Console& console) const { return Client::Connect(Target(console)); }

CallOptions Connection::Options(const Interrupt::Action& action) const {
  CallOptions options{.stop = action.token()};
  if (timeout_seconds_ > 0) {
    options.timeout = std::chrono::nanoseconds(static_cast<int64_t>(timeout_seconds_ * 1e9));
  }
  return options;
}

}  // namespace farspan::cli
