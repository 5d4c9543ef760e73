// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/memory_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace farspan {

absl::string_view MemoryKindName(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kWeights:
      return "weights";
    case MemoryKind::kKvPages:
      return "KV pages";
    case MemoryKind::kSideData:
      return "side data of KV pages";
    case MemoryKind::kActivations:
      return "activations";
    case MemoryKind::kWorkspace:
      return "workspace";
  }
  return "unknown";
}

int64_t HeldBytes(const Backend& backend) {
  int64_t held = 0;
  for (int i = 0; i < kNumMemoryKinds; ++i) held += backend.MemoryBytes(static_cast<MemoryKind>(i));
  return held;
}

int64_t OtherBytes(const Backend& backend) {
  const DeviceMemory whole = backend.WholeMemory();
  return std::max<int64_t>(0, whole.total_bytes - whole.free_bytes - HeldBytes(backend));
}

std::string HeldText(const Backend& backend) {
  std::string text = "held:";
  for (int i = 0; i < kNumMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    absl::StrAppend(&text, i == 0 ? " " : ", ", MemoryKindName(kind), " ", backend.MemoryBytes(kind));
  }
  if (const DeviceMemory whole = backend.WholeMemory(); whole.total_bytes > 0) {
    absl::StrAppend(&text, ", by CUDA itself and others ", OtherBytes(backend), ", free ", whole.free_bytes, " of ",
                    whole.total_bytes);
  }
  return text + " bytes";
}

}  // namespace farspan
