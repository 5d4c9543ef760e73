// SPDX-License-Identifier: Apache-2.0
// Flags that hold numbers, with their bounds in the help and in what is said about a wrong value.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "clients/cli/flag_set.h"

namespace farspan::cli {

struct NumberBounds {
  double minimum = 0;
  double maximum = 0;
  bool exclusive_minimum = false;
};

// A number within `bounds`; INVALID_ARGUMENT says what it must be and what was got. `value` is unchanged on failure.
absl::Status ParseNumber(const std::string& text, const NumberBounds& bounds, double* value);
absl::Status ParseWhole(const std::string& text, int64_t minimum, int64_t maximum, int64_t* value);

// The flag's default is what `value` holds when it is added.
void AddNumberFlag(std::string name, std::string value_name, std::string doc, const NumberBounds& bounds, double* value,
                   FlagSet* flags);
void AddWholeFlag(std::string name, std::string value_name, std::string doc, int64_t minimum, int64_t maximum,
                  int64_t* value, FlagSet* flags);

}  // namespace farspan::cli
