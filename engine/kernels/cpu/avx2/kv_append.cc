// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/avx2/kernels.h"
#include "engine/kernels/cpu/avx2/simd.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::avx2 {
namespace {

int64_t RowElements(const KvAppendArgs& args) { return args.cache.num_kv_heads * 2 * args.cache.head_dim; }

int64_t NumTasks(const KvAppendArgs& args) { return NumRowTasks(args.num_rows, RowElements(args)); }

// Nearest even, NaN kept quiet: the eight lanes of FloatToBf16.
__m128i NarrowToBf16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i halves = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

void Store(const KvLayerView& cache, int64_t offset, const float* values) {
  if (cache.element == KvElement::kF32) {
    std::memcpy(static_cast<float*>(cache.data) + offset, values, static_cast<size_t>(cache.head_dim) * sizeof(float));
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(cache.data) + offset;
  int64_t i = 0;
  for (; i + kLanes <= cache.head_dim; i += kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), NarrowToBf16(_mm256_loadu_ps(values + i)));
  }
  for (; i < cache.head_dim; ++i) out[i] = FloatToBf16(values[i]);
}

void Run(const KvAppendArgs& args, int64_t task, void*) {
  const KvLayerView& cache = args.cache;
  const RowSpan rows = RowsOfTask(task, args.num_rows, RowElements(args));
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const KvSlot slot = args.slots[row];
    if (slot.page < 0) continue;
    for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
      const int64_t source = (row * cache.num_kv_heads + head) * cache.head_dim;
      const int64_t key = KeyOffset(cache, slot.page, head) + slot.token * cache.head_dim;
      Store(cache, key, args.k + source);
      Store(cache, key + cache.plane_elements(), args.v + source);
    }
  }
}

}  // namespace

constinit const KernelOp<KvAppendArgs> kKvAppend = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::avx2
