// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/model/dequantize_golden.h"

#include <cstring>
#include <fstream>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "engine/base/check.h"

namespace farspan {
namespace {

GgufTensorType TypeByName(std::string_view name) {
  for (const GgufTensorTypeTraits& traits : kGgufTensorTypes) {
    if (traits.name == name) return traits.type;
  }
  FARSPAN_CHECK(false, "a type of the golden file that we do not read");
  return GgufTensorType::kF32;
}

}  // namespace

std::vector<GoldenRow> ReadDequantizeGolden() {
  std::ifstream file("tests/data/gguf/dequantize_golden.txt");
  std::vector<GoldenRow> rows;
  std::string type, bytes, values;
  while (file >> type >> bytes >> values) {
    GoldenRow row{.type = TypeByName(type), .bytes = absl::HexStringToBytes(bytes)};
    const std::string raw = absl::HexStringToBytes(values);
    row.values.resize(raw.size() / sizeof(float));
    std::memcpy(row.values.data(), raw.data(), raw.size());
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace farspan
