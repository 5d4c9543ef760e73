// SPDX-License-Identifier: Apache-2.0
// How the server process ends; documented in --help.
#pragma once

namespace farspan {

enum class ExitCode : int {
  kDrained = 0,
  kCut = 3,          // drained, but requests were cut
  kUsage = 64,       // wrong flags, or such as ask for more memory than there is; a restart does not help
  kInternal = 70,    // our own fault, or a port in use
  kDeviceLost = 75,  // a restart may help
  kBadModel = 78,    // the model file cannot be served; a restart does not help
};

}  // namespace farspan
