// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weight_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"

namespace farspan {

absl::Status WeightSource::Reserve() {
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_->Allocate(PlannedBytes(), MemoryKind::kWeights);
  if (!buffer.ok()) return buffer.status();
  arena_ = Arena(*std::move(buffer));
  return absl::OkStatus();
}

absl::StatusOr<void*> WeightSource::Allocate(std::string_view name, int64_t size_bytes) {
  size_bytes_ += size_bytes;
  if (size_bytes <= arena_.left_bytes()) return arena_.Take(size_bytes);
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_->Allocate(size_bytes, MemoryKind::kWeights);
  if (!buffer.ok()) {
    return absl::Status(buffer.status().code(),
                        absl::StrCat("tensor ", AbslView(name), ": ", buffer.status().message()));
  }
  buffers_.push_back(*std::move(buffer));
  return buffers_.back()->data();
}

std::vector<std::unique_ptr<Buffer>> WeightSource::TakeBuffers() {
  std::vector<std::unique_ptr<Buffer>> buffers = std::move(buffers_);
  if (std::unique_ptr<Buffer> arena = arena_.Release()) buffers.push_back(std::move(arena));
  return buffers;
}

}  // namespace farspan
