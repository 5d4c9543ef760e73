// SPDX-License-Identifier: Apache-2.0
// Quantised tensors of a file as tiles of a device or as panels of a CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/kernels/args.h"
#include "engine/model/gguf_types.h"

namespace farspan {

// The tiles that keep a tensor's levels; nothing for types without and for shapes that tiles do not cover.
std::optional<kernels::WeightType> TiledType(GgufTensorType type, int64_t rows, int64_t columns);

// Packs whole rows, a multiple of 16 of them, in the file's layout into tiles; `tiles` holds
// num_rows * WeightRowBytes(). Returns the first row of which a scale leaves the range of a half float, if any does.
std::optional<int64_t> PackTiles(GgufTensorType type, std::span<const std::byte> rows, int64_t num_rows,
                                 int64_t columns, std::span<std::byte> tiles);

// The same for panels.
std::optional<kernels::WeightType> PanelType(GgufTensorType type, int64_t rows, int64_t columns);
bool PackPanels(GgufTensorType type, std::span<const std::byte> rows, int64_t num_rows, int64_t columns,
                std::span<std::byte> panels);

}  // namespace farspan
