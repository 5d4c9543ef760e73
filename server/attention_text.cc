// SPDX-License-Identifier: Apache-2.0
#include "server/attention_text.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/attention/registry.h"
#include "server/request_rules.h"

namespace farspan {
namespace {

// Keeps the first error; the library would print it to stderr otherwise.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int /*line*/, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (text.empty()) text = absl::StrCat("column ", column + 1, ": ", message);
  }
  std::string text;
};

std::string PolicyNames() {
  const google::protobuf::OneofDescriptor* policy = v1::AttentionSpec::descriptor()->oneof_decl(0);
  std::string names;
  for (int i = 0; i < policy->field_count(); ++i) {
    absl::StrAppend(&names, i == 0 ? "" : ", ", policy->field(i)->name());
  }
  return names;
}

}  // namespace

absl::StatusOr<v1::AttentionSpec> ParseAttentionText(absl::string_view text) {
  std::string input(absl::StripAsciiWhitespace(text));
  const google::protobuf::FieldDescriptor* bare = v1::AttentionSpec::descriptor()->FindFieldByName(input);
  if (bare != nullptr) absl::StrAppend(&input, " {}");
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  v1::AttentionSpec spec;
  if (!parser.ParseFromString(input, &spec)) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be a policy in text form (", PolicyNames(), "), ", error.text));
  }
  if (spec.policy_case() == v1::AttentionSpec::POLICY_NOT_SET) {
    return absl::InvalidArgumentError(absl::StrCat("must name one of the policies ", PolicyNames()));
  }
  const std::vector<FieldViolation> violations = CheckRequest(spec);
  if (!violations.empty()) return absl::InvalidArgumentError(Sentence(violations.front()));
  if (const absl::Status status = BuiltinPolicies().Check(spec); !status.ok()) {
    return absl::InvalidArgumentError(absl::StripPrefix(status.message(), "attention."));
  }
  return spec;
}

std::string AttentionText(const v1::AttentionSpec& spec) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(spec, &text);
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace farspan
