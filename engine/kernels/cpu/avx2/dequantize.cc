// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/avx2/blocks.h"
#include "engine/kernels/cpu/portable/kernels.h"

namespace farspan::kernels::avx2 {
namespace {

template <WeightType kType>
void WidenBlocks(const uint8_t* row, int64_t columns, float* scales, float* out) {
  LoadScales<kType>(row, columns / kQuantBlock, scales);
  for (int64_t k = 0; k < columns; k += kQuantBlock) {
    const int64_t index = k / kQuantBlock;
    const BlockValues block =
        QuantBlock<kType>::Load(row + index * QuantBlock<kType>::kBytes, scales + index * QuantBlock<kType>::kHalves);
    for (int64_t i = 0; i < 4; ++i) _mm256_storeu_ps(out + k + i * kLanes, block.v[i]);
  }
}

template <typename Element>
void WidenFloats(const uint8_t* row, int64_t columns, float* out) {
  const Element* values = reinterpret_cast<const Element*>(row);
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) _mm256_storeu_ps(out + k, LoadLanes(values + k));
  if (k == columns) return;
  Element tail[kLanes] = {};
  std::memcpy(tail, values + k, static_cast<size_t>(columns - k) * sizeof(Element));
  _mm256_storeu_ps(out + k, LoadLanes(tail));
}

}  // namespace

void DequantizeRow(const WeightView& weight, int64_t row, float* scales, float* out) {
  const uint8_t* bytes = static_cast<const uint8_t*>(weight.data) + row * WeightRowBytes(weight.type, weight.columns);
  switch (weight.type) {
    case WeightType::kF32:
      return WidenFloats<float>(bytes, weight.columns, out);
    case WeightType::kBf16:
      return WidenFloats<uint16_t>(bytes, weight.columns, out);
    case WeightType::kQ4_0:
      return WidenBlocks<WeightType::kQ4_0>(bytes, weight.columns, scales, out);
    case WeightType::kQ4_1:
      return WidenBlocks<WeightType::kQ4_1>(bytes, weight.columns, scales, out);
    case WeightType::kQ8_0:
      return WidenBlocks<WeightType::kQ8_0>(bytes, weight.columns, scales, out);
    default:
      return portable::DequantizeRow(weight, row, out);  // tiles and panels, whose rows are whole vectors
  }
}

}  // namespace farspan::kernels::avx2
