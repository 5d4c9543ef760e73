// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file: refused with a status that says why, or accepted with tensors that are inside the file,
// disjoint and of the size that type and shape say, whatever the reader's window. Accepted files are read through and
// loaded as a model.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "engine/backend/cpu_backend.h"
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/model/dequantize.h"
#include "engine/model/gguf.h"
#include "engine/model/model_registry.h"

namespace farspan {
namespace {

constexpr size_t kWholeWindow = size_t{64} << 10;

void CheckDirectory(const GgufFile& file) {
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const GgufTensor& tensor : file.tensors()) {
    const GgufTensorTypeTraits& type = TraitsOf(tensor.type);
    unsigned __int128 num_values = 1;
    for (const int64_t dim : tensor.shape) num_values *= static_cast<uint64_t>(dim);
    FARSPAN_CHECK(num_values / static_cast<uint64_t>(type.block_values) * static_cast<uint64_t>(type.block_bytes) ==
                  static_cast<uint64_t>(tensor.size_bytes));
    const uint64_t end = tensor.file_offset + static_cast<uint64_t>(tensor.size_bytes);
    FARSPAN_CHECK(tensor.file_offset < end && end <= file.size_bytes(), "tensor ", tensor.name);
    spans.emplace_back(tensor.file_offset, end);
    FARSPAN_CHECK(file.FindTensor(tensor.name) == &tensor, "tensor ", tensor.name);
  }
  std::sort(spans.begin(), spans.end());
  for (size_t i = 1; i < spans.size(); ++i) FARSPAN_CHECK(spans[i - 1].second <= spans[i].first);
}

void TouchTensors(const GgufFile& file) {
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<std::byte> bytes(static_cast<size_t>(tensor.size_bytes));
    FARSPAN_CHECK(file.ReadTensor(tensor, 0, bytes).ok(), "tensor ", tensor.name);
    std::vector<float> values(static_cast<size_t>(tensor.num_values()));
    DequantizeRow(tensor.type, bytes, values);
    RowIsFinite(tensor.type, bytes);
  }
}

// Any answer will do; none may crash, and every refusal names its key.
void TouchKeys(const GgufMetadata& metadata) {
  for (const auto& [key, value] : metadata.values()) {
    for (const absl::Status& status :
         {metadata.GetString(key).status(), metadata.GetBool(key).status(), metadata.GetUint(key, 1, 100).status(),
          metadata.GetFloat(key, -1, 1).status(), metadata.GetStrings(key).status(), metadata.GetInts(key).status(),
          metadata.GetFloats(key).status()}) {
      FARSPAN_CHECK(status.ok() || absl::StrContains(status.message(), key), status.message());
    }
    FARSPAN_CHECK(!value.Describe().empty());
  }
}

void RunOne(std::span<const std::byte> bytes) {
  const absl::StatusOr<GgufFile> file = GgufFile::Parse(ViewByteSource(bytes), kWholeWindow);
  const absl::StatusOr<GgufFile> by_parts = GgufFile::Parse(ViewByteSource(bytes), 7);
  FARSPAN_CHECK(file.status() == by_parts.status(), file.status().message(), " / ", by_parts.status().message());
  if (!file.ok()) {
    FARSPAN_CHECK(file.status().code() == absl::StatusCode::kInvalidArgument, file.status().message());
    return;
  }
  CheckDirectory(*file);
  TouchTensors(*file);
  TouchKeys(file->metadata());
  static Backend* const backend = CpuBackend::Create({.isa = CpuIsa::kPortable})->release();
  const absl::StatusOr<std::unique_ptr<Model>> model = LoadModel(*file, backend, {.max_batch_rows = 1});
  FARSPAN_CHECK(model.ok() || model.status().code() == absl::StatusCode::kInvalidArgument, model.status().message());
}

}  // namespace
}  // namespace farspan

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  farspan::Log().set_level(spdlog::level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  farspan::RunOne(std::as_bytes(std::span(data, size)));
  return 0;
}
