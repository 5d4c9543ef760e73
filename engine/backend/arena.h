// SPDX-License-Identifier: Apache-2.0
// One allocation of a backend that is given out piece by piece.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "engine/backend/backend.h"
#include "engine/base/check.h"
#include "engine/base/math.h"

namespace farspan {

// One thread. The pieces live as long as the buffer.
class Arena {
 public:
  // What a piece takes: pieces begin at multiples of 256 bytes.
  static constexpr int64_t PieceBytes(int64_t size_bytes) { return RoundUp(size_bytes, kAlignment); }

  Arena() = default;
  explicit Arena(std::unique_ptr<Buffer> buffer) : buffer_(std::move(buffer)) {}

  int64_t left_bytes() const { return buffer_ == nullptr ? 0 : buffer_->size_bytes() - taken_bytes_; }
  // The next piece, which fits.
  void* Take(int64_t size_bytes) {
    FARSPAN_CHECK(size_bytes <= left_bytes(), "size_bytes=", size_bytes, " left=", left_bytes());
    std::byte* const piece = static_cast<std::byte*>(buffer_->data()) + taken_bytes_;
    taken_bytes_ = std::min(buffer_->size_bytes(), taken_bytes_ + PieceBytes(size_bytes));
    return piece;
  }
  std::unique_ptr<Buffer> Release() { return std::exchange(buffer_, nullptr); }

 private:
  static constexpr int64_t kAlignment = 256;

  std::unique_ptr<Buffer> buffer_;
  int64_t taken_bytes_ = 0;
};

}  // namespace farspan
