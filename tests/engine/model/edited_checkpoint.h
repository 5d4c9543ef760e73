// SPDX-License-Identifier: Apache-2.0
// A tiny checkpoint taken apart, so that a test can change one key or tensor and write it again.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/model/gguf_types.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {

// Public members are there to be edited; keys of arrays (the vocabulary) are left out.
struct EditedCheckpoint {
  struct Tensor {
    std::vector<int64_t> shape;
    GgufTensorType type = GgufTensorType::kF32;
    std::string data;
  };

  explicit EditedCheckpoint(const TinyCheckpointOptions& options = {});

  std::string Bytes() const;

  std::map<std::string, std::string> texts;
  std::map<std::string, std::vector<std::string>> lists;
  std::map<std::string, uint32_t> numbers;
  std::map<std::string, float> floats;
  std::map<std::string, bool> flags;
  std::map<std::string, Tensor> tensors;
};

}  // namespace farspan
