// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda_device.h"
#include "engine/base/check.h"
#include "engine/base/math.h"
#include "engine/base/status_macros.h"
#include "engine/kernels/cuda/decode_attention.h"
#include "engine/kernels/cuda/kernels.h"

namespace farspan {
namespace {

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

// One step's host arrays on their way to the device: pinned chunks with a twin in device memory, reused by each step.
class Staging {
 public:
  ~Staging() {
    for (const Chunk& chunk : chunks_) {
      cudaFreeHost(chunk.host);
      cudaFree(chunk.device);
    }
  }

  cudaError_t Copy(std::span<const std::byte> bytes, cudaStream_t stream, void** device) {
    constexpr int64_t kAlignment = 256;
    const auto size_bytes = static_cast<int64_t>(bytes.size());
    while (current_ < chunks_.size() && chunks_[current_].size_bytes - used_bytes_ < size_bytes) {
      ++current_;
      used_bytes_ = 0;
    }
    if (current_ == chunks_.size()) {
      if (const cudaError_t error = AddChunk(size_bytes); error != cudaSuccess) return error;
    }
    const Chunk& chunk = chunks_[current_];
    std::memcpy(chunk.host + used_bytes_, bytes.data(), bytes.size());
    *device = chunk.device + used_bytes_;
    std::byte* const to = chunk.device + used_bytes_;
    const std::byte* const from = chunk.host + used_bytes_;
    used_bytes_ = RoundUp(used_bytes_ + size_bytes, kAlignment);
    return cudaMemcpyAsync(to, from, bytes.size(), cudaMemcpyHostToDevice, stream);
  }

  // The step that read what was copied has completed.
  void Reset() {
    current_ = 0;
    used_bytes_ = 0;
  }

  int64_t size_bytes() const { return size_bytes_.load(std::memory_order_relaxed); }

 private:
  struct Chunk {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    int64_t size_bytes = 0;
  };

  cudaError_t AddChunk(int64_t least_bytes) {
    constexpr int64_t kChunkBytes = int64_t{4} << 20;
    Chunk chunk{.size_bytes = RoundUp(least_bytes, kChunkBytes)};
    const auto size = static_cast<size_t>(chunk.size_bytes);
    if (const cudaError_t error = cudaMallocHost(reinterpret_cast<void**>(&chunk.host), size); error != cudaSuccess) {
      return error;
    }
    if (const cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&chunk.device), size); error != cudaSuccess) {
      cudaFreeHost(chunk.host);
      return error;
    }
    chunks_.push_back(chunk);
    size_bytes_ += chunk.size_bytes;
    return cudaSuccess;
  }

  std::vector<Chunk> chunks_;
  size_t current_ = 0;
  int64_t used_bytes_ = 0;  // of the current chunk
  std::atomic<int64_t> size_bytes_{0};
};

// How long ops ran on the device, from events around each; read when their step has completed.
class OpTimer {
 public:
  ~OpTimer() {
    for (const Span& span : spans_) {
      cudaEventDestroy(span.begin);
      cudaEventDestroy(span.end);
    }
  }

  template <typename Launch>
  cudaError_t Time(TimedOp op, cudaStream_t stream, const Launch& launch) {
    if (num_used_ == spans_.size()) {
      Span span;
      for (cudaEvent_t* event : {&span.begin, &span.end}) {
        if (const cudaError_t error = cudaEventCreate(event); error != cudaSuccess) return error;
      }
      spans_.push_back(span);
    }
    Span& span = spans_[num_used_++];
    span.op = op;
    if (const cudaError_t error = cudaEventRecord(span.begin, stream); error != cudaSuccess) return error;
    if (const cudaError_t error = launch(); error != cudaSuccess) return error;
    return cudaEventRecord(span.end, stream);
  }

  cudaError_t Collect() {
    for (size_t i = 0; i < std::exchange(num_used_, 0); ++i) {
      float milliseconds = 0;
      const cudaError_t error = cudaEventElapsedTime(&milliseconds, spans_[i].begin, spans_[i].end);
      if (error != cudaSuccess) return error;
      const auto elapsed = std::chrono::duration<float, std::milli>(milliseconds);
      totals_[static_cast<size_t>(spans_[i].op)] += std::chrono::duration_cast<SteadyDuration>(elapsed).count();
    }
    return cudaSuccess;
  }

  SteadyDuration Total(TimedOp op) const { return SteadyDuration(totals_[static_cast<size_t>(op)].load()); }

