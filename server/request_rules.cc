// SPDX-License-Identifier: Apache-2.0
#include "server/request_rules.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"
#include "farspan/v1/options.pb.h"

namespace farspan {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

// Walks one message tree; one instance for one check.
class TextAndOneofChecker {
 public:
  explicit TextAndOneofChecker(std::vector<FieldViolation>* violations) : violations_(*violations) {}

  void Check(const Message& message, const std::string& path) {
    const Descriptor* descriptor = message.GetDescriptor();
    for (int i = 0; i < descriptor->real_oneof_decl_count(); ++i) CheckOneof(message, path, *descriptor->oneof_decl(i));
    for (int i = 0; i < descriptor->field_count() && !full(); ++i) {
      const FieldDescriptor* field = descriptor->field(i);
      CheckField(message, *field, path.empty() ? field->name() : absl::StrCat(path, ".", field->name()));
    }
  }

 private:
  bool full() const { return violations_.size() >= kMaxFieldViolations; }

  void CheckOneof(const Message& message, const std::string& path, const OneofDescriptor& oneof) {
    if (message.GetReflection()->HasOneof(message, &oneof)) return;
    std::string names;
    for (int i = 0; i < oneof.field_count(); ++i) {
      // A member with a default is the choice of who makes none.
      if (!oneof.field(i)->options().GetExtension(v1::rule).default_value().empty()) return;
      absl::StrAppend(&names, i == 0 ? "" : ", ", oneof.field(i)->name());
    }
    violations_.push_back({path.empty() ? oneof.name() : path,
                           absl::StrCat("must hold one of ", names, ", got none that this server knows")});
  }

  void CheckField(const Message& message, const FieldDescriptor& field, const std::string& path) {
    const Reflection* reflection = message.GetReflection();
    const bool repeated = field.is_repeated();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!repeated) {
        if (reflection->HasField(message, &field)) Check(reflection->GetMessage(message, &field), path);
        return;
      }
      for (int i = 0; i < reflection->FieldSize(message, &field) && !full(); ++i) {
        Check(reflection->GetRepeatedMessage(message, &field, i), absl::StrCat(path, "[", i, "]"));
      }
    } else if (field.type() == FieldDescriptor::TYPE_BYTES) {
      std::string scratch;
      if (!repeated) {
        CheckText(reflection->GetStringReference(message, &field, &scratch), path);
        return;
      }
      for (int i = 0; i < reflection->FieldSize(message, &field) && !full(); ++i) {
        CheckText(reflection->GetRepeatedStringReference(message, &field, i, &scratch),
                  absl::StrCat(path, "[", i, "]"));
      }
    }
  }

  void CheckText(const std::string& text, const std::string& path) {
    const std::optional<size_t> offset = FindInvalidUtf8(text);
    if (offset) violations_.push_back({path, absl::StrCat("invalid UTF-8 at byte ", *offset)});
  }

  std::vector<FieldViolation>& violations_;
};

}  // namespace

std::vector<FieldViolation> CheckRequest(const Message& message) {
  std::vector<FieldViolation> violations = CheckFieldRules(message);
  TextAndOneofChecker(&violations).Check(message, "");
  return violations;
}

std::string Sentence(const FieldViolation& violation) {
  return violation.field.empty() ? violation.description : absl::StrCat(violation.field, ": ", violation.description);
}

}  // namespace farspan
