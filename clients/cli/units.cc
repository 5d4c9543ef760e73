// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/units.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace farspan::cli {
namespace {

std::string ThreeDigits(double value) {
  return absl::StrFormat("%.*f", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value);
}

}  // namespace

std::string BytesText(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return absl::StrCat(ThreeDigits(value), " ", kUnits[unit]);
}

double ToSeconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) * 1e-9;
}

std::string DurationText(const google::protobuf::Duration& duration) { return SecondsText(ToSeconds(duration)); }

std::string SecondsText(double seconds) {
  return seconds < 0.9995 ? absl::StrCat(ThreeDigits(seconds * 1e3), " ms") : absl::StrCat(ThreeDigits(seconds), " s");
}

std::string ShareText(int64_t part, int64_t whole) {
  if (whole <= 0) return "-";
  const double percent = 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  return absl::StrFormat("%.*f %%", percent < 9.995 && part != 0 ? 1 : 0, percent);
}

}  // namespace farspan::cli
