// SPDX-License-Identifier: Apache-2.0
// What attention reads of a scene, in device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/cpu/number_formats.h"
#include "tests/engine/kernels/attention_scene.h"
#include "tests/parity/device_arrays.h"

namespace farspan {

// `common` with its cache, entries and frequencies on the device; queries, rotations and outputs are the caller's.
inline kernels::AttentionCommon OnDevice(kernels::AttentionCommon common, const std::vector<kernels::KvEntry>& entries,
                                         DeviceArrays* arrays) {
  const auto put = [&](const void* data, int64_t size_bytes) {
    return arrays->PutBytes(std::span(static_cast<const std::byte*>(data), static_cast<size_t>(size_bytes)));
  };
  const kernels::KvLayerView& cache = common.cache;
  common.cache.data = put(cache.data, cache.num_pages * cache.page_elements() * cache.element_bytes());
  common.entries = arrays->Put(entries);
  common.inverse_frequencies =
      static_cast<const double*>(put(common.inverse_frequencies, common.rope_dim / 2 * int64_t{sizeof(double)}));
  return common;
}

// As bf16 holds them.
inline std::vector<float> RoundedToBf16(std::vector<float> values) {
  for (float& value : values) value = kernels::Bf16ToFloat(kernels::FloatToBf16(value));
  return values;
}

}  // namespace farspan
