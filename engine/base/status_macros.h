// SPDX-License-Identifier: Apache-2.0
// Early return of a non-OK absl::Status or absl::StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define FARSPAN_RETURN_IF_ERROR(expression)                                                         \
  do {                                                                                              \
    if (absl::Status farspan_status_ = (expression); !farspan_status_.ok()) return farspan_status_; \
  } while (false)

// FARSPAN_ASSIGN_OR_RETURN(const int64_t bytes, FileSize(path));
#define FARSPAN_ASSIGN_OR_RETURN(declaration, expression) \
  FARSPAN_ASSIGN_OR_RETURN_IMPL(FARSPAN_CONCAT(farspan_status_or_, __LINE__), declaration, expression)

#define FARSPAN_CONCAT_IMPL(a, b) a##b
#define FARSPAN_CONCAT(a, b) FARSPAN_CONCAT_IMPL(a, b)
#define FARSPAN_ASSIGN_OR_RETURN_IMPL(status_or, declaration, expression) \
  auto status_or = (expression);                                          \
  if (!status_or.ok()) return std::move(status_or).status();              \
  declaration = *std::move(status_or)
