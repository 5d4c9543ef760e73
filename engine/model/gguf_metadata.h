// SPDX-License-Identifier: Apache-2.0
// The keys and values of a GGUF file, with getters that check type and range and name the key when they refuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf_types.h"

namespace farspan {

// Elements of an array of numbers or bools, as they lie in the file.
struct GgufNumbers {
  GgufValueType element_type = GgufValueType::kUint8;
  std::vector<std::byte> bytes;

  int64_t size() const { return static_cast<int64_t>(bytes.size()) / GgufValueTypeBytes(element_type); }
};

// Integers are widened to 64 bits, floats to double; `type` says what the file holds.
struct GgufValue {
  GgufValueType type = GgufValueType::kUint8;
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufNumbers, std::vector<std::string>> data;

  // "uint32 13", "array of 3 string", for refusals.
  std::string Describe() const;
};

// Immutable once parsed. Every refusal is INVALID_ARGUMENT "key <key>: expected <rule>, got <value>".
class GgufMetadata {
 public:
  // False where the key is there already; key and value are then untouched.
  bool Insert(std::string&& key, GgufValue&& value);

  bool Has(std::string_view key) const { return values_.find(key) != values_.end(); }
  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }

  absl::StatusOr<std::string_view> GetString(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  // Any integer type, min <= value <= max.
  absl::StatusOr<uint64_t> GetUint(std::string_view key, uint64_t min, uint64_t max) const;
  // float32 or float64, finite, min <= value <= max.
  absl::StatusOr<double> GetFloat(std::string_view key, double min, double max) const;
  // Views live as long as the metadata.
  absl::StatusOr<std::span<const std::string>> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  absl::StatusOr<std::vector<float>> GetFloats(std::string_view key) const;

  // Nothing where the key is absent; a present key is checked as above.
  absl::StatusOr<std::optional<std::string_view>> FindString(std::string_view key) const;
  absl::StatusOr<std::optional<bool>> FindBool(std::string_view key) const;
  absl::StatusOr<std::optional<uint64_t>> FindUint(std::string_view key, uint64_t min, uint64_t max) const;
  absl::StatusOr<std::optional<double>> FindFloat(std::string_view key, double min, double max) const;

 private:
  absl::StatusOr<const GgufValue*> Get(std::string_view key, std::string_view expected) const;

  std::map<std::string, GgufValue, std::less<>> values_;
};

}  // namespace farspan
