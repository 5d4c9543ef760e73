// SPDX-License-Identifier: Apache-2.0
#include "engine/attention/field_rules.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "farspan/v1/options.pb.h"

namespace farspan {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kMaxClippedBytes = 64;

std::string UnitSuffix(const v1::FieldRule& rule) { return rule.unit().empty() ? "" : absl::StrCat(" ", rule.unit()); }

// A bound as it was declared: whole numbers without a fraction or an exponent.
std::string Spell(double bound) {
  return std::trunc(bound) == bound ? absl::StrCat(static_cast<int64_t>(bound)) : absl::StrCat(bound);
}

// A value with as many digits as tell it from every other: one just past a bound must not read like the bound.
std::string Exactly(double value) {
  std::array<char, 32> digits;
  const std::to_chars_result end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return std::string(digits.data(), end.ptr);
}

// What is wrong with a number, or an empty text.
std::string NumberProblem(const v1::FieldRule& rule, double value, const std::string& shown) {
  if (!std::isfinite(value)) return absl::StrCat("must be a finite number, got ", shown);
  if (rule.has_minimum() && (rule.exclusive_minimum() ? value <= rule.minimum() : value < rule.minimum())) {
    return absl::StrCat("must be ", rule.exclusive_minimum() ? "greater than " : "at least ", Spell(rule.minimum()),
                        UnitSuffix(rule), ", got ", shown);
  }
  if (rule.has_maximum() && value > rule.maximum()) {
    return absl::StrCat("must be at most ", Spell(rule.maximum()), UnitSuffix(rule), ", got ", shown);
  }
  return "";
}

bool IsDuration(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         field.message_type()->full_name() == "google.protobuf.Duration";
}

// A duration is a number of seconds to its rule.
std::string DurationProblem(const v1::FieldRule& rule, const Message& duration) {
  const auto& descriptor = *duration.GetDescriptor();
  const Reflection& reflection = *duration.GetReflection();
  const int64_t seconds = reflection.GetInt64(duration, descriptor.FindFieldByNumber(1));
  const int32_t nanos = reflection.GetInt32(duration, descriptor.FindFieldByNumber(2));
  if (nanos <= -1'000'000'000 || nanos >= 1'000'000'000 || (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0)) {
    return absl::StrCat("must be a duration with less than a second of nanos and one sign, got ", seconds,
                        " seconds and ", nanos, " nanos");
  }
  const double value = static_cast<double>(seconds) + static_cast<double>(nanos) * 1e-9;
  return NumberProblem(rule, value, Exactly(value));
}

std::string BytesProblem(const v1::FieldRule& rule, int64_t size) {
  if (rule.has_min_bytes() && size < rule.min_bytes()) {
    return size == 0 ? "must not be empty"
                     : absl::StrCat("must have at least ", rule.min_bytes(), " bytes, got ", size);
  }
  if (rule.has_max_bytes() && size > rule.max_bytes()) {
    return absl::StrCat("must have at most ", rule.max_bytes(), " bytes, got ", size);
  }
  return "";
}

std::string EnumNames(const google::protobuf::EnumDescriptor& type) {
  std::string names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) absl::StrAppend(&names, names.empty() ? "" : ", ", type.value(i)->name());
  }
  return names;
}

// Reads one element of a field, repeated or not.
class Element {
 public:
  Element(const Message& message, const FieldDescriptor& field, int index)
      : message_(message), field_(field), index_(index), reflection_(*message.GetReflection()) {}

  std::string Problem(const v1::FieldRule& rule) const {
    switch (field_.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return IntegerProblem(rule, index_ < 0 ? reflection_.GetInt32(message_, &field_)
                                               : reflection_.GetRepeatedInt32(message_, &field_, index_));
      case FieldDescriptor::CPPTYPE_INT64:
        return IntegerProblem(rule, index_ < 0 ? reflection_.GetInt64(message_, &field_)
                                               : reflection_.GetRepeatedInt64(message_, &field_, index_));
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        const double value = index_ < 0 ? reflection_.GetDouble(message_, &field_)
                                        : reflection_.GetRepeatedDouble(message_, &field_, index_);
        return NumberProblem(rule, value, Exactly(value));
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int value = index_ < 0 ? reflection_.GetEnumValue(message_, &field_)
                                     : reflection_.GetRepeatedEnumValue(message_, &field_, index_);
        if (field_.enum_type()->FindValueByNumber(value) != nullptr) return "";
        return absl::StrCat("unknown value ", value, "; known: ", EnumNames(*field_.enum_type()));
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        std::string scratch;
        const std::string& value = index_ < 0
                                       ? reflection_.GetStringReference(message_, &field_, &scratch)
                                       : reflection_.GetRepeatedStringReference(message_, &field_, index_, &scratch);
        return BytesProblem(rule, static_cast<int64_t>(value.size()));
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return IsDuration(field_) ? DurationProblem(rule, AsMessage()) : "";
      default:
        return "";
    }
  }

