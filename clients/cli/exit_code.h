// SPDX-License-Identifier: Apache-2.0
// How a command ends: a documented exit code and, on failure, one sentence.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace farspan::cli {

// Numbers follow sysexits.h, timeout(1) and the shell's 128 + signal.
enum class ExitCode {
  kOk = 0,
  kRequestFailed = 1,
  kUsage = 64,
  kBadInput = 65,
  kNoInput = 66,
  kUnavailable = 69,
  kOutputFailed = 74,
  kOverloaded = 75,
  kDeadline = 124,
  kInterrupted = 130,
};

struct ExitCodeDoc {
  ExitCode code;
  absl::string_view meaning;
};

// Every code with its meaning, for the help.
const std::vector<ExitCodeDoc>& ExitCodeDocs();

struct Outcome {
  ExitCode code = ExitCode::kOk;
  std::string sentence;  // empty: nothing to say
};

// A wrong flag.
Outcome UsageFailure(const absl::Status& status);
// A file that cannot be read (NOT_FOUND) or does not hold what it should (any other code).
Outcome InputFailure(const absl::Status& status);

// What happened to a call before it failed.
struct CallProgress {
  std::string target;
  bool answered = false;  // an event had arrived
  bool interrupted = false;
};

// A call that failed. The sentence holds text of the server's, unescaped.
Outcome CallFailure(const absl::Status& status, const CallProgress& progress);

}  // namespace farspan::cli
