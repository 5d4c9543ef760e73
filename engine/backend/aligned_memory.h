// SPDX-License-Identifier: Apache-2.0
// A block of host memory aligned for vector loads; large blocks ask for huge pages.
#pragma once

#include <cstdint>

namespace farspan {

// Owned by one holder, movable. The memory is uninitialised.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  // Holds no memory (data() is null) where the machine cannot give `size_bytes`; 0 bytes always succeed.
  explicit AlignedMemory(int64_t size_bytes);
  ~AlignedMemory();
  AlignedMemory(AlignedMemory&& other) noexcept;
  AlignedMemory& operator=(AlignedMemory&& other) noexcept;

  void* data() const { return data_; }  // 64-byte aligned
  int64_t size_bytes() const { return size_bytes_; }

 private:
  void* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

}  // namespace farspan
