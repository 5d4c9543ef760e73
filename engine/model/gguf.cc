// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/absl_view.h"
#include "engine/base/check.h"
#include "engine/base/math.h"
#include "engine/base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace farspan {
namespace {

constexpr uint32_t kMagic = 0x46554747;         // "GGUF"
constexpr uint32_t kSwappedMagic = 0x47475546;  // "FUGG"
constexpr uint32_t kDefaultAlignment = 32;
constexpr std::string_view kAlignmentKey = "general.alignment";

// The fewest bytes that one key (length, name, type, value) and one tensor (length, name, dims, type, offset) take: a
// declared count is compared with the bytes left before anything is reserved for it.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

struct Counts {
  uint64_t tensors;
  uint64_t keys;
};

absl::Status Refuse(std::string_view what, std::string_view expected, std::string_view got) {
  return absl::InvalidArgumentError(
      absl::StrCat(AbslView(what), ": expected ", AbslView(expected), ", got ", AbslView(got)));
}

absl::Status CheckCount(std::string_view what, uint64_t count, uint64_t limit, uint64_t min_bytes_each,
                        uint64_t remaining) {
  if (count > limit) return Refuse(what, absl::StrCat("at most ", limit), absl::StrCat(count));
  if (count > remaining / min_bytes_each) {
    return Refuse(what, absl::StrCat("at most ", remaining / min_bytes_each, " in the ", remaining, " bytes left"),
                  absl::StrCat(count));
  }
  return absl::OkStatus();
}

absl::StatusOr<Counts> ReadHeader(GgufCursor& cursor) {
  FARSPAN_ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>("header magic"));
  if (magic == kSwappedMagic) return Refuse("header magic", "a little-endian file", "a big-endian one");
  if (magic != kMagic) {
    const std::string_view bytes(reinterpret_cast<const char*>(&magic), sizeof(magic));
    return Refuse("header magic", "'GGUF'", QuoteFileText(bytes));
  }
  FARSPAN_ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("header version"));
  if (version != 0 && (version & 0xffff) == 0) {
    return Refuse("header version", "a little-endian file", "a big-endian one");
  }
  if (version != 2 && version != 3) return Refuse("header version", "2 or 3", absl::StrCat(version));
  Counts counts;
  FARSPAN_ASSIGN_OR_RETURN(counts.tensors, cursor.Read<uint64_t>("header tensor count"));
  FARSPAN_ASSIGN_OR_RETURN(counts.keys, cursor.Read<uint64_t>("header key count"));
  FARSPAN_RETURN_IF_ERROR(
      CheckCount("header tensor count", counts.tensors, kMaxGgufTensors, kMinTensorBytes, cursor.remaining()));
  FARSPAN_RETURN_IF_ERROR(CheckCount("header key count", counts.keys, kMaxGgufKeys, kMinKeyBytes, cursor.remaining()));
  return counts;
}

// A key or tensor name: 1 to 256 printable ASCII characters, so that it can stand in a message as it is.
absl::StatusOr<std::string> ReadName(GgufCursor& cursor, std::string_view what) {
  FARSPAN_ASSIGN_OR_RETURN(std::string name, cursor.ReadString(what, kMaxGgufNameBytes));
  const auto printable = [](char c) { return c > ' ' && c <= '~'; };
  if (name.empty() || !std::all_of(name.begin(), name.end(), printable)) {
    return Refuse(what, "1 to 256 printable ASCII characters", QuoteFileText(name));
  }
  return name;
}

absl::StatusOr<GgufValueType> ReadValueType(GgufCursor& cursor, std::string_view what) {
  FARSPAN_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
  if (type >= kNumGgufValueTypes) {
    return Refuse(what, absl::StrCat("a value type below ", kNumGgufValueTypes), absl::StrCat(type));
  }
  return static_cast<GgufValueType>(type);
}

template <typename Stored, typename Widened>
absl::StatusOr<GgufValue> ReadScalarAs(GgufCursor& cursor, GgufValueType type, std::string_view what) {
  FARSPAN_ASSIGN_OR_RETURN(const Stored value, cursor.Read<Stored>(what));
  return GgufValue{.type = type, .data = static_cast<Widened>(value)};
}

