// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/fair_queue.h"

#include <algorithm>

#include "engine/base/check.h"

namespace farspan {

void FairQueue::Enter(const std::string& tenant) {
  const auto found = tenants_.find(tenant);
  if (found != tenants_.end()) {
    ++found->second.num_requests;
    return;
  }
  Account account{.num_requests = 1};
  bool first = true;
  for (const auto& [name, other] : tenants_) {
    account.served_tokens = first ? other.served_tokens : std::min(account.served_tokens, other.served_tokens);
    first = false;
  }
  tenants_.emplace(tenant, account);
}

void FairQueue::Leave(const std::string& tenant) {
  const auto found = tenants_.find(tenant);
  FARSPAN_CHECK(found != tenants_.end());
  if (--found->second.num_requests == 0) tenants_.erase(found);
}

void FairQueue::Charge(const std::string& tenant, int64_t tokens) {
  const auto found = tenants_.find(tenant);
  FARSPAN_CHECK(found != tenants_.end());
  found->second.served_tokens += tokens;
}

int64_t FairQueue::served_tokens(const std::string& tenant) const {
  const auto found = tenants_.find(tenant);
  FARSPAN_CHECK(found != tenants_.end());
  return found->second.served_tokens;
}

}  // namespace farspan
