// SPDX-License-Identifier: Apache-2.0
// Malformed GGUF files, one of each kind that has hurt a reader, with what the refusal must name.
#pragma once

#include <string>
#include <vector>

namespace farspan {

struct HostileGguf {
  std::string kind;                // test name, letters and digits
  std::string bytes;               // the file
  std::vector<std::string> named;  // substrings of the refusal: key or tensor, expected, got
};

std::vector<HostileGguf> HostileGgufFiles();

// A small valid file with a key of each value type and tensors of several types.
std::string ValidGguf();

}  // namespace farspan