absl::StatusOr<GgufValue> ReadBoolValue(GgufCursor& cursor, std::string_view what) {
  FARSPAN_ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>(what));
  if (value > 1) return Refuse(what, "bool 0 or 1", absl::StrCat(value));
  return GgufValue{.type = GgufValueType::kBool, .data = value == 1};
}

absl::StatusOr<GgufValue> ReadArray(GgufCursor& cursor, std::string_view what) {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValueType element_type, ReadValueType(cursor, what));
  if (element_type == GgufValueType::kArray) {
    return Refuse(what, "an array of scalars or strings", "an array of arrays");
  }
  FARSPAN_ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>(what));
  const bool strings = element_type == GgufValueType::kString;
  const uint64_t element_bytes = strings ? sizeof(uint64_t) : static_cast<uint64_t>(GgufValueTypeBytes(element_type));
  FARSPAN_RETURN_IF_ERROR(CheckCount(what, count, kMaxGgufArrayElements, element_bytes, cursor.remaining()));
  GgufValue value{.type = GgufValueType::kArray};
  if (strings) {
    std::vector<std::string> texts;
    texts.reserve(static_cast<size_t>(count));
    for (uint64_t i = 0; i < count; ++i) {
      FARSPAN_ASSIGN_OR_RETURN(std::string text, cursor.ReadString(what, kMaxGgufStringBytes));
      texts.push_back(std::move(text));
    }
    value.data = std::move(texts);
    return value;
  }
  FARSPAN_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, cursor.ReadVector(what, count * element_bytes));
  value.data = GgufNumbers{.element_type = element_type, .bytes = std::move(bytes)};
  return value;
}

absl::StatusOr<GgufValue> ReadValue(GgufCursor& cursor, std::string_view what) {
  FARSPAN_ASSIGN_OR_RETURN(const GgufValueType type, ReadValueType(cursor, what));
  switch (type) {
    case GgufValueType::kUint8:
      return ReadScalarAs<uint8_t, uint64_t>(cursor, type, what);
    case GgufValueType::kUint16:
      return ReadScalarAs<uint16_t, uint64_t>(cursor, type, what);
    case GgufValueType::kUint32:
      return ReadScalarAs<uint32_t, uint64_t>(cursor, type, what);
    case GgufValueType::kUint64:
      return ReadScalarAs<uint64_t, uint64_t>(cursor, type, what);
    case GgufValueType::kInt8:
      return ReadScalarAs<int8_t, int64_t>(cursor, type, what);
    case GgufValueType::kInt16:
      return ReadScalarAs<int16_t, int64_t>(cursor, type, what);
    case GgufValueType::kInt32:
      return ReadScalarAs<int32_t, int64_t>(cursor, type, what);
    case GgufValueType::kInt64:
      return ReadScalarAs<int64_t, int64_t>(cursor, type, what);
    case GgufValueType::kFloat32:
      return ReadScalarAs<float, double>(cursor, type, what);
    case GgufValueType::kFloat64:
      return ReadScalarAs<double, double>(cursor, type, what);
    case GgufValueType::kBool:
      return ReadBoolValue(cursor, what);
    case GgufValueType::kArray:
      return ReadArray(cursor, what);
    case GgufValueType::kString:
      break;
  }
  FARSPAN_ASSIGN_OR_RETURN(std::string text, cursor.ReadString(what, kMaxGgufStringBytes));
  return GgufValue{.type = type, .data = std::move(text)};
}

absl::StatusOr<GgufMetadata> ReadMetadata(GgufCursor& cursor, uint64_t num_keys) {
  GgufMetadata metadata;
  for (uint64_t i = 0; i < num_keys; ++i) {
    FARSPAN_ASSIGN_OR_RETURN(std::string key, ReadName(cursor, absl::StrCat("name of key ", i)));
    const std::string what = absl::StrCat("key ", key);
    FARSPAN_ASSIGN_OR_RETURN(GgufValue value, ReadValue(cursor, what));
    if (!metadata.Insert(std::move(key), std::move(value))) return Refuse(what, "one value", "a second one");
  }
  return metadata;
}

