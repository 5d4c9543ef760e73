// SPDX-License-Identifier: Apache-2.0
// One call with one answer, stoppable with Ctrl-C.
#pragma once

#include <utility>

#include "clients/cli/command.h"

namespace farspan::cli {

// `call(client, options)` returns StatusOr<Response>; `response` is set where the outcome is success.
template <typename Response, typename Call>
Outcome CallServer(const Connection& connection, Console* console, Call call, Response* response) {
  absl::StatusOr<Client> client = connection.Connect(*console);
  if (!client.ok()) return UsageFailure(client.status());
  const Interrupt::Action action(&console->interrupt);
  absl::StatusOr<Response> answer = call(*client, connection.Options(action));
  if (!answer.ok()) {
    return CallFailure(answer.status(),
                       {.target = connection.Target(*console), .answered = false, .interrupted = action.interrupted()});
  }
  *response = *std::move(answer);
  return {};
}

}  // namespace farspan::cli
