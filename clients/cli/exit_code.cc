// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/exit_code.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "clients/cpp/error_details.h"

namespace farspan::cli {
namespace {

// The library's own words are a chain of "context: cause"; the last link is what a person can act on.
std::string LastCause(absl::string_view message) {
  const size_t colon = message.rfind(": ");
  return std::string(colon == absl::string_view::npos ? message : message.substr(colon + 2));
}

std::string RetryHint(const ErrorDetails& details) {
  if (!details.retry_delay) return "";
  return absl::StrCat("; retry after ",
                      absl::FormatDuration(absl::Trunc(*details.retry_delay, absl::Milliseconds(100))));
}

std::string ServerMessage(const absl::Status& status, const ErrorDetails& details) {
  if (details.bad_request.field_violations_size() > 1) {
    std::vector<std::string> violations;
    for (const auto& violation : details.bad_request.field_violations()) {
      violations.push_back(absl::StrCat(violation.field(), ": ", violation.description()));
    }
    return absl::StrJoin(violations, "; ");
  }
  if (!status.message().empty()) return std::string(status.message());
  return absl::StrCat("status ", absl::StatusCodeToString(status.code()), " without a message");
}

Outcome Unavailable(const absl::Status& status, const ErrorDetails& details, const CallProgress& progress) {
  if (!details.info.reason().empty()) {
    return {ExitCode::kUnavailable, absl::StrCat("the server at ", progress.target, " is not available: ",
                                                 ServerMessage(status, details), RetryHint(details))};
  }
  const std::string cause = LastCause(status.message());
  if (progress.answered) {
    return {ExitCode::kUnavailable,
            absl::StrCat("lost the server at ", progress.target, " before the answer was complete: ", cause)};
  }
  return {ExitCode::kUnavailable, absl::StrCat("cannot reach the server at ", progress.target, ": ", cause,
                                               " (is farspan-server running? --server names another address)")};
}

Outcome Exhausted(const absl::Status& status, const ErrorDetails& details) {
  if (details.info.reason().empty()) {
    return {ExitCode::kRequestFailed, absl::StrCat("a message was too large: ", status.message())};
  }
  return {ExitCode::kOverloaded, absl::StrCat("the server is overloaded (", details.info.reason(),
                                              "): ", ServerMessage(status, details), RetryHint(details))};
}

Outcome DeadlinePassed(const ErrorDetails& details) {
  std::string where;
  const auto& metadata = details.info.metadata();
  if (const auto phase = metadata.find("phase"); phase != metadata.end())
    absl::StrAppend(&where, " in ", phase->second);
  if (const auto tokens = metadata.find("tokens"); tokens != metadata.end()) {
    absl::StrAppend(&where, " after ", tokens->second, " tokens");
  }
  return {ExitCode::kDeadline, absl::StrCat("the time limit passed", where)};
}

std::string RequestIdNote(const ErrorDetails& details) {
  return details.request_id.empty() ? "" : absl::StrCat(" (request ", details.request_id, ")");
}

}  // namespace

const std::vector<ExitCodeDoc>& ExitCodeDocs() {
  static const auto* const docs = new std::vector<ExitCodeDoc>{
      {ExitCode::kOk, "success"},
      {ExitCode::kRequestFailed, "the server refused or failed the request; health: not serving"},
      {ExitCode::kUsage, "wrong flag or command"},
      {ExitCode::kBadInput, "an input file does not hold what it should"},
      {ExitCode::kNoInput, "an input file cannot be read"},
      {ExitCode::kUnavailable, "the server cannot be reached, was lost, or is starting or draining"},
      {ExitCode::kOutputFailed, "the output cannot be written"},
      {ExitCode::kOverloaded, "the server is overloaded; retry later"},
      {ExitCode::kDeadline, "the time limit passed"},
      {ExitCode::kInterrupted, "interrupted with Ctrl-C"},
  };
  return *docs;
}

Outcome UsageFailure(const absl::Status& status) { return {ExitCode::kUsage, std::string(status.message())}; }

Outcome InputFailure(const absl::Status& status) {
  return {absl::IsNotFound(status) ? ExitCode::kNoInput : ExitCode::kBadInput, std::string(status.message())};
}

Outcome CallFailure(const absl::Status& status, const CallProgress& progress) {
  if (progress.interrupted) return {ExitCode::kInterrupted, "interrupted"};
  const ErrorDetails details = ErrorDetailsOf(status);
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return Unavailable(status, details, progress);
    case absl::StatusCode::kResourceExhausted:
      return Exhausted(status, details);
    case absl::StatusCode::kDeadlineExceeded:
      return DeadlinePassed(details);
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
      return {ExitCode::kRequestFailed, absl::StrCat("request refused: ", ServerMessage(status, details))};
    case absl::StatusCode::kUnimplemented:
      return {ExitCode::kRequestFailed, absl::StrCat("the server at ", progress.target,
                                                     " does not offer this: ", ServerMessage(status, details))};
    default:
      return {ExitCode::kRequestFailed,
              absl::StrCat("the server failed: ", ServerMessage(status, details), RequestIdNote(details))};
  }
}

}  // namespace farspan::cli
