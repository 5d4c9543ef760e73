// SPDX-License-Identifier: Apache-2.0
// Rows of every tensor type that we read, as float32. Plain loops: used while loading, not while serving.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/model/gguf_types.h"

namespace farspan {

// Exact, infinities and NaN included.
float F16ToFloat(uint16_t bits);

inline float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// To the nearest, ties to even; NaN stays NaN.
uint16_t FloatToBf16(float value);
uint16_t FloatToF16(float value);  // infinity beyond the range

// `row` holds out.size() values, whole blocks, in the layout of `type`; it may be unaligned.
void DequantizeRow(GgufTensorType type, std::span<const std::byte> row, std::span<float> out);

// Whether no value of `row` is NaN or infinite. Quantised types are judged by their scales.
bool RowIsFinite(GgufTensorType type, std::span<const std::byte> row);

}  // namespace farspan
