// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/rule_flags.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "clients/cli/units.h"
#include "farspan/v1/options.pb.h"

namespace farspan::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

const v1::FieldRule& RuleOf(const FieldDescriptor* field) { return field->options().GetExtension(v1::rule); }

std::string Number(double value) {
  if (std::trunc(value) == value && std::abs(value) < 1e15) return absl::StrCat(static_cast<int64_t>(value));
  return absl::StrFormat("%g", value);
}

// "between 0 and 20", "above 0", empty where every value goes.
std::string RangeText(const v1::FieldRule& rule) {
  if (rule.has_minimum() && rule.has_maximum()) {
    if (rule.exclusive_minimum())
      return absl::StrCat("above ", Number(rule.minimum()), " and at most ", Number(rule.maximum()));
    return absl::StrCat("between ", Number(rule.minimum()), " and ", Number(rule.maximum()));
  }
  if (rule.has_minimum())
    return absl::StrCat(rule.exclusive_minimum() ? "above " : "at least ", Number(rule.minimum()));
  if (rule.has_maximum()) return absl::StrCat("at most ", Number(rule.maximum()));
  return "";
}

std::string SizeText(const v1::FieldRule& rule) {
  if (rule.has_min_bytes() && rule.has_max_bytes()) {
    return absl::StrCat(rule.min_bytes(), " to ", rule.max_bytes(), " bytes long");
  }
  if (rule.has_min_bytes()) return absl::StrCat("at least ", rule.min_bytes(), " bytes long");
  if (rule.has_max_bytes()) return absl::StrCat("at most ", rule.max_bytes(), " bytes long");
  return "";
}

bool InRange(const v1::FieldRule& rule, double value) {
  if (rule.has_minimum() && (rule.exclusive_minimum() ? value <= rule.minimum() : value < rule.minimum())) return false;
  return !rule.has_maximum() || value <= rule.maximum();
}

absl::Status CheckNumber(const FieldDescriptor* field, double value, const std::string& written) {
  if (!std::isfinite(value)) return absl::InvalidArgumentError(absl::StrCat("must be a finite number, got ", written));
  if (InRange(RuleOf(field), value)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("must be ", RangeText(RuleOf(field)), ", got ", written));
}

absl::Status CheckText(const FieldDescriptor* field, const std::string& value) {
  const v1::FieldRule& rule = RuleOf(field);
  const auto size = static_cast<int64_t>(value.size());
  const bool fits =
      (!rule.has_min_bytes() || size >= rule.min_bytes()) && (!rule.has_max_bytes() || size <= rule.max_bytes());
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("must be ", SizeText(rule), ", got ", size, " bytes"));
}

absl::Status CheckCount(const FieldDescriptor* field, int64_t items) {
  if (!RuleOf(field).has_max_items() || items <= RuleOf(field).max_items()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("at most ", RuleOf(field).max_items(), " may be given, got ", items));
}

std::vector<std::string> EnumNames(const FieldDescriptor* field) {
  std::vector<std::string> names;
  for (int i = 0; i < field->enum_type()->value_count(); ++i) {
    if (field->enum_type()->value(i)->number() != 0) names.push_back(field->enum_type()->value(i)->name());
  }
  return names;
}

template <typename Value>
void Store(Message* message, const FieldDescriptor* field, Value value,
           void (Reflection::*set)(Message*, const FieldDescriptor*, Value) const,
           void (Reflection::*add)(Message*, const FieldDescriptor*, Value) const) {
  const Reflection* reflection = message->GetReflection();
  (reflection->*(field->is_repeated() ? add : set))(message, field, std::move(value));
}

absl::Status StoreInteger(Message* message, const FieldDescriptor* field, const std::string& text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat("must be a whole number, got ", Quoted(text)));
  }
  if (absl::Status status = CheckNumber(field, static_cast<double>(value), text); !status.ok()) return status;
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
    Store<int64_t>(message, field, value, &Reflection::SetInt64, &Reflection::AddInt64);
    return absl::OkStatus();
  }
  using Limits = std::numeric_limits<int32_t>;
  if (value < Limits::min() || value > Limits::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be between ", Limits::min(), " and ", Limits::max(), ", got ", text));
  }
  Store<int32_t>(message, field, static_cast<int32_t>(value), &Reflection::SetInt32, &Reflection::AddInt32);
  return absl::OkStatus();
}

absl::Status StoreNumber(Message* message, const FieldDescriptor* field, const std::string& text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat("must be a number, got ", Quoted(text)));
  }
  if (absl::Status status = CheckNumber(field, value, text); !status.ok()) return status;
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_FLOAT) {
    Store<float>(message, field, static_cast<float>(value), &Reflection::SetFloat, &Reflection::AddFloat);
  } else {
    Store<double>(message, field, value, &Reflection::SetDouble, &Reflection::AddDouble);
  }
  return absl::OkStatus();
}

absl::Status StoreEnum(Message* message, const FieldDescriptor* field, const std::string& text) {
  const google::protobuf::EnumValueDescriptor* value = field->enum_type()->FindValueByName(text);
  if (value == nullptr || value->number() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be ", absl::StrJoin(EnumNames(field), " or "), ", got ", Quoted(text)));
  }
  Store<int>(message, field, value->number(), &Reflection::SetEnumValue, &Reflection::AddEnumValue);
  return absl::OkStatus();
}

