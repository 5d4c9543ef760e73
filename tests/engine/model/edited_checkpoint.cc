// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/model/edited_checkpoint.h"

#include <span>

#include "engine/base/check.h"
#include "engine/model/gguf.h"
#include "tests/support/gguf_writer.h"

namespace farspan {

EditedCheckpoint::EditedCheckpoint(const TinyCheckpointOptions& options) {
  const std::string bytes = TinyCheckpointBytes(options);
  const GgufFile file = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes))));
  for (const auto& [key, value] : file.metadata().values()) {
    if (const auto* text = std::get_if<std::string>(&value.data)) texts[key] = *text;
    if (const auto* list = std::get_if<std::vector<std::string>>(&value.data)) lists[key] = *list;
    if (const auto* number = std::get_if<uint64_t>(&value.data)) numbers[key] = static_cast<uint32_t>(*number);
    if (const auto* number = std::get_if<double>(&value.data)) floats[key] = static_cast<float>(*number);
    if (const auto* flag = std::get_if<bool>(&value.data)) flags[key] = *flag;
  }
  for (const GgufTensor& tensor : file.tensors()) {
    std::string data(static_cast<size_t>(tensor.size_bytes), '\0');
    FARSPAN_CHECK(file.ReadTensor(tensor, 0, std::as_writable_bytes(std::span(data.data(), data.size()))).ok());
    tensors[tensor.name] = {.shape = tensor.shape, .type = tensor.type, .data = std::move(data)};
  }
}

std::string EditedCheckpoint::Bytes() const {
  GgufWriter writer;
  for (const auto& [key, value] : texts) writer.AddString(key, value);
  for (const auto& [key, value] : lists) writer.AddStrings(key, value);
  for (const auto& [key, value] : numbers) writer.AddUint32(key, value);
  for (const auto& [key, value] : floats) writer.AddFloat32(key, value);
  for (const auto& [key, value] : flags) writer.AddBool(key, value);
  for (const auto& [name, tensor] : tensors) writer.AddTensor(name, tensor.shape, tensor.type, tensor.data);
  return writer.Finish();
}

}  // namespace farspan
