// SPDX-License-Identifier: Apache-2.0
#include "tests/parity/device_arrays.h"

#include <utility>

#include "engine/base/check.h"

namespace farspan {

void* DeviceArrays::PutBytes(std::span<const std::byte> host) {
  auto buffer = backend_->Allocate(static_cast<int64_t>(host.size()) + 1, MemoryKind::kActivations);
  FARSPAN_CHECK(buffer.ok());
  FARSPAN_CHECK(backend_->Upload((*buffer)->data(), host).ok());
  buffers_.push_back(*std::move(buffer));
  return buffers_.back()->data();
}

void DeviceArrays::GetBytes(std::span<std::byte> host, const void* device) {
  FARSPAN_CHECK(backend_->Wait(backend_->Submit()).ok());
  FARSPAN_CHECK(backend_->Download(host, device).ok());
}

}  // namespace farspan
