// SPDX-License-Identifier: Apache-2.0
// Numbers for people: three significant digits and a unit.
#pragma once

#include <google/protobuf/duration.pb.h>

#include <cstdint>
#include <string>

namespace farspan::cli {

// "845 B", "33.0 MiB".
std::string BytesText(int64_t bytes);

// "12.3 s", "45.6 ms".
std::string DurationText(const google::protobuf::Duration& duration);
std::string SecondsText(double seconds);

double ToSeconds(const google::protobuf::Duration& duration);

// "12 %"; "-" where `whole` is 0.
std::string ShareText(int64_t part, int64_t whole);

}  // namespace farspan::cli