absl::StatusOr<uint64_t> ReadAlignment(const GgufMetadata& metadata) {
  const auto found = metadata.values().find(kAlignmentKey);
  if (found == metadata.values().end()) return kDefaultAlignment;
  const auto* alignment = std::get_if<uint64_t>(&found->second.data);
  if (found->second.type != GgufValueType::kUint32 || *alignment < kMinGgufAlignment ||
      *alignment > kMaxGgufAlignment || (*alignment & (*alignment - 1)) != 0) {
    return Refuse(absl::StrCat("key ", AbslView(kAlignmentKey)),
                  absl::StrCat("uint32, a power of two from ", kMinGgufAlignment, " to ", kMaxGgufAlignment),
                  found->second.Describe());
  }
  return *alignment;
}

// Checks the product of the dimensions and derives the size from the type.
absl::StatusOr<int64_t> TensorBytes(std::string_view what, std::span<const int64_t> shape,
                                    const GgufTensorTypeTraits& type) {
  if (shape.back() % type.block_values != 0) {
    return Refuse(what,
                  absl::StrCat("rows of a multiple of ", type.block_values, " values for type ", AbslView(type.name)),
                  ShapeText(shape));
  }
  // Rows shrink to blocks first, so that the product is of bytes and nothing overflows unseen.
  std::optional<uint64_t> size_bytes =
      CheckedMultiply(static_cast<uint64_t>(shape.back() / type.block_values), static_cast<uint64_t>(type.block_bytes));
  std::optional<uint64_t> num_values = static_cast<uint64_t>(shape.back());
  for (const int64_t dim : shape.first(shape.size() - 1)) {
    if (size_bytes) size_bytes = CheckedMultiply(*size_bytes, static_cast<uint64_t>(dim));
    if (num_values) num_values = CheckedMultiply(*num_values, static_cast<uint64_t>(dim));
  }
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max();
  if (!size_bytes || *size_bytes > kLimit || !num_values || *num_values > kLimit) {
    return Refuse(what, "fewer than 2^63 values and bytes", ShapeText(shape));
  }
  return static_cast<int64_t>(*size_bytes);
}

// `file_offset` is still relative to the data section.
absl::StatusOr<GgufTensor> ReadTensorInfo(GgufCursor& cursor, uint64_t index, uint64_t alignment) {
  GgufTensor tensor;
  FARSPAN_ASSIGN_OR_RETURN(tensor.name, ReadName(cursor, absl::StrCat("name of tensor ", index)));
  const std::string what = absl::StrCat("tensor ", tensor.name);
  FARSPAN_ASSIGN_OR_RETURN(const uint32_t num_dims, cursor.Read<uint32_t>(what));
  if (num_dims < 1 || num_dims > kMaxGgufDims) {
    return Refuse(what, absl::StrCat("1 to ", kMaxGgufDims, " dimensions"), absl::StrCat(num_dims));
  }
  for (uint32_t i = 0; i < num_dims; ++i) {
    FARSPAN_ASSIGN_OR_RETURN(const uint64_t dim, cursor.Read<uint64_t>(what));
    if (dim < 1 || dim > std::numeric_limits<int64_t>::max()) {
      return Refuse(what, "dimensions from 1 to 2^63 - 1", absl::StrCat(dim));
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(dim));
  }
  FARSPAN_ASSIGN_OR_RETURN(const uint32_t type_in_file, cursor.Read<uint32_t>(what));
  const std::optional<GgufTensorType> type = GgufTensorTypeFromFile(type_in_file);
  if (!type) {
    return Refuse(what, absl::StrCat("one of the types ", SupportedGgufTensorTypes()),
                  absl::StrCat("type ", DescribeGgufTensorType(type_in_file)));
  }
  tensor.type = *type;
  FARSPAN_ASSIGN_OR_RETURN(tensor.size_bytes, TensorBytes(what, tensor.shape, TraitsOf(*type)));
  FARSPAN_ASSIGN_OR_RETURN(tensor.file_offset, cursor.Read<uint64_t>(what));
  if (tensor.file_offset % alignment != 0) {
    return Refuse(what, absl::StrCat("an offset that is a multiple of ", alignment), absl::StrCat(tensor.file_offset));
  }
  return tensor;
}

