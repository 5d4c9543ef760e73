// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/aligned_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "engine/base/math.h"

namespace farspan {
namespace {

constexpr int64_t kCacheLineBytes = 64;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// Asked for more than this, some allocators end the process instead of failing.
int64_t MachineBytes() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? pages * page_bytes : INT64_MAX;
}

}  // namespace

AlignedMemory::AlignedMemory(int64_t size_bytes) {
  if (size_bytes < 0 || size_bytes > MachineBytes()) return;
  const bool huge = size_bytes >= kHugePageBytes;
  const int64_t alignment = huge ? kHugePageBytes : kCacheLineBytes;
  const int64_t rounded_bytes = RoundUp(size_bytes > 0 ? size_bytes : 1, alignment);
  data_ = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded_bytes));
  if (data_ == nullptr) return;
  size_bytes_ = size_bytes;
#if defined(MADV_HUGEPAGE)
  if (huge) madvise(data_, static_cast<size_t>(rounded_bytes), MADV_HUGEPAGE);  // only a hint: a refusal costs speed
#endif
}

AlignedMemory::~AlignedMemory() { std::free(data_); }

AlignedMemory::AlignedMemory(AlignedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

AlignedMemory& AlignedMemory::operator=(AlignedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

}  // namespace farspan
