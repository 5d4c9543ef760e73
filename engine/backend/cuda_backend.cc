// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda_device.h"
#include "engine/backend/cuda_graphs.h"
#include "engine/backend/cuda_op_timer.h"
#include "engine/backend/cuda_step_memory.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/kernels/cuda/kernels.h"

namespace farspan {
namespace {

using kernels::cuda::LaunchDecodeAttention;
using kernels::cuda::LaunchEmbed;
using kernels::cuda::LaunchKvAppend;
using kernels::cuda::LaunchLinear;
using kernels::cuda::LaunchPrefillAttention;
using kernels::cuda::LaunchRmsNorm;
using kernels::cuda::LaunchRope;
using kernels::cuda::LaunchRopeTable;
using kernels::cuda::LaunchSiluMul;

absl::Status DeviceFault(const char* what, cudaError_t error) {
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorName(error)));
}

// Device memory of one kind. Freed on destruction.
class DeviceBuffer final : public Buffer {
 public:
  DeviceBuffer(void* data, int64_t size_bytes, std::atomic<int64_t>* held_bytes)
      : Buffer(data, size_bytes), held_bytes_(*held_bytes) {
    held_bytes_ += size_bytes;
  }
  ~DeviceBuffer() override {
    cudaFree(data());
    held_bytes_ -= size_bytes();
  }

 private:
  std::atomic<int64_t>& held_bytes_;
};

class DeviceCudaBackend final : public Backend {
 public:
  DeviceCudaBackend(std::string name, cudaStream_t stream) : name_(std::move(name)), stream_(stream) {}
  absl::Status TakeStepMemory();
  ~DeviceCudaBackend() override { cudaStreamDestroy(stream_); }

  std::string_view name() const override { return name_; }
  PlanFeatures caps() const override {
    return PlanFeatures::kRanges | PlanFeatures::kLeftWindow | PlanFeatures::kQueryRotation | PlanFeatures::kDrop;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t size_bytes, MemoryKind kind) override;
  int64_t MemoryBytes(MemoryKind kind) const override {
    return held_bytes_[static_cast<size_t>(kind)] + (kind == MemoryKind::kWorkspace ? step_memory_.size_bytes() : 0);
  }
  SteadyDuration OpTime(TimedOp op) const override { return timer_.Total(op); }

  absl::Status Upload(void* device, std::span<const std::byte> host) override {
    Check("upload", cudaMemcpy(device, host.data(), host.size(), cudaMemcpyHostToDevice));
    return fault_;
  }
  absl::Status Download(std::span<std::byte> host, const void* device) override {
    Check("download", cudaMemcpy(host.data(), device, host.size(), cudaMemcpyDeviceToHost));
    return fault_;
  }
  kernels::Activation activation() const override { return kernels::Activation::kF32; }
  const void* Stage(std::span<const std::byte> host) override { return StageMutable(host); }
  void* StageMutable(std::span<const std::byte> host) override {
    if (!fault_.ok() || !step_status_.ok() || host.empty()) return nullptr;
    void* const device = step_memory_.Stage(host);
    if (device == nullptr) {
      step_status_ = absl::ResourceExhaustedError(
          absl::StrCat("the lists of one step take more than ", step_memory_.size_bytes(), " bytes"));
    }
    return device;
  }

