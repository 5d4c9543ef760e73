// SPDX-License-Identifier: Apache-2.0
// Writes GGUF files for tests: whole valid ones with GgufWriter, hostile ones byte by byte with GgufBytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/gguf_types.h"

namespace farspan {

// Appends little-endian values; nothing is checked, so that any malformed file can be written.
class GgufBytes {
 public:
  template <typename T>
  GgufBytes& Value(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& U8(uint8_t value) { return Value(value); }
  GgufBytes& U32(uint32_t value) { return Value(value); }
  GgufBytes& U64(uint64_t value) { return Value(value); }
  GgufBytes& F32(float value) { return Value(value); }
  GgufBytes& Raw(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }
  // A length of 64 bits and the text.
  GgufBytes& Text(std::string_view text) { return U64(text.size()).Raw(text); }
  GgufBytes& Type(GgufValueType type) { return U32(static_cast<uint32_t>(type)); }
  GgufBytes& PadTo(size_t alignment) {
    bytes_.append((alignment - bytes_.size() % alignment) % alignment, '\0');
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Builds a valid version 3 file: keys and tensors in call order, alignment 32.
class GgufWriter {
 public:
  void AddString(std::string_view key, std::string_view value);
  void AddUint32(std::string_view key, uint32_t value);
  void AddInt32(std::string_view key, int32_t value);
  void AddFloat32(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddStrings(std::string_view key, std::span<const std::string> values);
  void AddInt32s(std::string_view key, std::span<const int32_t> values);

  // `shape` outermost first; `data` holds the encoded rows.
  void AddTensor(std::string_view name, std::vector<int64_t> shape, GgufTensorType type, std::string data);

  std::string Finish() const;

 private:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    GgufTensorType type;
    std::string data;
  };

  GgufBytes keys_;
  uint64_t num_keys_ = 0;
  std::vector<Tensor> tensors_;
};

// Rounds values to a storage type: F32, F16, BF16, Q4_0, Q4_1 or Q8_0. Quantised types take whole blocks of 32.
std::string EncodeTensor(GgufTensorType type, std::span<const float> values);

}  // namespace farspan