 private:
  struct Span {
    TimedOp op{};
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
  };
  std::vector<Span> spans_;
  size_t num_used_ = 0;
  std::array<std::atomic<SteadyDuration::rep>, kNumTimedOps> totals_{};
};

class DeviceCudaBackend final : public Backend {
 public:
  DeviceCudaBackend(std::string name, cudaStream_t stream) : name_(std::move(name)), stream_(stream) {}
  ~DeviceCudaBackend() override { cudaStreamDestroy(stream_); }

  std::string_view name() const override { return name_; }
  PlanFeatures caps() const override {
    return PlanFeatures::kRanges | PlanFeatures::kLeftWindow | PlanFeatures::kQueryRotation | PlanFeatures::kDrop;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t size_bytes, MemoryKind kind) override;
  int64_t MemoryBytes(MemoryKind kind) const override {
    return held_bytes_[static_cast<size_t>(kind)] + (kind == MemoryKind::kWorkspace ? staging_.size_bytes() : 0);
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
    void* device = nullptr;
    if (fault_.ok() && !host.empty()) Check("stage", staging_.Copy(host, stream_, &device));
    return device;
  }

  void CopyBytes(void* to, const void* from, int64_t size_bytes) override {
    const auto size = static_cast<size_t>(size_bytes);
    Check("copy", cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream_));
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
  void DecodeAttention(const kernels::DecodeAttentionArgs& args) override;
  void PrefillAttention(const kernels::PrefillAttentionArgs& args) override {
    Timed(TimedOp::kPrefillAttention, "prefill_attention", LaunchPrefillAttention, args);
  }

  StepTicket Submit() override { return StepTicket{++submitted_}; }
  absl::Status Wait(StepTicket ticket) override {
    FARSPAN_CHECK(static_cast<uint64_t>(ticket) <= submitted_, "ticket=", static_cast<uint64_t>(ticket));
    Check("wait", cudaStreamSynchronize(stream_));
    if (fault_.ok()) Check("timing", timer_.Collect());
    staging_.Reset();
    return fault_;
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
  template <typename Args>
  void Launch(const char* what, cudaError_t (*launch)(const Args&, cudaStream_t), const Args& args) {
    if (fault_.ok()) Check(what, launch(args, stream_));
  }
  template <typename Args>
  void Timed(TimedOp op, const char* what, cudaError_t (*launch)(const Args&, cudaStream_t), const Args& args) {
    if (fault_.ok()) Check(what, timer_.Time(op, stream_, [&] { return launch(args, stream_); }));
  }
  // Requests that need it are refused by caps().
  static void RefuseSelection() { FARSPAN_CHECK(false, "selection on a backend whose caps() lack it"); }

  const std::string name_;
  const cudaStream_t stream_;
  std::array<std::atomic<int64_t>, kNumMemoryKinds> held_bytes_{};
  Staging staging_;
  OpTimer timer_;
  std::unique_ptr<Buffer> decode_workspace_;  // grows with the rows seen
  uint64_t submitted_ = 0;
  absl::Status fault_;  // sticky
};

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

void DeviceCudaBackend::DecodeAttention(const kernels::DecodeAttentionArgs& args) {
  const kernels::AttentionCommon& common = args.common;
  const int64_t needed = kernels::cuda::DecodeAttentionWorkspaceBytes(args.num_rows, common.num_heads,
                                                                      common.cache.num_kv_heads, common.cache.head_dim);
  if (decode_workspace_ == nullptr || decode_workspace_->size_bytes() < needed) {
    if (fault_.ok()) Check("decode_workspace", cudaStreamSynchronize(stream_));
    decode_workspace_.reset();
    auto buffer = Allocate(needed, MemoryKind::kWorkspace);
    if (!buffer.ok()) {
      if (fault_.ok()) fault_ = buffer.status();
      return;
    }
    decode_workspace_ = *std::move(buffer);
    Check("decode_workspace", cudaMemsetAsync(decode_workspace_->data(), 0, static_cast<size_t>(needed), stream_));
  }
  if (!fault_.ok()) return;
  Check("decode_attention", timer_.Time(TimedOp::kDecodeAttention, stream_, [&] {
    const kernels::cuda::Workspace workspace = {decode_workspace_->data(), decode_workspace_->size_bytes()};
    return kernels::cuda::LaunchDecodeAttention(args, workspace, stream_);
  }));
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
  return std::make_unique<DeviceCudaBackend>(absl::StrCat("cuda:", ordinal, "/", info.name), stream);
}

}  // namespace farspan
