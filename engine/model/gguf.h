// SPDX-License-Identifier: Apache-2.0
// A GGUF model file, version 2 or 3, little endian: its metadata and the directory of its tensors. The file is hostile
// until checked: what Open returns has unique names, tensors inside the file that overlap nowhere, and byte sizes that
// follow from type and shape.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/byte_source.h"
#include "engine/model/gguf_metadata.h"
#include "engine/model/gguf_types.h"

namespace farspan {

inline constexpr uint64_t kMaxGgufStringBytes = uint64_t{1} << 20;
inline constexpr uint64_t kMaxGgufArrayElements = uint64_t{16} << 20;
inline constexpr uint64_t kMaxGgufNameBytes = 256;  // of a key or a tensor
inline constexpr uint64_t kMaxGgufKeys = 65536;
inline constexpr uint64_t kMaxGgufTensors = 100'000;
inline constexpr uint32_t kMaxGgufDims = 4;
inline constexpr uint32_t kMinGgufAlignment = 8;
inline constexpr uint32_t kMaxGgufAlignment = 65536;

struct GgufTensor {
  std::string name;
  GgufTensorType type = GgufTensorType::kF32;
  std::vector<int64_t> shape;  // 1 to 4 dimensions, outermost first; the last one is the row
  uint64_t file_offset = 0;
  int64_t size_bytes = 0;

  int64_t columns() const { return shape.back(); }
  int64_t num_values() const;
  int64_t rows() const { return num_values() / columns(); }
  int64_t row_bytes() const { return size_bytes / rows(); }
};

// "[1536, 576]"
std::string ShapeText(std::span<const int64_t> shape);

// Immutable; its methods are thread-safe. Owns the open file.
class GgufFile {
 public:
  // A file that is not valid is INVALID_ARGUMENT, naming path, key or tensor, what was expected and what was found.
  static absl::StatusOr<GgufFile> Open(const std::string& path);
  // `window_bytes` is the size of one read of the header.
  static absl::StatusOr<GgufFile> Parse(std::unique_ptr<ByteSource> source, size_t window_bytes = kWindowBytes);

  GgufFile(GgufFile&&) = default;
  GgufFile& operator=(GgufFile&&) = default;

  const GgufMetadata& metadata() const { return metadata_; }
  std::span<const GgufTensor> tensors() const { return tensors_; }  // in the file's order
  const GgufTensor* FindTensor(std::string_view name) const;        // null where there is none
  uint64_t size_bytes() const { return source_->size_bytes(); }

  // Fills `out` from byte `begin` of a tensor of this file. The caller stays inside the tensor. DATA_LOSS naming the
  // tensor where the file was truncated since it was opened.
  absl::Status ReadTensor(const GgufTensor& tensor, int64_t begin, std::span<std::byte> out) const;

 private:
  static constexpr size_t kWindowBytes = size_t{64} << 10;

  GgufFile(std::unique_ptr<ByteSource> source, GgufMetadata metadata, std::vector<GgufTensor> tensors,
           std::map<std::string, size_t, std::less<>> index)
      : source_(std::move(source)),
        metadata_(std::move(metadata)),
        tensors_(std::move(tensors)),
        index_(std::move(index)) {}

  std::unique_ptr<ByteSource> source_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;  // name -> tensors_[i]
};

}  // namespace farspan
