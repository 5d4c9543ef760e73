// SPDX-License-Identifier: Apache-2.0
#include "tests/parity/device_arrays.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/weight_tiles.h"

namespace farspan {

void* DeviceArrays::PutBytes(std::span<const std::byte> host) {
  auto buffer = backend_->Allocate(static_cast<int64_t>(host.size()) + 1, MemoryKind::kActivations);
  FARSPAN_CHECK(buffer.ok());
  FARSPAN_CHECK(backend_->Upload((*buffer)->data(), host).ok());
  buffers_.push_back(*std::move(buffer));
  return buffers_.back()->data();
}

kernels::WeightView DeviceArrays::Put(const kernels::RandomWeight& weight) {
  kernels::WeightView view = weight.view;
  view.data = Put(weight.bytes);
  const bool wants_tiles = backend_->weight_layout() == kernels::WeightLayout::kTiles;
  const kernels::WeightType tiles = wants_tiles ? kernels::TilesOf(view) : view.type;
  if (tiles == view.type) return view;
  const auto size = static_cast<size_t>(view.rows * kernels::WeightRowBytes(tiles, view.columns));
  void* const packed = PutBytes(std::vector<std::byte>(size, std::byte{0xff}));
  backend_->PackTiles({.blocks = view, .tiles = packed});
  view.data = packed;
  view.type = tiles;
  return view;
}

void* DeviceArrays::PutActivations(const std::vector<float>& host) {
  if (activation() == kernels::Activation::kF32) return PutBytes(std::as_bytes(std::span(host)));
  std::vector<uint16_t> rounded;
  for (const float value : host) rounded.push_back(kernels::FloatToBf16(value));
  return PutBytes(std::as_bytes(std::span(rounded)));
}

std::vector<float> DeviceArrays::GetActivations(const void* device, size_t size) {
  if (activation() == kernels::Activation::kF32) return Get(static_cast<const float*>(device), size);
  std::vector<float> values;
  for (const uint16_t bits : Get(static_cast<const uint16_t*>(device), size)) {
    values.push_back(kernels::Bf16ToFloat(bits));
  }
  return values;
}

void DeviceArrays::GetBytes(std::span<std::byte> host, const void* device) {
  FARSPAN_CHECK(backend_->Wait(backend_->Submit()).ok());
  FARSPAN_CHECK(backend_->Download(host, device).ok());
}

}  // namespace farspan
