// SPDX-License-Identifier: Apache-2.0
// EngineAccounting: who holds which page, as a value.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/ids.h"
#include "engine/request.h"

namespace farspan {

struct SequenceAccount {
  SequenceId id{};
  const Request* request = nullptr;  // valid until the engine's next step
  int sample = 0;
  bool running = false;
  int64_t computed_tokens = 0;
  std::vector<PageId> pages;  // by logical page; kNoPage where it was dropped
};

// Between two steps. Cost: a copy of every block table.
struct EngineAccounting {
  static constexpr PageId kNoPage{-1};

  std::vector<int32_t> reference_counts;  // by page
  int64_t num_free_pages = 0;
  std::vector<PageId> cached_pages;        // named by the prefix cache, whoever else holds them
  std::vector<SequenceAccount> sequences;  // running, then waiting, each in the scheduler's order
};

}  // namespace farspan
