// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf_metadata.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace farspan {
namespace {

absl::Status Refuse(std::string_view key, std::string_view expected, std::string_view got) {
  return absl::InvalidArgumentError(
      absl::StrCat("key ", AbslView(key), ": expected ", AbslView(expected), ", got ", AbslView(got)));
}

std::string UintRange(uint64_t min, uint64_t max) {
  if (max == std::numeric_limits<uint64_t>::max()) return absl::StrCat("an integer of at least ", min);
  return absl::StrCat("an integer from ", min, " to ", max);
}

std::string FloatRange(double min, double max) { return absl::StrCat("a finite float from ", min, " to ", max); }

// Calls append(value) for each element, typed as stored.
template <typename Append>
void ForEachNumber(const GgufNumbers& numbers, const Append& append) {
  const auto walk = [&]<typename T>(T /*type*/) {
    for (int64_t i = 0; i < numbers.size(); ++i) {
      T value;
      std::memcpy(&value, numbers.bytes.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
      append(value);
    }
  };
  switch (numbers.element_type) {
    case GgufValueType::kUint8:
    case GgufValueType::kBool:
      return walk(uint8_t{});
    case GgufValueType::kInt8:
      return walk(int8_t{});
    case GgufValueType::kUint16:
      return walk(uint16_t{});
    case GgufValueType::kInt16:
      return walk(int16_t{});
    case GgufValueType::kUint32:
      return walk(uint32_t{});
    case GgufValueType::kInt32:
      return walk(int32_t{});
    case GgufValueType::kUint64:
      return walk(uint64_t{});
    case GgufValueType::kInt64:
      return walk(int64_t{});
    case GgufValueType::kFloat32:
      return walk(float{});
    case GgufValueType::kFloat64:
      return walk(double{});
    case GgufValueType::kString:
    case GgufValueType::kArray:
      return;
  }
}

bool IsFloat(GgufValueType type) { return type == GgufValueType::kFloat32 || type == GgufValueType::kFloat64; }

// Absent keys become nothing; a present key goes through `get`.
template <typename Get>
auto IfPresent(bool present, const Get& get)
    -> absl::StatusOr<std::optional<typename std::invoke_result_t<Get>::value_type>> {
  using Value = std::optional<typename std::invoke_result_t<Get>::value_type>;
  if (!present) return Value();
  FARSPAN_ASSIGN_OR_RETURN(auto value, get());
  return Value(std::move(value));
}

}  // namespace

std::string GgufValue::Describe() const {
  const absl::string_view name = AbslView(GgufValueTypeName(type));
  if (const auto* number = std::get_if<uint64_t>(&data)) return absl::StrCat(name, " ", *number);
  if (const auto* number = std::get_if<int64_t>(&data)) return absl::StrCat(name, " ", *number);
  if (const auto* number = std::get_if<double>(&data)) return absl::StrCat(name, " ", *number);
  if (const auto* flag = std::get_if<bool>(&data)) return absl::StrCat(name, *flag ? " true" : " false");
  if (const auto* text = std::get_if<std::string>(&data)) return absl::StrCat(name, " ", QuoteFileText(*text));
  if (const auto* texts = std::get_if<std::vector<std::string>>(&data)) {
    return absl::StrCat("array of ", texts->size(), " string");
  }
  const GgufNumbers& numbers = std::get<GgufNumbers>(data);
  return absl::StrCat("array of ", numbers.size(), " ", AbslView(GgufValueTypeName(numbers.element_type)));
}

bool GgufMetadata::Insert(std::string&& key, GgufValue&& value) {
  return values_.try_emplace(std::move(key), std::move(value)).second;
}

absl::StatusOr<const GgufValue*> GgufMetadata::Get(std::string_view key, std::string_view expected) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return Refuse(key, expected, "no such key");
  return &found->second;
}

absl::StatusOr<std::string_view> GgufMetadata::GetString(std::string_view key) const {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a string"));
  if (const auto* text = std::get_if<std::string>(&value->data)) return *text;
  return Refuse(key, "a string", value->Describe());
}

