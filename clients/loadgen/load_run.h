// SPDX-License-Identifier: Apache-2.0
// Sends the requests of a plan to a server at their times and records what became of each.
#pragma once

#include <functional>
#include <stop_token>
#include <vector>

#include "absl/functional/function_ref.h"
#include "clients/cpp/client.h"
#include "clients/loadgen/load_pacer.h"
#include "clients/loadgen/request_record.h"

namespace farspan::loadgen {

struct LoadCall {
  v1::GenerateRequest request;
  CallOptions options;
};

struct LoadPlan {
  PacerOptions pacing;
  // Latencies count from the time at which a request was due, so that waiting for a slot or for a late sender counts;
  // else from its sending, for plans in which everything is due at once.
  bool clock_from_due = true;
  // Records the tokens of the first sample of each request.
  bool keep_tokens = false;
  // Makes the call of an index. Called on the sending thread, a little before the call is due.
  std::function<LoadCall(size_t)> make_call;
};

struct LoadProgress {
  size_t num_sent = 0;
  size_t num_ended = 0;
  size_t num_running = 0;
};

// Calls go to `clients` in turn; each should have a connection of its own. Arrivals do not wait for answers. A stop
// ends sending and cancels what runs. Returns, once every call has ended, one record a request of the plan; those not
// sent have `sent` false. Blocks; `on_progress` is called on this thread, every 100 ms or so.
std::vector<RequestRecord> RunLoad(const std::vector<Client>& clients, const LoadPlan& plan,
                                   const std::stop_token& stop,
                                   absl::FunctionRef<void(const LoadProgress&)> on_progress);

}  // namespace farspan::loadgen
