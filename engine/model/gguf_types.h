// SPDX-License-Identifier: Apache-2.0
// The closed vocabulary of a GGUF file: value types of its metadata and storage types of its tensors.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace farspan {

// Numbered as in the file.
enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
inline constexpr uint32_t kNumGgufValueTypes = 13;

std::string_view GgufValueTypeName(GgufValueType type);
// Bytes of one scalar; 0 for strings and arrays, whose size is in the file.
int64_t GgufValueTypeBytes(GgufValueType type);

// The tensor types that we read, numbered as in the file.
enum class GgufTensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBf16 = 30,
};

// A row is whole blocks: `block_values` values in `block_bytes` bytes.
struct GgufTensorTypeTraits {
  GgufTensorType type;
  std::string_view name;
  int64_t block_values;
  int64_t block_bytes;
};

inline constexpr std::array<GgufTensorTypeTraits, 11> kGgufTensorTypes = {{
    {GgufTensorType::kF32, "F32", 1, 4},
    {GgufTensorType::kF16, "F16", 1, 2},
    {GgufTensorType::kQ4_0, "Q4_0", 32, 18},
    {GgufTensorType::kQ4_1, "Q4_1", 32, 20},
    {GgufTensorType::kQ5_0, "Q5_0", 32, 22},
    {GgufTensorType::kQ5_1, "Q5_1", 32, 24},
    {GgufTensorType::kQ8_0, "Q8_0", 32, 34},
    {GgufTensorType::kQ4_K, "Q4_K", 256, 144},
    {GgufTensorType::kQ5_K, "Q5_K", 256, 176},
    {GgufTensorType::kQ6_K, "Q6_K", 256, 210},
    {GgufTensorType::kBf16, "BF16", 1, 2},
}};

const GgufTensorTypeTraits& TraitsOf(GgufTensorType type);
// Nothing for a type that we do not read.
std::optional<GgufTensorType> GgufTensorTypeFromFile(uint32_t type_in_file);
// Also of types that the format knows and we do not read: "IQ4_NL (20)".
std::string DescribeGgufTensorType(uint32_t type_in_file);
// "F32, F16, ...": for refusals.
std::string SupportedGgufTensorTypes();

}  // namespace farspan
