// SPDX-License-Identifier: Apache-2.0
// How much of the engine is promised to admitted requests: seats and pages.
#pragma once

#include <cstdint>

namespace farspan {

// Engine thread only. A value: planning copies it, tries, and throws the copy away.
class Admission {
 public:
  Admission(int64_t max_seats, int64_t max_pages) : free_seats_(max_seats), free_pages_(max_pages) {}

  // True when one more request of `pages` fits now.
  bool Fits(int64_t pages) const { return free_seats_ > 0 && pages <= free_pages_; }
  // Fits(pages) must hold.
  void Take(int64_t pages);
  void Return(int64_t pages);

  int64_t free_pages() const { return free_pages_; }

 private:
  int64_t free_seats_;
  int64_t free_pages_;
};

}  // namespace farspan
