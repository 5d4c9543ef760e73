// SPDX-License-Identifier: Apache-2.0
// Host arrays mirrored in a backend's memory, for tests that run one op on a device.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "tests/engine/kernels/kernel_test_support.h"

namespace farspan {

// One thread. The backend outlives it.
class DeviceArrays {
 public:
  explicit DeviceArrays(Backend* backend) : backend_(backend) {}

  template <typename T>
  const T* Put(const std::vector<T>& host) {
    return static_cast<const T*>(PutBytes(std::as_bytes(std::span(host))));
  }
  void* PutBytes(std::span<const std::byte> host);
  // As tiles where the backend wants them and the blocks have some.
  kernels::WeightView Put(const kernels::RandomWeight& weight);

  // In the backend's element.
  kernels::Activation activation() const { return backend_->activation(); }
  void* PutActivations(const std::vector<float>& host);
  std::vector<float> GetActivations(const void* device, size_t size);

  template <typename T>
  std::vector<T> Get(const T* device, size_t size) {
    std::vector<T> host(size);
    GetBytes(std::as_writable_bytes(std::span(host)), device);
    return host;
  }

 private:
  void GetBytes(std::span<std::byte> host, const void* device);

  Backend* const backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace farspan
