// SPDX-License-Identifier: Apache-2.0
// FairQueue: how many tokens each tenant has been given, so that the one given least goes first. Tenants weigh alike;
// what the engine computes again, after a preemption say, is charged once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace farspan {

// Engine thread only. Knows tenants with live requests alone: whoever comes, or comes back, starts level with the
// least served of them, so that idling saves up no credit.
class FairQueue {
 public:
  void Enter(const std::string& tenant);
  void Leave(const std::string& tenant);
  void Charge(const std::string& tenant, int64_t tokens);
  // Tokens given so far, comparable between live tenants.
  int64_t served_tokens(const std::string& tenant) const;
  int64_t num_tenants() const { return static_cast<int64_t>(tenants_.size()); }

 private:
  struct Account {
    int64_t num_requests = 0;
    int64_t served_tokens = 0;
  };
  absl::flat_hash_map<std::string, Account> tenants_;
};

}  // namespace farspan
