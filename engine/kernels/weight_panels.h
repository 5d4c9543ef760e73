// SPDX-License-Identifier: Apache-2.0
// Quantised weights as vectors of sixteen lanes want them: panels of 16 rows by 32 columns, of equal size, one behind
// the other along 16 rows, then down. Each value keeps the integer that its block had. A panel is
//   the scales:  16 half floats, one a row; then, with a minimum, 16 minima;
//   four bits:   for each 8 columns a word of 32 bits a row; column c in nibble c / 2 + 4 (c % 2),
//   eight bits:  for each 2 columns two bytes a row, two's complement.
// So two columns of a row, widened to 16 bits, are one lane. Rows are a multiple of 16, columns of 32.
#pragma once

#include <cstdint>

#include "engine/kernels/args.h"

namespace farspan::kernels {

inline constexpr int64_t kPanelRows = 16;
inline constexpr int64_t kPanelColumns = 32;

constexpr bool IsPanel(WeightType type) {
  return type == WeightType::kPanel4 || type == WeightType::kPanel4Min || type == WeightType::kPanel8;
}

struct PanelTraits {
  int bits = 0;  // 4 or 8
  bool has_min = false;
  int offset = 0;  // w = scale * (level - offset), or scale * level + min

  constexpr int levels_at() const { return has_min ? 64 : 32; }
  constexpr int panel_bytes() const { return levels_at() + 64 * bits; }
};

constexpr PanelTraits TraitsOfPanels(WeightType type) {
  switch (type) {
    case WeightType::kPanel4:
      return {.bits = 4, .offset = 8};
    case WeightType::kPanel4Min:
      return {.bits = 4, .has_min = true};
    case WeightType::kPanel8:
      return {.bits = 8};
    default:
      return {};
  }
}

// The panel of a value of a matrix.
constexpr int64_t PanelOffset(const PanelTraits& traits, int64_t columns, int64_t row, int64_t column) {
  return (row / kPanelRows * (columns / kPanelColumns) + column / kPanelColumns) * traits.panel_bytes();
}

// The byte of a panel that holds a level, in its low or its high four bits where it has four.
constexpr int PanelByte(const PanelTraits& traits, int row, int column) {
  if (traits.bits == 8) return traits.levels_at() + column / 2 * 32 + row * 2 + column % 2;
  return traits.levels_at() + column / 8 * 64 + row * 4 + column % 8 / 4 + 2 * (column % 2);
}
constexpr int PanelShift(const PanelTraits& traits, int column) { return traits.bits == 8 ? 0 : column / 2 % 2 * 4; }

// The level of a value, as its block had it.
constexpr int PanelLevel(const PanelTraits& traits, const uint8_t* panel, int row, int column) {
  const int byte = panel[PanelByte(traits, row, column)];
  if (traits.bits == 8) return byte < 128 ? byte : byte - 256;
  return byte >> PanelShift(traits, column) & 15;
}

// Puts a level into a panel of zeros.
constexpr void SetPanelLevel(const PanelTraits& traits, uint8_t* panel, int row, int column, int level) {
  uint8_t& byte = panel[PanelByte(traits, row, column)];
  byte = static_cast<uint8_t>(byte | (level << PanelShift(traits, column)));
}

}  // namespace farspan::kernels