// Turns relative offsets into offsets in the file and refuses any tensor that is not wholly inside.
absl::Status PlaceTensors(std::vector<GgufTensor>& tensors, uint64_t data_begin, uint64_t file_bytes) {
  for (GgufTensor& tensor : tensors) {
    const std::optional<uint64_t> begin = CheckedAdd(tensor.file_offset, data_begin);
    const std::optional<uint64_t> end =
        begin ? CheckedAdd(*begin, static_cast<uint64_t>(tensor.size_bytes)) : std::nullopt;
    if (!end || *end > file_bytes) {
      return Refuse(
          absl::StrCat("tensor ", tensor.name),
          absl::StrCat(tensor.size_bytes, " bytes at offset ", tensor.file_offset, " of the data section"),
          absl::StrCat("a data section of ", file_bytes > data_begin ? file_bytes - data_begin : 0, " bytes"));
    }
    tensor.file_offset = *begin;
  }
  return absl::OkStatus();
}

absl::Status CheckDisjoint(std::span<const GgufTensor> tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return tensors[a].file_offset < tensors[b].file_offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& before = tensors[order[i - 1]];
    const GgufTensor& after = tensors[order[i]];
    if (before.file_offset + static_cast<uint64_t>(before.size_bytes) > after.file_offset) {
      return Refuse(absl::StrCat("tensor ", after.name), "bytes of its own",
                    absl::StrCat("bytes that tensor ", before.name, " has too"));
    }
  }
  return absl::OkStatus();
}

absl::Status WithPath(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

int64_t GgufTensor::num_values() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::string ShapeText(std::span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenByteSource(path));
  absl::StatusOr<GgufFile> file = Parse(std::move(source));
  if (!file.ok()) return WithPath(path, file.status());
  return file;
}

absl::StatusOr<GgufFile> GgufFile::Parse(std::unique_ptr<ByteSource> source, size_t window_bytes) {
  GgufCursor cursor(source.get(), window_bytes);
  FARSPAN_ASSIGN_OR_RETURN(const Counts counts, ReadHeader(cursor));
  FARSPAN_ASSIGN_OR_RETURN(GgufMetadata metadata, ReadMetadata(cursor, counts.keys));
  FARSPAN_ASSIGN_OR_RETURN(const uint64_t alignment, ReadAlignment(metadata));
  // The keys may have used up what the count was compared with.
  FARSPAN_RETURN_IF_ERROR(
      CheckCount("header tensor count", counts.tensors, kMaxGgufTensors, kMinTensorBytes, cursor.remaining()));
  std::vector<GgufTensor> tensors;
  tensors.reserve(static_cast<size_t>(counts.tensors));
  std::map<std::string, size_t, std::less<>> index;
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    FARSPAN_ASSIGN_OR_RETURN(GgufTensor tensor, ReadTensorInfo(cursor, i, alignment));
    if (!index.try_emplace(tensor.name, tensors.size()).second) {
      return Refuse(absl::StrCat("tensor ", tensor.name), "one entry", "a second one");
    }
    tensors.push_back(std::move(tensor));
  }
  const uint64_t data_begin =
      CeilDiv(static_cast<int64_t>(cursor.position()), static_cast<int64_t>(alignment)) * alignment;
  FARSPAN_RETURN_IF_ERROR(PlaceTensors(tensors, data_begin, source->size_bytes()));
  FARSPAN_RETURN_IF_ERROR(CheckDisjoint(tensors));
  return GgufFile(std::move(source), std::move(metadata), std::move(tensors), std::move(index));
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

absl::Status GgufFile::ReadTensor(const GgufTensor& tensor, int64_t begin, std::span<std::byte> out) const {
  FARSPAN_CHECK(
      begin >= 0 && begin <= tensor.size_bytes && static_cast<int64_t>(out.size()) <= tensor.size_bytes - begin,
      "tensor ", tensor.name, " begin=", begin, " bytes=", out.size());
  const absl::Status status = source_->ReadAt(tensor.file_offset + static_cast<uint64_t>(begin), out);
  if (!status.ok()) return WithPath(absl::StrCat("tensor ", tensor.name), status);
  return absl::OkStatus();
}

}  // namespace farspan