  void CopyBytes(void* to, const void* from, int64_t size_bytes) override {
    const auto size = static_cast<size_t>(size_bytes);
    if (fault_.ok()) Check("copy", cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream_));
  }
  int64_t RecordedRows(int64_t num_rows) const override;
  void RunRecorded(uint64_t key, absl::FunctionRef<void()> ops) override {
    if (Ready()) Check("graph", graphs_.Run(key, stream_, ops));
  }
  void Embed(const kernels::EmbedArgs& args) override { Launch("embed", LaunchEmbed, args); }
  void RopeTable(const kernels::RopeTableArgs& args) override { Launch("rope_table", LaunchRopeTable, args); }
  void AttentionInput(const kernels::AttentionInputArgs& args) override;
  void AttentionOutput(const kernels::AddLinearArgs& args) override {
    Linear(args.x, args.weight, args.hidden, args.num_rows, true);
  }
  void FeedForward(const kernels::FeedForwardArgs& args) override;
  void Logits(const kernels::LogitsArgs& args) override;
  void FillKeyBounds(const kernels::FillKeyBoundsArgs&) override { RefuseSelection(); }
  void SelectBlocks(const kernels::SelectBlocksArgs&) override { RefuseSelection(); }
  void DecodeAttention(const kernels::DecodeAttentionArgs& args) override {
    Timed(TimedOp::kDecodeAttention, "decode_attention", LaunchDecodeAttention, args);
  }
  void PrefillAttention(const kernels::PrefillAttentionArgs& args) override {
    Timed(TimedOp::kPrefillAttention, "prefill_attention", LaunchPrefillAttention, args);
  }

  StepTicket Submit() override { return StepTicket{++submitted_}; }
  absl::Status Wait(StepTicket ticket) override {
    FARSPAN_CHECK(static_cast<uint64_t>(ticket) <= submitted_, "ticket=", static_cast<uint64_t>(ticket));
    Check("wait", cudaStreamSynchronize(stream_));
    if (fault_.ok()) Check("timing", timer_.Collect());
    step_memory_.Reset();
    const absl::Status status = std::exchange(step_status_, absl::OkStatus());
    return fault_.ok() ? status : fault_;
  }

 private:
  void Norm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t width, void* out) {
    const kernels::RmsNormArgs args = {.x = x,
                                       .weight = weight,
                                       .out = static_cast<float*>(out),
                                       .num_rows = num_rows,
                                       .width = width,
                                       .epsilon = epsilon};
    Launch("rms_norm", LaunchRmsNorm, args);
  }
  void Linear(const void* x, const kernels::WeightView& weight, float* y, int64_t num_rows, bool accumulate = false) {
    const kernels::LinearArgs args = {
        .x = static_cast<const float*>(x), .weight = weight, .y = y, .num_rows = num_rows, .accumulate = accumulate};
    Launch("linear", LaunchLinear, args);
  }

  // The first error of any call stands: a kernel's fault shows in whatever is called next.
  void Check(const char* what, cudaError_t error) {
    if (error != cudaSuccess && fault_.ok()) fault_ = DeviceFault(what, error);
  }
  // Whether the step goes on; what was staged is then on its way.
  bool Ready() {
    if (!fault_.ok() || !step_status_.ok()) return false;
    if (!graphs_.recording()) Check("stage", step_memory_.Flush(stream_));
    return fault_.ok();
  }
  template <typename Args>
  void Launch(const char* what, cudaError_t (*launch)(const Args&, cudaStream_t), const Args& args) {
    if (Ready()) Check(what, launch(args, stream_));
  }
  template <typename Args>
  void Timed(TimedOp op, const char* what, cudaError_t (*launch)(const Args&, cudaStream_t), const Args& args) {
    if (!Ready()) return;
    if (graphs_.recording()) return Check(what, launch(args, stream_));
    Check(what, timer_.Time(op, stream_, [&] { return launch(args, stream_); }));
  }
  // Requests that need it are refused by caps().
  static void RefuseSelection() { FARSPAN_CHECK(false, "selection on a backend whose caps() lack it"); }

  const std::string name_;
  const cudaStream_t stream_;
  std::array<std::atomic<int64_t>, kNumMemoryKinds> held_bytes_{};
  CudaStepMemory step_memory_;
  CudaOpTimer timer_;
  CudaGraphs graphs_;
  uint64_t submitted_ = 0;
  absl::Status step_status_;  // of the step that is being enqueued
  absl::Status fault_;        // sticky
};

absl::Status DeviceCudaBackend::TakeStepMemory() {
  constexpr int64_t kStepBytes = int64_t{64} << 20;
  const cudaError_t error = step_memory_.Take(kStepBytes);
  return error == cudaSuccess ? absl::OkStatus() : DeviceFault("step memory", error);
}

