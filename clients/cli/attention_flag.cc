// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/attention_flag.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/flag_set.h"
#include "clients/cli/rule_flags.h"
#include "farspan/v1/options.pb.h"

namespace farspan::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::TextFormat;

class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int /*line*/, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("column ", column + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

const google::protobuf::OneofDescriptor* Policies() {
  return v1::AttentionSpec::descriptor()->FindOneofByName("policy");
}

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  for (int i = 0; i < Policies()->field_count(); ++i) names.push_back(Policies()->field(i)->name());
  return names;
}

std::string Syntax() {
  return absl::StrCat("One of ", absl::StrJoin(PolicyNames(), ", "),
                      ", with options in protobuf text format: 'window { sink_tokens: 4 window_tokens: 1024 }'.");
}

bool IsWord(const std::string& text) {
  return !text.empty() && absl::c_all_of(text, [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  });
}

absl::Status Malformed(const std::string& text, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("must name one of ", absl::StrJoin(PolicyNames(), ", "),
                                                 ", with options as in 'window { window_tokens: 1024 }', got ",
                                                 Quoted(text), why.empty() ? "" : absl::StrCat(" (", why, ")")));
}

}  // namespace

absl::StatusOr<v1::AttentionSpec> ParseAttention(const std::string& text) {
  v1::AttentionSpec attention;
  const std::string name(absl::StripAsciiWhitespace(text));
  const FieldDescriptor* field = v1::AttentionSpec::descriptor()->FindFieldByName(name);
  if (field != nullptr) {
    attention.GetReflection()->MutableMessage(&attention, field);
    return attention;
  }
  if (IsWord(name)) {
    const std::optional<std::string> nearest = NearestName(name, PolicyNames());
    return Malformed(text, nearest ? absl::StrCat("did you mean ", *nearest, "?") : "");
  }
  FirstError error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text, &attention)) return Malformed(text, error.text());
  if (attention.policy_case() == v1::AttentionSpec::POLICY_NOT_SET) return Malformed(text, "");
  if (absl::Status status = CheckRules(attention); !status.ok()) return status;
  return attention;
}

std::string AttentionLabel(const v1::AttentionSpec& attention) {
  const FieldDescriptor* policy = attention.GetReflection()->GetOneofFieldDescriptor(attention, Policies());
  if (policy == nullptr) return "unknown";
  const google::protobuf::Message& options = attention.GetReflection()->GetMessage(attention, policy);
  std::vector<const FieldDescriptor*> fields;
  options.GetReflection()->ListFields(options, &fields);
  std::vector<std::string> parts;
  for (const FieldDescriptor* field : fields) {
    if (field->is_repeated() || field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) continue;
    std::string value;
    TextFormat::PrintFieldValueToString(options, field, -1, &value);
    if (value == field->options().GetExtension(v1::rule).default_value()) continue;
    parts.push_back(absl::StrCat(field->name(), "=", value));
  }
  return parts.empty() ? policy->name() : absl::StrCat(policy->name(), "{", absl::StrJoin(parts, ","), "}");
}

void AddAttentionFlag(const std::string& name, const std::string& doc, std::function<v1::AttentionSpec*()> mutable_spec,
                      FlagSet* flags) {
  flags->Add({.name = name,
              .value_name = "SPEC",
              .doc = absl::StrCat(doc, " ", Syntax()),
              .set = [=](const std::string& text) {
                absl::StatusOr<v1::AttentionSpec> attention = ParseAttention(text);
                if (attention.ok()) *mutable_spec() = *std::move(attention);
                return attention.status();
              }});
}

void AddAttentionFlag(const std::string& name, const std::string& doc, int64_t max_items,
                      google::protobuf::RepeatedPtrField<v1::AttentionSpec>* specs, FlagSet* flags) {
  flags->Add({.name = name,
              .value_name = "SPEC",
              .doc = absl::StrCat(doc, " ", Syntax()),
              .repeated = true,
              .set = [=](const std::string& text) {
                absl::StatusOr<v1::AttentionSpec> attention = ParseAttention(text);
                if (!attention.ok()) return attention.status();
                if (specs->size() >= max_items) {
                  return absl::InvalidArgumentError(absl::StrCat("may be given at most ", max_items, " times"));
                }
                *specs->Add() = *std::move(attention);
                return absl::OkStatus();
              }});
}

}  // namespace farspan::cli
