// SPDX-License-Identifier: Apache-2.0
// What a simulation has found: the first broken invariant, by name, with the numbers that show it.
#pragma once

#include <string>
#include <utility>

namespace farspan {

// Owned by one simulation. The first failure stands.
class Verdict {
 public:
  void Fail(std::string invariant, std::string detail) {
    if (!ok()) return;
    invariant_ = std::move(invariant);
    detail_ = std::move(detail);
  }
  bool ok() const { return invariant_.empty(); }
  const std::string& invariant() const { return invariant_; }
  const std::string& detail() const { return detail_; }

 private:
  std::string invariant_;
  std::string detail_;
};

}  // namespace farspan
