// SPDX-License-Identifier: Apache-2.0
// Random access to the bytes of a model file or of a span, copied into the caller's memory. Files are never mapped: one
// that is truncated or replaced while it is read gives an error, not a signal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace farspan {

// Thread-safe: const after construction.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Fixed at construction.
  virtual uint64_t size_bytes() const = 0;
  // Fills `out` from `offset`. DATA_LOSS where the bytes are not there, whatever size_bytes() said.
  virtual absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const = 0;
};

// Opens a regular file (symbolic links are followed: model caches use them). The status names the path.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path);

// A view: `bytes` outlives it.
std::unique_ptr<ByteSource> ViewByteSource(std::span<const std::byte> bytes);

}  // namespace farspan
