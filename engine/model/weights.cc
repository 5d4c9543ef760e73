// SPDX-License-Identifier: Apache-2.0
#include "engine/model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/absl_view.h"
#include "engine/base/status_macros.h"
#include "engine/kernels/weight_panels.h"
#include "engine/kernels/weight_tiles.h"
#include "engine/model/dequantize.h"
#include "engine/model/tile_weights.h"

namespace farspan {
namespace {

constexpr int64_t kSliceBytes = int64_t{4} << 20;

absl::Status Refuse(std::string_view name, std::string_view expected, std::string_view got) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", AbslView(name), ": expected ", AbslView(expected), ", got ", AbslView(got)));
}

absl::Status RefuseNonFinite(const GgufTensor& tensor, int64_t row) {
  return Refuse(tensor.name, "finite values", absl::StrCat("NaN or infinity in row ", row));
}

// Where tiles are wanted, blocks that they do not cover are widened.
kernels::WeightType ResidentType(const GgufTensor& tensor, const Backend& backend) {
  if (backend.weight_layout() == kernels::WeightLayout::kPanels) {
    const auto panels = PanelType(tensor.type, tensor.rows(), tensor.columns());
    if (panels.has_value()) return *panels;
  }
  if (backend.weight_layout() == kernels::WeightLayout::kTiles) {
    const auto tiled = TiledType(tensor.type, tensor.rows(), tensor.columns());
    if (tiled.has_value()) return *tiled;
    return tensor.type == GgufTensorType::kF32 ? kernels::WeightType::kF32 : kernels::WeightType::kBf16;
  }
  switch (tensor.type) {
    case GgufTensorType::kF32:
      return kernels::WeightType::kF32;
    case GgufTensorType::kQ4_0:
      return kernels::WeightType::kQ4_0;
    case GgufTensorType::kQ4_1:
      return kernels::WeightType::kQ4_1;
    case GgufTensorType::kQ8_0:
      return kernels::WeightType::kQ8_0;
    default:
      return kernels::WeightType::kBf16;
  }
}

int64_t RowsPackedTogether(kernels::WeightType type) {
  if (kernels::IsPanel(type)) return kernels::kPanelRows;
  return kernels::IsTiled(type) ? kernels::kTileRows : 1;
}

// Whether the file's rows are the resident rows, byte for byte.
bool KeepsBytes(GgufTensorType type, kernels::WeightType resident) {
  if (type == GgufTensorType::kBf16) return true;
  return resident != kernels::WeightType::kBf16 && RowsPackedTogether(resident) == 1;
}

// False where a value is NaN or leaves the range of bf16.
bool RoundToBf16(std::span<const float> values, uint16_t* out) {
  bool finite = true;
  for (size_t i = 0; i < values.size(); ++i) {
    out[i] = FloatToBf16(values[i]);
    finite = finite && std::isfinite(Bf16ToFloat(out[i]));
  }
  return finite;
}

// Rows from `first_row` on as bf16, tiles or panels.
absl::Status ConvertRows(const GgufTensor& tensor, kernels::WeightType type, int64_t first_row,
                         std::span<const std::byte> rows, std::span<std::byte> out) {
  const int64_t columns = tensor.columns(), row_bytes = tensor.row_bytes();
  const int64_t num_rows = static_cast<int64_t>(rows.size()) / row_bytes;
  if (kernels::IsTiled(type)) {
    const std::optional<int64_t> refused = PackTiles(tensor.type, rows, num_rows, columns, out);
    if (!refused.has_value()) return absl::OkStatus();
    return Refuse(tensor.name, "scales in the range of half floats",
                  absl::StrCat("a larger one in row ", first_row + *refused));
  }
  if (kernels::IsPanel(type)) {
    if (!PackPanels(tensor.type, rows, num_rows, columns, out)) return RefuseNonFinite(tensor, first_row);
    return absl::OkStatus();
  }
  std::vector<float> values(static_cast<size_t>(columns));
  auto* const widened = reinterpret_cast<uint16_t*>(out.data());
  for (int64_t row = 0; row < num_rows; ++row) {
    DequantizeRow(tensor.type, rows.subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes)),
                  values);
    if (!RoundToBf16(values, widened + row * columns)) return RefuseNonFinite(tensor, first_row + row);
  }
  return absl::OkStatus();
}

}  // namespace

int64_t WeightLoader::PlannedBytes() const {
  int64_t size_bytes = 0;
  for (const GgufTensor& tensor : file_->tensors()) {
    const bool is_vector = tensor.shape.size() == 1;
    const kernels::WeightType type = is_vector ? kernels::WeightType::kF32 : ResidentType(tensor, *backend_);
    size_bytes += Arena::PieceBytes(tensor.rows() * kernels::WeightRowBytes(type, tensor.columns()));
  }
  return size_bytes;
}

absl::StatusOr<const GgufTensor*> WeightLoader::Find(std::string_view name, std::span<const int64_t> shape) {
  const GgufTensor* tensor = file_->FindTensor(name);
  if (tensor == nullptr) return Refuse(name, ShapeText(shape), "no such tensor");
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    return Refuse(name, ShapeText(shape), ShapeText(tensor->shape));
  }
  loaded_.emplace(name);
  num_parameters_ += tensor->num_values();
  content_hash_.AddText(absl::StrCat(tensor->name, " ", static_cast<uint32_t>(tensor->type), ShapeText(shape)));
  return tensor;
}

