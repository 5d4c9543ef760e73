// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weight_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"

namespace farspan {

absl::StatusOr<void*> WeightSource::Allocate(std::string_view name, int64_t size_bytes) {
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_->Allocate(size_bytes, MemoryKind::kWeights);
  if (!buffer.ok()) {
    return absl::Status(buffer.status().code(),
                        absl::StrCat("tensor ", AbslView(name), ": ", buffer.status().message()));
  }
  size_bytes_ += size_bytes;
  buffers_.push_back(*std::move(buffer));
  return buffers_.back()->data();
}

}  // namespace farspan
