// SPDX-License-Identifier: Apache-2.0
// Where a network's tensors come from: by name and shape into device memory, whether from a file or from a generator.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/arena.h"
#include "engine/backend/backend.h"
#include "engine/kernels/args.h"
#include "engine/model/content_hash.h"

namespace farspan {

// One thread. `backend` and the buffers outlive every view that was returned. A refusal is INVALID_ARGUMENT "tensor
// <name>: expected ..., got ...", too little memory is RESOURCE_EXHAUSTED naming it.
class WeightSource {
 public:
  explicit WeightSource(Backend* backend) : backend_(backend) {}
  virtual ~WeightSource() = default;
  WeightSource(const WeightSource&) = delete;
  WeightSource& operator=(const WeightSource&) = delete;

  // One of several matrices that share their input.
  struct StackPart {
    std::string name;
    int64_t rows = 0;
    kernels::WeightView* view = nullptr;  // out
  };

  // Takes memory for all tensors at once: before the first one. What is loaded without it, or beyond it, takes its own.
  absl::Status Reserve();

  virtual bool Has(std::string_view name) const = 0;
  // Loads each as LoadMatrix does, one behind the other in memory where their types are equal.
  virtual absl::Status LoadStack(const std::vector<StackPart>& parts, int64_t columns) = 0;
  virtual absl::StatusOr<kernels::WeightView> LoadMatrix(std::string_view name, int64_t rows, int64_t columns) = 0;
  virtual absl::StatusOr<const float*> LoadVector(std::string_view name, int64_t size) = 0;        // in device memory
  virtual absl::StatusOr<std::vector<float>> ReadVector(std::string_view name, int64_t size) = 0;  // on the host
  // After the last tensor: refuses what nobody asked for, and waits until all of them are in their place.
  virtual absl::Status Finish() = 0;

  // Of what was loaded so far.
  int64_t num_parameters() const { return num_parameters_; }
  int64_t size_bytes() const { return size_bytes_; }
  const ContentHash& content_hash() const { return content_hash_; }

  std::vector<std::unique_ptr<Buffer>> TakeBuffers();

 protected:
  // What the tensors take as pieces of an arena.
  virtual int64_t PlannedBytes() const = 0;
  // Device memory for weights, counted in size_bytes().
  absl::StatusOr<void*> Allocate(std::string_view name, int64_t size_bytes);

  Backend* const backend_;
  ContentHash content_hash_;
  int64_t num_parameters_ = 0;

 private:
  Arena arena_;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // beside it
  int64_t size_bytes_ = 0;
};

}  // namespace farspan
