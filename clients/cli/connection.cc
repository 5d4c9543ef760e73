// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "clients/cli/command.h"

namespace farspan::cli {
namespace {

constexpr const char* kDefaultServer = "127.0.0.1:50051";
constexpr double kLongestTimeoutSeconds = 1e7;

constexpr absl::string_view kVariablePrefix = "FARSPAN_";

}  // namespace

std::string VariableWarning(absl::string_view name) {
  absl::string_view word = name;
  if (!absl::ConsumePrefix(&word, kVariablePrefix) || word == "SERVER") return "";
  // The server's own variables share the prefix; only what is close to ours is taken for a slip.
  if (!NearestName(word, {"SERVER"})) return "";
  return absl::StrCat("the environment's ", Quoted(name), " is not read, did you mean FARSPAN_SERVER?");
}

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
  flags->Add({.name = "tenant",
              .value_name = "NAME",
              .doc = "In whose name the call is made, for servers that run with --trust-tenant-header.",
              .set = [this](const std::string& text) {
                tenant_ = text;
                return CheckTenant(text);
              }});
}

std::string Connection::Target(const Console& console) const {
  if (server_) return *server_;
  return console.default_server.empty() ? kDefaultServer : console.default_server;
}

absl::StatusOr<Client> Connection::Connect(const Console& console) const { return Client::Connect(Target(console)); }

CallOptions Connection::Options(const Interrupt::Action& action) const {
  CallOptions options{.stop = action.token(), .tenant = tenant_};
  if (timeout_seconds_ > 0) {
    options.timeout = std::chrono::nanoseconds(static_cast<int64_t>(timeout_seconds_ * 1e9));
  }
  return options;
}

}  // namespace farspan::cli
