// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/number_flags.h"

#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace farspan::cli {
namespace {

std::string WithDefault(const std::string& doc, const std::string& value) {
  return absl::StrCat(doc, " [default ", value, "].");
}

}  // namespace

absl::Status ParseNumber(const std::string& text, const NumberBounds& bounds, double* value) {
  double parsed = 0;
  const bool fits = absl::SimpleAtod(text, &parsed) && std::isfinite(parsed) && parsed <= bounds.maximum &&
                    (bounds.exclusive_minimum ? parsed > bounds.minimum : parsed >= bounds.minimum);
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("must be a number ", bounds.exclusive_minimum ? "above " : "from ",
                                                   bounds.minimum, bounds.exclusive_minimum ? " and at most " : " to ",
                                                   bounds.maximum, ", got ", Quoted(text)));
  }
  *value = parsed;
  return absl::OkStatus();
}

absl::Status ParseWhole(const std::string& text, int64_t minimum, int64_t maximum, int64_t* value) {
  int64_t parsed = 0;
  if (!absl::SimpleAtoi(text, &parsed) || parsed < minimum || parsed > maximum) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be a whole number from ", minimum, " to ", maximum, ", got ", Quoted(text)));
  }
  *value = parsed;
  return absl::OkStatus();
}

void AddNumberFlag(std::string name, std::string value_name, std::string doc, const NumberBounds& bounds, double* value,
                   FlagSet* flags) {
  flags->Add({.name = std::move(name),
              .value_name = std::move(value_name),
              .doc = WithDefault(doc, absl::StrCat(*value)),
              .set = [=](const std::string& text) { return ParseNumber(text, bounds, value); }});
}

void AddWholeFlag(std::string name, std::string value_name, std::string doc, int64_t minimum, int64_t maximum,
                  int64_t* value, FlagSet* flags) {
  flags->Add({.name = std::move(name),
              .value_name = std::move(value_name),
              .doc = WithDefault(doc, absl::StrCat(*value)),
              .set = [=](const std::string& text) { return ParseWhole(text, minimum, maximum, value); }});
}

}  // namespace farspan::cli
