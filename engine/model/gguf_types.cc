// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf_types.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

struct ValueTypeTraits {
  std::string_view name;
  int64_t bytes;
};

constexpr std::array<ValueTypeTraits, kNumGgufValueTypes> kValueTypes = {{
    {"uint8", 1},
    {"int8", 1},
    {"uint16", 2},
    {"int16", 2},
    {"uint32", 4},
    {"int32", 4},
    {"float32", 4},
    {"bool", 1},
    {"string", 0},
    {"array", 0},
    {"uint64", 8},
    {"int64", 8},
    {"float64", 8},
}};

// Types of the format that are refused, by the name under which people know them.
constexpr std::array<std::pair<uint32_t, std::string_view>, 22> kUnsupportedTypes = {{
    {4, "Q4_2"},     {5, "Q4_3"},    {9, "Q8_1"},     {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},
    {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"},
    {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},   {26, "I32"},    {27, "I64"},
    {28, "F64"},     {29, "IQ1_M"},  {34, "TQ1_0"},   {35, "TQ2_0"},
}};

}  // namespace

std::string_view GgufValueTypeName(GgufValueType type) { return kValueTypes[static_cast<size_t>(type)].name; }

int64_t GgufValueTypeBytes(GgufValueType type) { return kValueTypes[static_cast<size_t>(type)].bytes; }

const GgufTensorTypeTraits& TraitsOf(GgufTensorType type) {
  for (const GgufTensorTypeTraits& traits : kGgufTensorTypes) {
    if (traits.type == type) return traits;
  }
  FARSPAN_CHECK(false, "tensor type ", static_cast<uint32_t>(type));
  return kGgufTensorTypes[0];
}

std::optional<GgufTensorType> GgufTensorTypeFromFile(uint32_t type_in_file) {
  for (const GgufTensorTypeTraits& traits : kGgufTensorTypes) {
    if (static_cast<uint32_t>(traits.type) == type_in_file) return traits.type;
  }
  return std::nullopt;
}

std::string DescribeGgufTensorType(uint32_t type_in_file) {
  for (const GgufTensorTypeTraits& traits : kGgufTensorTypes) {
    if (static_cast<uint32_t>(traits.type) == type_in_file) return std::string(traits.name);
  }
  for (const auto& [number, name] : kUnsupportedTypes) {
    if (number == type_in_file) return absl::StrCat(AbslView(name), " (", number, ")");
  }
  return absl::StrCat("number ", type_in_file);
}

std::string SupportedGgufTensorTypes() {
  std::string names;
  for (const GgufTensorTypeTraits& traits : kGgufTensorTypes) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", AbslView(traits.name));
  }
  return names;
}

}  // namespace farspan
