// SPDX-License-Identifier: Apache-2.0
// Random rows of every tensor type with their values, as the PyPI package `gguf` computes them: the file that
// tests/data/gguf/make_dequantize_golden.py writes.
#pragma once

#include <string>
#include <vector>

#include "engine/model/gguf_types.h"

namespace farspan {

struct GoldenRow {
  GgufTensorType type = GgufTensorType::kF32;
  std::string bytes;  // encoded
  std::vector<float> values;
};

// Rows of one type follow each other and are equally long. The working folder is the repository's root.
std::vector<GoldenRow> ReadDequantizeGolden();

}  // namespace farspan
