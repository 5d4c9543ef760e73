// SPDX-License-Identifier: Apache-2.0
// Reads little-endian values of a GGUF file front to back. The only code that moves through a file's header: every read
// is compared with the bytes left before anything is allocated.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/status_macros.h"
#include "engine/model/byte_source.h"

namespace farspan {

static_assert(std::endian::native == std::endian::little, "GGUF values are copied as they lie in the file");

// One thread. `what` names the value for the refusal: "<what>: expected 8 bytes at offset 96, the file has 3 left".
class GgufCursor {
 public:
  // Reads ahead `window_bytes` (at least 1) at a time. `source` outlives the cursor.
  GgufCursor(const ByteSource* source, size_t window_bytes);

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return source_->size_bytes() - position_; }

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    FARSPAN_RETURN_IF_ERROR(ReadBytes(what, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  // A length of 64 bits and that many bytes, at most `max_bytes`.
  absl::StatusOr<std::string> ReadString(std::string_view what, uint64_t max_bytes);
  absl::Status ReadBytes(std::string_view what, std::span<std::byte> out);
  absl::StatusOr<std::vector<std::byte>> ReadVector(std::string_view what, uint64_t size_bytes);
  // INVALID_ARGUMENT unless `size_bytes` are left.
  absl::Status Require(std::string_view what, uint64_t size_bytes) const;

 private:
  absl::Status FillWindow();

  const ByteSource* const source_;
  std::vector<std::byte> window_;
  uint64_t window_begin_ = 0;  // file offset of window_[0]
  size_t window_size_ = 0;     // valid bytes of window_
  uint64_t position_ = 0;
};

// Text from a file as a message may show it: escaped, clipped to 64 bytes, in single quotes.
std::string QuoteFileText(std::string_view text);

}  // namespace farspan
