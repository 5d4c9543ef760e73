// SPDX-License-Identifier: Apache-2.0
// Tensors of a GGUF file into device memory: shape checked by name, NaN refused, types made fit for the kernels. Q4_0,
// Q4_1, Q8_0, F32 and BF16 matrices keep their type, others are widened to bf16; vectors become float32.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/kernels/args.h"
#include "engine/model/content_hash.h"
#include "engine/model/gguf.h"

namespace farspan {

// One thread. `file` outlives the loader; `backend` and the loader's buffers outlive every view that it returned.
// Every refusal is INVALID_ARGUMENT "tensor <name>: expected ..., got ...". Host memory: one slice of 4 MiB and, for
// types that are widened, its values.
class WeightLoader {
 public:
  WeightLoader(const GgufFile* file, Backend* backend) : file_(file), backend_(backend) {}

  bool Has(std::string_view name) const { return file_->FindTensor(name) != nullptr; }
  // One of several matrices that share their input.
  struct StackPart {
    std::string name;
    int64_t rows = 0;
    kernels::WeightView* view = nullptr;  // out
  };
  // Loads each as LoadMatrix does, one behind the other in memory where their types are equal.
  absl::Status LoadStack(const std::vector<StackPart>& parts, int64_t columns);
  absl::StatusOr<kernels::WeightView> LoadMatrix(std::string_view name, int64_t rows, int64_t columns);
  absl::StatusOr<const float*> LoadVector(std::string_view name, int64_t size);        // in device memory
  absl::StatusOr<std::vector<float>> ReadVector(std::string_view name, int64_t size);  // on the host

  // Refuses a file with a tensor that nobody asked for: ignoring one would run another network than the file's.
  absl::Status CheckAllLoaded() const;

  // Of what was loaded so far.
  int64_t num_parameters() const { return num_parameters_; }
  int64_t size_bytes() const { return size_bytes_; }
  const ContentHash& content_hash() const { return content_hash_; }

  std::vector<std::unique_ptr<Buffer>> TakeBuffers() { return std::move(buffers_); }

 private:
  absl::StatusOr<const GgufTensor*> Find(std::string_view name, std::span<const int64_t> shape);
  absl::StatusOr<void*> AllocateFor(const GgufTensor& tensor, int64_t size_bytes);
  // Reads `num_rows` whole rows from `first_row` into `out` and refuses NaN and infinities.
  absl::Status ReadRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows, std::vector<std::byte>& out);
  absl::Status UploadRows(const GgufTensor& tensor, kernels::WeightType type, std::byte* device);

  const GgufFile* const file_;
  Backend* const backend_;
  std::set<std::string, std::less<>> loaded_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  ContentHash content_hash_;
  int64_t num_parameters_ = 0;
  int64_t size_bytes_ = 0;
};

}  // namespace farspan
