// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/admission.h"

#include "engine/base/check.h"

namespace farspan {

void Admission::Take(int64_t pages) {
  FARSPAN_CHECK(Fits(pages), "pages=", pages, " free_pages=", free_pages_, " free_seats=", free_seats_);
  --free_seats_;
  free_pages_ -= pages;
}

void Admission::Return(int64_t pages) {
  ++free_seats_;
  free_pages_ += pages;
}

}  // namespace farspan