  const Message& AsMessage() const {
    return index_ < 0 ? reflection_.GetMessage(message_, &field_)
                      : reflection_.GetRepeatedMessage(message_, &field_, index_);
  }

 private:
  static std::string IntegerProblem(const v1::FieldRule& rule, int64_t value) {
    return NumberProblem(rule, static_cast<double>(value), absl::StrCat(value));
  }

  const Message& message_;
  const FieldDescriptor& field_;
  const int index_;
  const Reflection& reflection_;
};

bool IsSet(const Message& message, const FieldDescriptor& field) {
  if (field.is_repeated() || !field.has_presence()) return true;
  return message.GetReflection()->HasField(message, &field);
}

void CheckField(const Message& message, const FieldDescriptor& field, const std::string& path,
                std::vector<FieldViolation>* violations) {
  const v1::FieldRule& rule = field.options().GetExtension(v1::rule);
  const int count = field.is_repeated() ? message.GetReflection()->FieldSize(message, &field) : 1;
  if (rule.has_max_items() && count > rule.max_items()) {
    violations->push_back({path, absl::StrCat("must have at most ", rule.max_items(), " elements, got ", count)});
    return;
  }
  // A path is spelled only where it is needed: lists may have millions of elements.
  const auto element_path = [&](int i) { return field.is_repeated() ? absl::StrCat(path, "[", i, "]") : path; };
  for (int i = 0; i < count && violations->size() < kMaxFieldViolations; ++i) {
    const Element element(message, field, field.is_repeated() ? i : -1);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !IsDuration(field)) {
      for (FieldViolation& nested : CheckFieldRules(element.AsMessage(), element_path(i))) {
        violations->push_back(std::move(nested));
      }
    } else if (std::string problem = element.Problem(rule); !problem.empty()) {
      violations->push_back({element_path(i), std::move(problem)});
    }
  }
}

void SetDefault(Message* message, const FieldDescriptor& field, const std::string& text) {
  const Reflection& reflection = *message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      FARSPAN_CHECK(absl::SimpleAtoi(text, &value), "default of ", field.full_name());
      reflection.SetInt32(message, &field, value);
      return;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      FARSPAN_CHECK(absl::SimpleAtoi(text, &value), "default of ", field.full_name());
      reflection.SetInt64(message, &field, value);
      return;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      FARSPAN_CHECK(absl::SimpleAtod(text, &value), "default of ", field.full_name());
      reflection.SetDouble(message, &field, value);
      return;
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = field.enum_type()->FindValueByName(text);
      FARSPAN_CHECK(value != nullptr, "default of ", field.full_name());
      reflection.SetEnum(message, &field, value);
      return;
    }
    default:
      return;  // Booleans default to false; messages and texts have no default in text form.
  }
}

}  // namespace

std::vector<FieldViolation> CheckFieldRules(const Message& message, const std::string& path) {
  std::vector<FieldViolation> violations;
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count() && violations.size() < kMaxFieldViolations; ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (!IsSet(message, field)) continue;
    CheckField(message, field, path.empty() ? field.name() : absl::StrCat(path, ".", field.name()), &violations);
  }
  return violations;
}

void ApplyDefaults(Message* message) {
  const Reflection& reflection = *message->GetReflection();
  const auto& descriptor = *message->GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (field.is_repeated()) continue;
    const bool present = reflection.HasField(*message, &field);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (present) ApplyDefaults(reflection.MutableMessage(message, &field));
      continue;
    }
    // Where another member of the oneof is chosen, this one's default would replace it.
    const auto* oneof = field.real_containing_oneof();
    if (oneof != nullptr && reflection.HasOneof(*message, oneof)) continue;
    const std::string& text = field.options().GetExtension(v1::rule).default_value();
    if (!present && !text.empty()) SetDefault(message, field, text);
  }
}

std::string ClipForMessage(std::string_view text) {
  const std::string escaped = absl::CHexEscape(std::string(text.substr(0, kMaxClippedBytes)));
  return text.size() > kMaxClippedBytes ? absl::StrCat(escaped, "...") : escaped;
}

absl::Status FirstViolation(const std::vector<FieldViolation>& violations) {
  if (violations.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(violations[0].field, ": ", violations[0].description));
}

}  // namespace farspan