// Few sizes, so that few graphs serve every batch, and none much larger than it must be.
int64_t DeviceCudaBackend::RecordedRows(int64_t num_rows) const {
  constexpr int64_t kLargest = 256;
  if (num_rows > kLargest) return 0;
  for (const int64_t rows : {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224}) {
    if (num_rows <= rows) return rows;
  }
  return kLargest;
}

void DeviceCudaBackend::AttentionInput(const kernels::AttentionInputArgs& args) {
  const int64_t rows = args.num_rows;
  auto* const q = static_cast<float*>(args.q);
  auto* const k = static_cast<float*>(args.projected);
  float* const v = k + rows * args.key.rows;
  Norm(args.hidden, args.norm_weight, args.epsilon, rows, args.query.columns, args.normed);
  Linear(args.normed, args.query, q, rows);
  Linear(args.normed, args.key, k, rows);
  Linear(args.normed, args.value, v, rows);
  for (const auto& [x, num_heads] : {std::pair(q, args.num_heads), std::pair(k, args.cache.num_kv_heads)}) {
    const kernels::RopeArgs rope = {.x = x,
                                    .cos_sin = args.cos_sin,
                                    .num_rows = rows,
                                    .num_heads = num_heads,
                                    .head_dim = args.cache.head_dim,
                                    .rope_dim = args.rope_dim};
    Launch("rope", LaunchRope, rope);
  }
  const kernels::KvAppendArgs append = {.k = k, .v = v, .slots = args.slots, .cache = args.cache, .num_rows = rows};
  Launch("kv_append", LaunchKvAppend, append);
}

void DeviceCudaBackend::FeedForward(const kernels::FeedForwardArgs& args) {
  const int64_t rows = args.num_rows, inner_width = args.gate.rows;
  auto* const gate = static_cast<float*>(args.inner);
  float* const up = gate + rows * inner_width;
  Norm(args.hidden, args.norm_weight, args.epsilon, rows, args.gate.columns, args.normed);
  Linear(args.normed, args.gate, gate, rows);
  Linear(args.normed, args.up, up, rows);
  const kernels::SiluMulArgs silu = {.gate = gate, .up = up, .num_rows = rows, .width = inner_width};
  Launch("silu_mul", LaunchSiluMul, silu);
  Linear(gate, args.down, args.hidden, rows, true);
}

void DeviceCudaBackend::Logits(const kernels::LogitsArgs& args) {
  const kernels::RmsNormArgs norm = {.x = args.hidden,
                                     .weight = args.norm_weight,
                                     .out = static_cast<float*>(args.normed),
                                     .num_rows = args.num_rows,
                                     .width = args.weight.columns,
                                     .epsilon = args.epsilon,
                                     .rows = args.rows};
  Launch("rms_norm", LaunchRmsNorm, norm);
  Linear(args.normed, args.weight, args.logits, args.num_rows);
}

absl::StatusOr<std::unique_ptr<Buffer>> DeviceCudaBackend::Allocate(int64_t size_bytes, MemoryKind kind) {
  FARSPAN_CHECK(size_bytes >= 0, "size_bytes=", size_bytes);
  FARSPAN_RETURN_IF_ERROR(fault_);
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(size_bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", size_bytes, " bytes of ", name_, "'s memory: ",
                                                     free_bytes, " of ", total_bytes, " bytes are free"));
  }
  if (error != cudaSuccess) return DeviceFault("allocate", error);
  return std::make_unique<DeviceBuffer>(data, size_bytes, &held_bytes_[static_cast<size_t>(kind)]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(int ordinal) {
  FARSPAN_ASSIGN_OR_RETURN(const CudaDeviceInfo info, ProbeCudaDevice(ordinal));
  cudaStream_t stream = nullptr;
  if (const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); error != cudaSuccess) {
    return DeviceFault("stream", error);
  }
  auto backend = std::make_unique<DeviceCudaBackend>(absl::StrCat("cuda:", ordinal, "/", info.name), stream);
  FARSPAN_RETURN_IF_ERROR(backend->TakeStepMemory());
  return backend;
}

}  // namespace farspan
