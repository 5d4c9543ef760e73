// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display_text.h"
#include "clients/cli/unary_call.h"

namespace farspan::cli {
namespace {

constexpr double kDefaultTimeoutSeconds = 5;

// Container engines read 0 as healthy and 1 as unhealthy and reserve the rest, so every failure but a wrong flag is 1.
class HealthCommand final : public Command {
 public:
  std::string name() const override { return "health"; }
  std::string summary() const override { return "exit 0 when the server serves, 1 when it does not"; }
  std::vector<std::string> examples() const override {
    return {"farspan health", "farspan health --service farspan.v1.InferenceService --timeout 2"};
  }

  void AddFlags(FlagSet* flags) override {
    flags->AddText("service", "NAME", "The service to ask about [default: the server as a whole].", &service_);
    connection_.AddTo(flags);
  }

  Outcome Run(Console* console) override {
    using Response = grpc::health::v1::HealthCheckResponse;
    Response::ServingStatus status = Response::UNKNOWN;
    const auto call = [&](const Client& client, const CallOptions& options) {
      return client.CheckHealth(service_, options);
    };
    Outcome outcome = CallServer(connection_, console, call, &status);
    if (outcome.code == ExitCode::kUsage || outcome.code == ExitCode::kInterrupted) return outcome;
    if (outcome.code != ExitCode::kOk) return {ExitCode::kRequestFailed, outcome.sentence};
    console->out << Response::ServingStatus_Name(status) << "\n";
    return {status == Response::SERVING ? ExitCode::kOk : ExitCode::kRequestFailed, ""};
  }

 private:
  Connection connection_{kDefaultTimeoutSeconds};
  std::string service_;
};

}  // namespace

std::unique_ptr<Command> NewHealthCommand() { return std::make_unique<HealthCommand>(); }

}  // namespace farspan::cli
