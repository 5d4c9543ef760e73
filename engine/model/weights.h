// SPDX-License-Identifier: Apache-2.0
// Tensors of a GGUF file into device memory: shape checked by name, NaN refused, types made fit for the kernels. F32
// and BF16 matrices keep their type, and Q4_0, Q4_1 and Q8_0 where the backend takes blocks; where it wants tiles or
// panels, quantised matrices whose shape these cover become such. All others are widened to bf16; vectors become
// float32.
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

// `file` outlives the loader. Host memory: one slice of 4 MiB and, for types that change, what it becomes. Tiles and
// panels are packed by the calling thread.
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
  int64_t PlannedBytes() const override;
  absl::StatusOr<const GgufTensor*> Find(std::string_view name, std::span<const int64_t> shape);
  // Reads `num_rows` whole rows from `first_row` into `out` and refuses NaN and infinities.
  absl::Status ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows, std::vector<std::byte>& out);
  absl::Status UploadRows(const GgufTensor& tensor, kernels::WeightType type, std::byte* device);

  const GgufFile* const file_;
  std::set<std::string, std::less<>> loaded_;
};

}  // namespace farspan