absl::Status WeightLoader::ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows,
                                    std::vector<std::byte>& out) {
  const int64_t row_bytes = tensor.row_bytes();
  out.resize(static_cast<size_t>(num_rows * row_bytes));
  FARSPAN_RETURN_IF_ERROR(file_->ReadTensor(tensor, first_row * row_bytes, out));
  content_hash_.Add(out);
  for (int64_t row = 0; row < num_rows; ++row) {
    const auto bytes = std::span(out).subspan(static_cast<size_t>(row * row_bytes), static_cast<size_t>(row_bytes));
    if (!RowIsFinite(tensor.type, bytes)) return RefuseNonFinite(tensor, first_row + row);
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::UploadRows(const GgufTensor& tensor, kernels::WeightType type, std::byte* device) {
  const int64_t rows = tensor.rows();
  const int64_t resident_row_bytes = kernels::WeightRowBytes(type, tensor.columns());
  const int64_t group = RowsPackedTogether(type);
  const int64_t slice_rows = std::clamp<int64_t>(kSliceBytes / tensor.row_bytes() / group * group, group, rows);
  std::vector<std::byte> slice, converted;
  for (int64_t first = 0; first < rows; first += slice_rows) {
    const int64_t count = std::min(slice_rows, rows - first);
    FARSPAN_RETURN_IF_ERROR(ReadRows(tensor, first, count, slice));
    std::span<const std::byte> resident = slice;
    if (!KeepsBytes(tensor.type, type)) {
      converted.resize(static_cast<size_t>(count * resident_row_bytes));
      FARSPAN_RETURN_IF_ERROR(ConvertRows(tensor, type, first, slice, converted));
      resident = converted;
    }
    FARSPAN_RETURN_IF_ERROR(backend_->Upload(device + first * resident_row_bytes, resident));
  }
  return absl::OkStatus();
}

absl::StatusOr<kernels::WeightView> WeightLoader::LoadMatrix(std::string_view name, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  FARSPAN_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name, shape));
  const kernels::WeightType type = ResidentType(*tensor, *backend_);
  FARSPAN_ASSIGN_OR_RETURN(void* device, Allocate(name, rows * kernels::WeightRowBytes(type, columns)));
  FARSPAN_RETURN_IF_ERROR(UploadRows(*tensor, type, static_cast<std::byte*>(device)));
  return kernels::WeightView{.data = device, .type = type, .rows = rows, .columns = columns};
}

absl::Status WeightLoader::LoadStack(const std::vector<StackPart>& parts, int64_t columns) {
  std::vector<const GgufTensor*> tensors;
  int64_t size_bytes = 0;
  bool one_type = true;
  for (const StackPart& part : parts) {
    const int64_t shape[] = {part.rows, columns};
    FARSPAN_ASSIGN_OR_RETURN(tensors.emplace_back(), Find(part.name, shape));
    const kernels::WeightType type = ResidentType(*tensors.back(), *backend_);
    size_bytes += part.rows * kernels::WeightRowBytes(type, columns);
    one_type = one_type && type == ResidentType(*tensors.front(), *backend_);
  }
  std::byte* next = nullptr;
  if (one_type) {
    FARSPAN_ASSIGN_OR_RETURN(void* device, Allocate(parts.front().name, size_bytes));
    next = static_cast<std::byte*>(device);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const kernels::WeightType type = ResidentType(*tensors[i], *backend_);
    const int64_t part_bytes = parts[i].rows * kernels::WeightRowBytes(type, columns);
    if (!one_type) {
      FARSPAN_ASSIGN_OR_RETURN(void* device, Allocate(parts[i].name, part_bytes));
      next = static_cast<std::byte*>(device);
    }
    FARSPAN_RETURN_IF_ERROR(UploadRows(*tensors[i], type, next));
    *parts[i].view = {.data = next, .type = type, .rows = parts[i].rows, .columns = columns};
    next += part_bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> WeightLoader::ReadVector(std::string_view name, int64_t size) {
  FARSPAN_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(name, std::span(&size, 1)));
  std::vector<std::byte> row;
  FARSPAN_RETURN_IF_ERROR(ReadRows(*tensor, 0, 1, row));
  std::vector<float> values(static_cast<size_t>(size));
  DequantizeRow(tensor->type, row, values);
  return values;
}

absl::StatusOr<const float*> WeightLoader::LoadVector(std::string_view name, int64_t size) {
  FARSPAN_ASSIGN_OR_RETURN(const std::vector<float> values, ReadVector(name, size));
  FARSPAN_ASSIGN_OR_RETURN(void* device, Allocate(name, size * int64_t{sizeof(float)}));
  FARSPAN_RETURN_IF_ERROR(backend_->Upload(device, std::as_bytes(std::span(values))));
  return static_cast<const float*>(device);
}

absl::Status WeightLoader::Finish() {
  for (const GgufTensor& tensor : file_->tensors()) {
    if (loaded_.find(tensor.name) == loaded_.end()) {
      return Refuse(tensor.name, "only tensors of the architecture", "one that it does not have");
    }
  }
  return absl::OkStatus();
}

}  // namespace farspan