absl::StatusOr<bool> GgufMetadata::GetBool(std::string_view key) const {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a bool"));
  if (const auto* flag = std::get_if<bool>(&value->data)) return *flag;
  return Refuse(key, "a bool", value->Describe());
}

absl::StatusOr<uint64_t> GgufMetadata::GetUint(std::string_view key, uint64_t min, uint64_t max) const {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, UintRange(min, max)));
  std::optional<uint64_t> number;
  if (const auto* positive = std::get_if<uint64_t>(&value->data)) number = *positive;
  if (const auto* any = std::get_if<int64_t>(&value->data); any && *any >= 0) number = static_cast<uint64_t>(*any);
  if (!number || *number < min || *number > max) return Refuse(key, UintRange(min, max), value->Describe());
  return *number;
}

absl::StatusOr<double> GgufMetadata::GetFloat(std::string_view key, double min, double max) const {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, FloatRange(min, max)));
  const auto* number = std::get_if<double>(&value->data);
  if (!number || !std::isfinite(*number) || *number < min || *number > max) {
    return Refuse(key, FloatRange(min, max), value->Describe());
  }
  return *number;
}

absl::StatusOr<std::span<const std::string>> GgufMetadata::GetStrings(std::string_view key) const {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "an array of strings"));
  if (const auto* texts = std::get_if<std::vector<std::string>>(&value->data)) return std::span(*texts);
  return Refuse(key, "an array of strings", value->Describe());
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::GetInts(std::string_view key) const {
  constexpr std::string_view kExpected = "an array of integers";
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, kExpected));
  const auto* numbers = std::get_if<GgufNumbers>(&value->data);
  if (!numbers || IsFloat(numbers->element_type) || numbers->element_type == GgufValueType::kBool) {
    return Refuse(key, kExpected, value->Describe());
  }
  std::vector<int64_t> integers;
  integers.reserve(static_cast<size_t>(numbers->size()));
  bool in_range = true;
  ForEachNumber(*numbers, [&](auto number) {
    if constexpr (std::is_integral_v<decltype(number)>) in_range = in_range && std::in_range<int64_t>(number);
    integers.push_back(static_cast<int64_t>(number));
  });
  if (!in_range) return Refuse(key, "integers below 2^63", value->Describe());
  return integers;
}

absl::StatusOr<std::vector<float>> GgufMetadata::GetFloats(std::string_view key) const {
  constexpr std::string_view kExpected = "an array of finite floats";
  FARSPAN_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, kExpected));
  const auto* numbers = std::get_if<GgufNumbers>(&value->data);
  if (!numbers || !IsFloat(numbers->element_type)) return Refuse(key, kExpected, value->Describe());
  std::vector<float> floats;
  floats.reserve(static_cast<size_t>(numbers->size()));
  bool finite = true;
  ForEachNumber(*numbers, [&](auto number) {
    finite = finite && std::isfinite(static_cast<float>(number));
    floats.push_back(static_cast<float>(number));
  });
  if (!finite) return Refuse(key, kExpected, "a value that is not");
  return floats;
}

absl::StatusOr<std::optional<std::string_view>> GgufMetadata::FindString(std::string_view key) const {
  return IfPresent(Has(key), [&] { return GetString(key); });
}

absl::StatusOr<std::optional<bool>> GgufMetadata::FindBool(std::string_view key) const {
  return IfPresent(Has(key), [&] { return GetBool(key); });
}

absl::StatusOr<std::optional<uint64_t>> GgufMetadata::FindUint(std::string_view key, uint64_t min, uint64_t max) const {
  return IfPresent(Has(key), [&] { return GetUint(key, min, max); });
}

absl::StatusOr<std::optional<double>> GgufMetadata::FindFloat(std::string_view key, double min, double max) const {
  return IfPresent(Has(key), [&] { return GetFloat(key, min, max); });
}

}  // namespace farspan
