// SPDX-License-Identifier: Apache-2.0
// FARSPAN_CHECK: ends the process on a broken invariant of our own, printing the expression and the values.
// Never reachable from a request or a file: those get an absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace farspan::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* expression, const std::string& values) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, expression, values.empty() ? "" : " with ",
               values.c_str());
  std::abort();
}

}  // namespace farspan::internal

// FARSPAN_CHECK(pages >= 0, "pages=", pages);
#define FARSPAN_CHECK(condition, ...)                                                              \
  do {                                                                                             \
    if (!(condition)) [[unlikely]]                                                                 \
      ::farspan::internal::CheckFailed(__FILE__, __LINE__, #condition, absl::StrCat(__VA_ARGS__)); \
  } while (false)