absl::Status StoreText(Message* message, const FieldDescriptor* field, const std::string& text) {
  if (absl::Status status = CheckText(field, text); !status.ok()) return status;
  Store<std::string>(message, field, text, &Reflection::SetString, &Reflection::AddString);
  return absl::OkStatus();
}

bool IsDuration(const FieldDescriptor* field) {
  return field->message_type() != nullptr && field->message_type()->full_name() == "google.protobuf.Duration";
}

// One of the library's own; a message made at run time has another class.
google::protobuf::Duration* MutableDuration(Message* message, const FieldDescriptor* field) {
  return dynamic_cast<google::protobuf::Duration*>(message->GetReflection()->MutableMessage(message, field));
}

absl::Status StoreDuration(Message* message, const FieldDescriptor* field, const std::string& text) {
  double seconds = 0;
  if (!absl::SimpleAtod(text, &seconds)) {
    return absl::InvalidArgumentError(absl::StrCat("must be a number of seconds, got ", Quoted(text)));
  }
  if (absl::Status status = CheckNumber(field, seconds, text); !status.ok()) return status;
  google::protobuf::Duration* const duration = MutableDuration(message, field);
  if (duration == nullptr) return absl::InternalError(absl::StrCat("no flag can set ", field->full_name()));
  const auto nanoseconds = static_cast<int64_t>(std::llround(seconds * 1e9));
  duration->set_seconds(nanoseconds / 1'000'000'000);
  duration->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
  return absl::OkStatus();
}

absl::Status StoreValue(Message* message, const FieldDescriptor* field, const std::string& text) {
  if (field->is_repeated()) {
    const int items = message->GetReflection()->FieldSize(*message, field) + 1;
    if (absl::Status status = CheckCount(field, items); !status.ok()) return status;
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return StoreInteger(message, field, text);
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return StoreNumber(message, field, text);
    case FieldDescriptor::CPPTYPE_ENUM:
      return StoreEnum(message, field, text);
    case FieldDescriptor::CPPTYPE_STRING:
      return StoreText(message, field, text);
    case FieldDescriptor::CPPTYPE_BOOL:
      Store<bool>(message, field, text == "true", &Reflection::SetBool, &Reflection::AddBool);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return StoreDuration(message, field, text);
    default:  // the API has no unsigned integers
      return absl::InternalError(absl::StrCat("no flag can set a field of type ", field->type_name()));
  }
}

std::string ValueName(const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "";
    case FieldDescriptor::CPPTYPE_STRING:
      return "TEXT";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "NAME";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "NUMBER";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "SECONDS";
    default:
      return "N";
  }
}

std::string Doc(const FieldDescriptor* field) {
  const v1::FieldRule& rule = RuleOf(field);
  std::vector<std::string> facts;
  if (!rule.unit().empty()) facts.push_back(absl::StrCat("in ", rule.unit()));
  if (const std::string range = RangeText(rule); !range.empty()) facts.push_back(range);
  if (const std::string size = SizeText(rule); !size.empty()) facts.push_back(size);
  if (rule.has_max_items()) facts.push_back(absl::StrCat("up to ", rule.max_items(), " times"));
  if (field->enum_type() != nullptr) facts.push_back(absl::StrJoin(EnumNames(field), " or "));
  if (!rule.default_value().empty()) facts.push_back(absl::StrCat("default ", rule.default_value()));
  return facts.empty() ? rule.doc() : absl::StrCat(rule.doc(), " [", absl::StrJoin(facts, "; "), "]");
}

absl::Status CheckSingular(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      const int32_t value = reflection->GetInt32(message, field);
      return CheckNumber(field, value, absl::StrCat(value));
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      const int64_t value = reflection->GetInt64(message, field);
      return CheckNumber(field, static_cast<double>(value), absl::StrCat(value));
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const double value = reflection->GetDouble(message, field);
      return CheckNumber(field, value, absl::StrCat(value));
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return CheckText(field, reflection->GetString(message, field));
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      const Message& inner = reflection->GetMessage(message, field);
      const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&inner);
      if (duration == nullptr) return CheckRules(inner);
      const double seconds = ToSeconds(*duration);
      return CheckNumber(field, seconds, absl::StrCat(seconds));
    }
    default:
      return absl::OkStatus();
  }
}

}  // namespace

void AddRuleFlags(Message* message, const std::string& group, FlagSet* flags) {
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !IsDuration(field)) continue;
    flags->Add({.name = absl::StrReplaceAll(field->name(), {{"_", "-"}}),
                .value_name = ValueName(field),
                .doc = Doc(field),
                .group = group,
                .repeated = field->is_repeated(),
                .set = [message, field](const std::string& text) { return StoreValue(message, field, text); }});
  }
}

absl::Status CheckRules(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->is_repeated()) continue;
    const absl::Status status = CheckSingular(message, field);
    if (status.ok()) continue;
    const char* separator = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !IsDuration(field) ? "." : ": ";
    return absl::Status(status.code(), absl::StrCat(field->name(), separator, status.message()));
  }
  return absl::OkStatus();
}

}  // namespace farspan::cli
