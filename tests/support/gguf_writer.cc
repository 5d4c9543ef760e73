// SPDX-License-Identifier: Apache-2.0
#include "tests/support/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/base/absl_view.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

constexpr size_t kAlignment = 32;
constexpr size_t kBlock = 32;

uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Nearest even, through the two magnitudes around the value; finite values below 65504 only.
uint16_t ToF16(float value) {
  const float magnitude = std::fabs(value);
  FARSPAN_CHECK(magnitude < 65504.0f, "value ", value, " does not fit f16");
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (magnitude == 0.0f) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 0 to 2048
  // Subnormals have exponent field 0; a normal's implicit bit adds one to the field by itself.
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + steps));
}

uint8_t Level(float scaled, int low, int high) {
  return static_cast<uint8_t>(std::clamp(static_cast<int>(std::nearbyint(scaled)), low, high));
}

void PutNibbles(std::span<const uint8_t> levels, GgufBytes& out) {
  for (size_t i = 0; i < kBlock / 2; ++i) out.U8(static_cast<uint8_t>(levels[i] | levels[i + kBlock / 2] << 4));
}

void PutQ4_0(std::span<const float> block, GgufBytes& out) {
  float largest = 0.0f;
  for (const float value : block) largest = std::fabs(value) > std::fabs(largest) ? value : largest;
  const float scale = largest / -8.0f;
  out.Value(ToF16(scale));
  uint8_t levels[kBlock];
  for (size_t i = 0; i < kBlock; ++i) levels[i] = Level(scale == 0.0f ? 8.0f : block[i] / scale + 8.0f, 0, 15);
  PutNibbles(levels, out);
}

void PutQ4_1(std::span<const float> block, GgufBytes& out) {
  const auto [low, high] = std::minmax_element(block.begin(), block.end());
  const float scale = (*high - *low) / 15.0f;
  out.Value(ToF16(scale)).Value(ToF16(*low));
  uint8_t levels[kBlock];
  for (size_t i = 0; i < kBlock; ++i) levels[i] = Level(scale == 0.0f ? 0.0f : (block[i] - *low) / scale, 0, 15);
  PutNibbles(levels, out);
}

void PutQ8_0(std::span<const float> block, GgufBytes& out) {
  float largest = 0.0f;
  for (const float value : block) largest = std::max(largest, std::fabs(value));
  const float scale = largest / 127.0f;
  out.Value(ToF16(scale));
  for (const float value : block) out.U8(Level(scale == 0.0f ? 0.0f : value / scale, -127, 127));
}

}  // namespace

void GgufWriter::AddString(std::string_view key, std::string_view value) {
  keys_.Text(key).Type(GgufValueType::kString).Text(value);
  ++num_keys_;
}

void GgufWriter::AddUint32(std::string_view key, uint32_t value) {
  keys_.Text(key).Type(GgufValueType::kUint32).U32(value);
  ++num_keys_;
}

void GgufWriter::AddInt32(std::string_view key, int32_t value) {
  keys_.Text(key).Type(GgufValueType::kInt32).Value(value);
  ++num_keys_;
}

void GgufWriter::AddFloat32(std::string_view key, float value) {
  keys_.Text(key).Type(GgufValueType::kFloat32).F32(value);
  ++num_keys_;
}

void GgufWriter::AddBool(std::string_view key, bool value) {
  keys_.Text(key).Type(GgufValueType::kBool).U8(value ? 1 : 0);
  ++num_keys_;
}

void GgufWriter::AddStrings(std::string_view key, std::span<const std::string> values) {
  keys_.Text(key).Type(GgufValueType::kArray).Type(GgufValueType::kString).U64(values.size());
  for (const std::string& value : values) keys_.Text(value);
  ++num_keys_;
}

void GgufWriter::AddInt32s(std::string_view key, std::span<const int32_t> values) {
  keys_.Text(key).Type(GgufValueType::kArray).Type(GgufValueType::kInt32).U64(values.size());
  for (const int32_t value : values) keys_.Value(value);
  ++num_keys_;
}

void GgufWriter::AddTensor(std::string_view name, std::vector<int64_t> shape, GgufTensorType type, std::string data) {
  tensors_.push_back({std::string(name), std::move(shape), type, std::move(data)});
}

std::string GgufWriter::Finish() const {
  GgufBytes file;
  file.Raw("GGUF").U32(3).U64(tensors_.size()).U64(num_keys_).Raw(keys_.bytes());
  GgufBytes data;
  for (const Tensor& tensor : tensors_) {
    data.PadTo(kAlignment);
    file.Text(tensor.name).U32(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i > 0; --i) file.Value(tensor.shape[i - 1]);
    file.U32(static_cast<uint32_t>(tensor.type)).U64(data.bytes().size());
    data.Raw(tensor.data);
  }
  return file.PadTo(kAlignment).Raw(data.bytes()).bytes();
}

std::string EncodeTensor(GgufTensorType type, std::span<const float> values) {
  const auto block_values = static_cast<size_t>(TraitsOf(type).block_values);
  FARSPAN_CHECK(values.size() % block_values == 0, "values ", values.size());
  GgufBytes out;
  for (size_t i = 0; i < values.size(); i += block_values) {
    const std::span<const float> block = values.subspan(i, block_values);
    switch (type) {
      case GgufTensorType::kF32:
        out.F32(block[0]);
        break;
      case GgufTensorType::kF16:
        out.Value(ToF16(block[0]));
        break;
      case GgufTensorType::kBf16:
        out.Value(ToBf16(block[0]));
        break;
      case GgufTensorType::kQ4_0:
        PutQ4_0(block, out);
        break;
      case GgufTensorType::kQ4_1:
        PutQ4_1(block, out);
        break;
      case GgufTensorType::kQ8_0:
        PutQ8_0(block, out);
        break;
      default:
        FARSPAN_CHECK(false, "no encoder for ", AbslView(TraitsOf(type).name));
    }
  }
  return out.bytes();
}

}  // namespace farspan
