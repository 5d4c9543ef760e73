// SPDX-License-Identifier: Apache-2.0
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

inline void StoreLanes(float* out, __m256 values) { _mm256_storeu_ps(out, values); }

inline void StoreLanes(Bf16* out, __m256 values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), NarrowToBf16(values));
}

inline void StoreLanes(Half* out, __m256 values) {
  constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(values, kNearestEven));
}

// The eight lanes of FloatToFp8.
inline void StoreLanes(Fp8* out, __m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, 20), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(magnitude, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7ffff)));
  const __m256i normal = _mm256_srli_epi32(_mm256_sub_epi32(rounded, _mm256_set1_epi32(0x3c000000)), 20);
  const __m256 shifted = _mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(16384.0f));
  const __m256i subnormal = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x46800000));
  __m256i result = _mm256_blendv_epi8(normal, subnormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), magnitude));
  const __m256i too_large = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x43dfffff));
  result = _mm256_blendv_epi8(result, _mm256_set1_epi32(0x7e), too_large);
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  result = _mm256_blendv_epi8(result, _mm256_set1_epi32(0x7f), is_nan);
  result = _mm256_or_si256(result, _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80)));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
}

// head_dim is a multiple of the lanes.
void Store(const KvLayerView& cache, int64_t offset, const float* values) {
  WithKvElement(cache.element, [&]<typename Element>() {
    Element* out = static_cast<Element*>(cache.data) + offset;
    for (int64_t i = 0; i < cache.head_dim; i += kLanes) StoreLanes(out + i, _mm256_loadu_ps(values + i));
  });
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
