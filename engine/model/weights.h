// SPDX-License-Identifier: Apache-2.0
// Tensors of a GGUF file into device memory: shape checked by name, NaN refused, types made fit for the kernels. Q4_0,
// Q4_1, Q8_0, F32 and BF16 matrices keep their type, others are widened to bf16, or quantised ones become tiles or panels
// where the backend wants them; vectors become float32.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/kernels/args.h"
#include "engine/model/gguf.h"
#include "engine/model/weight_source.h"

namespace farspan {

// `file` outlives the loader. Host memory: one slice of 4 MiB and, for types that are widened, its values.
class WeightLoader final : public WeightSource {
 public:
  WeightLoader(const GgufFile* file, Backend* backend) : WeightSource(backend), file_(file) {}

  bool Has(std::string_view name) const override { return file_->FindTensor(name) != nullptr; }
  absl::Status LoadStack(const std::vector<StackPart>& parts, int64_t columns) override;
  absl::StatusOr<kernels::WeightView> LoadMatrix(std::string_view name, int64_t rows, int64_t columns) override;
  absl::StatusOr<const float*> LoadVector(std::string_view name, int64_t size) override;
  absl::StatusOr<std::vector<float>> ReadVector(std::string_view name, int64_t size) override;
  // Refuses a file with a tensor that nobody asked for: ignoring one would run another network than the file's.
  absl::Status Finish() override;

 private:
  absl::StatusOr<const GgufTensor*> Find(std::string_view name, std::span<const int64_t> shape);
  // Reads `num_rows` whole rows from `first_row` into `out` and refuses NaN and infinities.
  absl::Status ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows, std::vector<std::byte>& out);
  absl::Status UploadRows(const GgufTensor& tensor, kernels::WeightType type, std::byte* device);

  const GgufFile* const file_;
  std::set<std::string, std::less<>> loaded_;
};

}  // namespace farspan
