// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/backend/cuda_device.h"
#include "engine/backend/cuda_graphs.h"
#include "engine/backend/cuda_layers.h"
#include "engine/backend/cuda_op_timer.h"
#include "engine/backend/cuda_step_memory.h"
#include "engine/backend/memory_text.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/kernels/cuda/decode_attention.h"
#include "engine/kernels/cuda/hopper_prefill_attention.h"
#include "engine/kernels/cuda/kernels.h"
#include "engine/kernels/cuda/linear.h"
#include "engine/kernels/cuda/select_blocks.h"

namespace farspan {
namespace {

using kernels::cuda::LaunchCompactTokens;
using kernels::cuda::LaunchEmbed;
using kernels::cuda::LaunchFillKeyBounds;
using kernels::cuda::LaunchFillRandom;
using kernels::cuda::LaunchKeyScores;
using kernels::cuda::LaunchMergeStates;
using kernels::cuda::LaunchPackTiles;
using kernels::cuda::LaunchRopeTable;

absl::Status DeviceFault(const char* what, cudaError_t error) {
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorName(error)));
}

// Kernels keep what they know of the device for as long as the process lives (CurrentDeviceTraits in device.cuh).
absl::Status ClaimForProcess(int ordinal) {
  static std::atomic<int> claimed = -1;
  int holder = -1;
  if (claimed.compare_exchange_strong(holder, ordinal) || holder == ordinal) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("a process uses one GPU, and this one uses cuda:", holder, ", so not cuda:", ordinal));
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

// Rows of the largest recorded step, and of one launch of decode attention.
constexpr int64_t kMaxDecodeRows = 256;
// Rows whose scores are held at a time.
constexpr int64_t kMaxSelectRows = 32;

class DeviceCudaBackend final : public Backend {
 public:
  DeviceCudaBackend(int ordinal, std::string name, cudaStream_t stream)
      : ordinal_(ordinal), name_(std::move(name)), stream_(stream) {}
  // What ops need beside their arguments.
  absl::Status TakeWorkspace();
  ~DeviceCudaBackend() override { cudaStreamDestroy(stream_); }

  std::string_view name() const override { return name_; }
  PlanFeatures caps() const override {
    return PlanFeatures::kRanges | PlanFeatures::kLeftWindow | PlanFeatures::kQueryRotation | PlanFeatures::kDrop |
           PlanFeatures::kKeyBoundsSelector;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t size_bytes, MemoryKind kind) override;
  int64_t MemoryBytes(MemoryKind kind) const override {
    return held_bytes_[static_cast<size_t>(kind)] + (kind == MemoryKind::kWorkspace ? step_memory_.size_bytes() : 0);
  }
  DeviceMemory WholeMemory() const override {
    size_t free_bytes = 0, total_bytes = 0;
    if (!UseCudaDevice(ordinal_).ok() || cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) return {};
    return {.total_bytes = static_cast<int64_t>(total_bytes), .free_bytes = static_cast<int64_t>(free_bytes)};
  }
  int64_t NumAllocations() const override { return num_allocations_; }
  SteadyDuration OpTime(TimedOp op) const override { return timer_.Total(op); }

  absl::Status Upload(void* device, std::span<const std::byte> host) override {
    return Copy("upload", device, host.data(), host.size(), cudaMemcpyHostToDevice);
  }
  absl::Status Download(std::span<std::byte> host, const void* device) override {
    return Copy("download", host.data(), device, host.size(), cudaMemcpyDeviceToHost);
  }
  kernels::Activation activation() const override { return kernels::Activation::kBf16; }
  kernels::WeightLayout weight_layout() const override { return kernels::WeightLayout::kTiles; }
  const void* Stage(std::span<const std::byte> host) override { return StageMutable(host); }
  void* StageMutable(std::span<const std::byte> host) override {
    if (!fault_.ok() || !step_status_.ok() || host.empty()) return nullptr;
    // The pinned memory is that of the step before the last, whose end is seldom waited for here.
    if (waited_ + 1 < submitted_) Check("wait", cudaEventSynchronize(steps_[(submitted_ + 1) % 2].end));
    void* const device = step_memory_.Stage(host);
    if (device == nullptr) {
      step_status_ = absl::ResourceExhaustedError(
          absl::StrCat("an array of ", host.size(), " bytes does not fit into the ", step_memory_.size_bytes(),
                       " that are set aside for a step's arrays: the contexts or what is chosen of them are too long "
                       "for so many sequences"));
    }
    return device;
  }

  void CopyBytes(void* to, const void* from, int64_t size_bytes) override {
    const auto size = static_cast<size_t>(size_bytes);
    if (OnDevice()) Check("copy", cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream_));
  }
  absl::Status Prepare(const ModelShape& shape, const StepLimits& limits) override;
  int64_t RecordedRows(int64_t num_rows) const override;
  void RunRecorded(uint64_t key, absl::FunctionRef<void()> ops) override {
    if (!Ready()) return;
    if (timer_.NextRecordedStep()) return ops();
    Check("graph", graphs_.Run(key, stream_, ops));
  }
  void FillRandom(const kernels::FillRandomArgs& args) override { Launch("fill_random", LaunchFillRandom, args); }
  void PackTiles(const kernels::PackTilesArgs& args) override { Launch("pack_tiles", LaunchPackTiles, args); }
  void Embed(const kernels::EmbedArgs& args) override { Launch("embed", LaunchEmbed, args); }
  void RopeTable(const kernels::RopeTableArgs& args) override { Launch("rope_table", LaunchRopeTable, args); }
  void AttentionInput(const kernels::AttentionInputArgs& args) override {
    if (Ready()) Check(layers_->AttentionInput(args));
  }
  void AttentionOutput(const kernels::AddLinearArgs& args) override {
    if (Ready()) Check(layers_->AttentionOutput(args));
  }
  void FeedForward(const kernels::FeedForwardArgs& args) override {
    if (Ready()) Check(layers_->FeedForward(args));
  }
  void Logits(const kernels::LogitsArgs& args) override {
    if (Ready()) Check(layers_->Logits(args));
  }
  void FillKeyBounds(const kernels::FillKeyBoundsArgs& args) override {
    if (Ready()) Timed(TimedOp::kDecodeSelection, "key bounds", [&] { return LaunchFillKeyBounds(args, stream_); });
  }
  void SelectBlocks(const kernels::SelectBlocksArgs& args) override;
  void DecodeAttention(const kernels::DecodeAttentionArgs& args) override { RunDecode({.attention = args}); }
  void KeyScores(const kernels::KeyScoresArgs& args) override { Launch("key scores", LaunchKeyScores, args); }
  void DecodeStates(const kernels::DecodeStatesArgs& args) override { RunDecode(args); }
  void MergeStates(const kernels::MergeStatesArgs& args) override { Launch("merge states", LaunchMergeStates, args); }
  void CompactTokens(const kernels::CompactTokensArgs& args) override {
    Launch("compact tokens", LaunchCompactTokens, args);
  }
  void PrefillAttention(const kernels::PrefillAttentionArgs& args) override;

  bool draws() const override { return true; }
  const kernels::DrawnRow* Draw(const kernels::DrawArgs& args) override;

  int64_t max_steps_in_flight() const override { return 2; }
  StepTicket Submit() override {
    CudaStep& step = steps_[++submitted_ % 2];
    step.status = std::exchange(step_status_, absl::OkStatus());
    if (OnDevice()) Check("submit", cudaEventRecord(step.end, stream_));
    step_memory_.BeginNextStep();
    timer_.BeginNextStep();
    return StepTicket{submitted_};
  }
  absl::Status Wait(StepTicket ticket) override {
    const auto number = static_cast<uint64_t>(ticket);
    FARSPAN_CHECK(number > 0 && number <= submitted_ && number + 2 > submitted_, "ticket=", number);
    CudaStep& step = steps_[number % 2];
    if (OnDevice()) Check("wait", cudaEventSynchronize(step.end));
    waited_ = std::max(waited_, number);
    if (fault_.ok()) Check("timing", timer_.Collect(number));
    const absl::Status status = std::exchange(step.status, absl::OkStatus());
    return fault_.ok() ? status : fault_;
  }

 private:
  // In order with the ops: the stream does not wait for the default one, on which a plain copy may still be under way
  // when it returns.
  absl::Status Copy(const char* what, void* to, const void* from, size_t size_bytes, cudaMemcpyKind kind) {
    if (OnDevice()) Check(what, cudaMemcpyAsync(to, from, size_bytes, kind, stream_));
    if (fault_.ok()) Check(what, cudaStreamSynchronize(stream_));
    return fault_;
  }

  // Of each call that takes memory. RESOURCE_EXHAUSTED says what there was none for.
  absl::Status AllocationStatus(cudaError_t error, int64_t size_bytes, absl::string_view purpose);

  // The first error of any call stands: a kernel's fault shows in whatever is called next.
  void Check(const char* what, cudaError_t error) {
    if (error != cudaSuccess && fault_.ok()) fault_ = DeviceFault(what, error);
  }
  void Check(absl::Status status) {
    if (!status.ok() && fault_.ok()) fault_ = std::move(status);
  }
  // The engine's thread is not the one that loaded the model, and begins with another device.
  bool OnDevice() {
    if (fault_.ok()) Check(UseCudaDevice(ordinal_));
    return fault_.ok();
  }
  // Whether the step goes on; what was staged is then on its way.
  bool Ready() {
    if (!step_status_.ok() || !OnDevice()) return false;
    if (!graphs_.recording()) Check("stage", step_memory_.Flush(stream_));
    return fault_.ok();
  }
  template <typename Args>
  void Launch(const char* what, cudaError_t (*launch)(const Args&, cudaStream_t), const Args& args) {
    if (Ready()) Check(what, launch(args, stream_));
  }
  // Attention, or the states of it where `args.states` has places.
  void RunDecode(const kernels::DecodeStatesArgs& args);
  template <typename Launching>
  void Timed(TimedOp op, const char* what, const Launching& launch) {
    Check(what, graphs_.recording() ? launch() : timer_.Time(op, stream_, launch));
  }

  const int ordinal_;
  const std::string name_;
  const cudaStream_t stream_;
  std::array<std::atomic<int64_t>, kNumMemoryKinds> held_bytes_{};
  std::atomic<int64_t> num_allocations_ = 0;
  CudaStepMemory step_memory_;
  std::unique_ptr<Buffer> gemm_workspace_;
  std::unique_ptr<Buffer> dequantized_;  // a part of tiled weights, for products of many rows
  std::unique_ptr<Buffer> decode_workspace_;
  std::unique_ptr<Buffer> prefill_workspace_;
  std::unique_ptr<Buffer> select_workspace_;
  int64_t max_blocks_ = 0;  // that a context may have
  std::unique_ptr<Buffer> draw_workspace_;
  std::optional<CudaLayers> layers_;
  CudaOpTimer timer_;
  CudaGraphs graphs_;
  std::array<CudaStep, 2> steps_;  // the steps of even and odd numbers
  uint64_t submitted_ = 0;         // number of the step submitted last, the first being 1
  uint64_t waited_ = 0;            // of the latest that is known to have ended
  absl::Status step_status_;       // of the step that is being enqueued
  absl::Status fault_;             // sticky
};

absl::Status DeviceCudaBackend::TakeWorkspace() {
  constexpr int64_t kDequantizedBytes = int64_t{64} << 20;
  constexpr int64_t kDrawnBytes = kernels::kMaxDrawRows * static_cast<int64_t>(sizeof(kernels::DrawnRow));
  for (CudaStep& step : steps_) {
    void* drawn = nullptr;
    FARSPAN_RETURN_IF_ERROR(AllocationStatus(cudaMallocHost(&drawn, kDrawnBytes), kDrawnBytes, "drawn tokens"));
    step.drawn.reset(static_cast<kernels::DrawnRow*>(drawn));
    Check("event", cudaEventCreateWithFlags(&step.end, cudaEventDisableTiming));
  }
  FARSPAN_ASSIGN_OR_RETURN(gemm_workspace_, Allocate(CudaGemm::kWorkspaceBytes, MemoryKind::kWorkspace));
  FARSPAN_ASSIGN_OR_RETURN(std::unique_ptr<CudaGemm> gemm,
                           CudaGemm::Create({gemm_workspace_->data(), gemm_workspace_->size_bytes()}));
  FARSPAN_ASSIGN_OR_RETURN(dequantized_, Allocate(kDequantizedBytes, MemoryKind::kWorkspace));
  layers_.emplace(std::move(gemm), kernels::cuda::Workspace{dequantized_->data(), dequantized_->size_bytes()}, stream_);
  FARSPAN_ASSIGN_OR_RETURN(prefill_workspace_,
                           Allocate(kernels::cuda::HopperPrefillWorkspaceBytes(), MemoryKind::kWorkspace));
  return absl::OkStatus();
}

absl::Status DeviceCudaBackend::Prepare(const ModelShape& shape, const StepLimits& limits) {
  if (step_memory_.size_bytes() == 0) {
    const int64_t step_bytes = StepArrayBytes(shape, limits);
    FARSPAN_RETURN_IF_ERROR(AllocationStatus(
        step_memory_.Take(step_bytes), step_bytes,
        absl::StrCat("the arrays of a step of ", limits.max_sequences, " sequences (--max-num-seqs) of ",
                     shape.max_context_tokens, " tokens (--max-model-len) and ", limits.max_rows,
                     " rows (--max-num-batched-tokens)")));
  }
  const int64_t size_bytes =
      kernels::cuda::DecodeAttentionWorkspaceBytes(kMaxDecodeRows, shape.num_heads, shape.num_kv_heads, shape.head_dim);
  FARSPAN_ASSIGN_OR_RETURN(decode_workspace_, Allocate(size_bytes, MemoryKind::kWorkspace));
  Check("workspace", cudaMemsetAsync(decode_workspace_->data(), 0, static_cast<size_t>(size_bytes), stream_));
  max_blocks_ = shape.max_context_tokens / kernels::KeyBoundsTokens(shape.page_tokens);
  const int64_t select_bytes =
      kernels::cuda::SelectBlocksWorkspaceBytes(kMaxSelectRows, shape.num_heads, shape.num_kv_heads, max_blocks_);
  FARSPAN_ASSIGN_OR_RETURN(select_workspace_, Allocate(select_bytes, MemoryKind::kWorkspace));
  FARSPAN_ASSIGN_OR_RETURN(
      draw_workspace_,
      Allocate(kernels::cuda::DrawWorkspaceBytes(kernels::kMaxDrawRows, shape.vocab_size), MemoryKind::kWorkspace));
  return fault_;
}

void DeviceCudaBackend::SelectBlocks(const kernels::SelectBlocksArgs& args) {
  if (!Ready()) return;
  FARSPAN_CHECK(select_workspace_ != nullptr, "selection before Prepare");
  const kernels::cuda::Workspace workspace = {select_workspace_->data(), select_workspace_->size_bytes()};
  const auto launch = [&] {
    for (int64_t first = 0; first < args.num_rows; first += kMaxSelectRows) {
      kernels::SelectBlocksArgs part = args;
      part.rows += first;
      part.num_rows = std::min(args.num_rows - first, kMaxSelectRows);
      const cudaError_t error = kernels::cuda::LaunchSelectBlocks(part, max_blocks_, workspace, stream_);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  };
  Timed(TimedOp::kDecodeSelection, "select blocks", launch);
}

const kernels::DrawnRow* DeviceCudaBackend::Draw(const kernels::DrawArgs& args) {
  FARSPAN_CHECK(args.num_rows <= kernels::kMaxDrawRows, "rows=", args.num_rows);
  FARSPAN_CHECK(draw_workspace_ != nullptr, "a draw before Prepare");
  kernels::DrawArgs device_args = args;
  device_args.drawn = steps_[(submitted_ + 1) % 2].drawn.get();
  const kernels::cuda::Workspace workspace = {draw_workspace_->data(), draw_workspace_->size_bytes()};
  if (Ready()) Check("draw", kernels::cuda::LaunchDraw(device_args, workspace, stream_));
  return device_args.drawn;
}

void DeviceCudaBackend::RunDecode(const kernels::DecodeStatesArgs& states_args) {
  const kernels::DecodeAttentionArgs& args = states_args.attention;
  if (!Ready()) return;
  FARSPAN_CHECK(decode_workspace_ != nullptr, "decode attention before Prepare");
  const kernels::cuda::Workspace workspace = {decode_workspace_->data(), decode_workspace_->size_bytes()};
  const auto launch = [&] {
    for (int64_t first = 0; first < args.num_rows; first += kMaxDecodeRows) {
      kernels::DecodeAttentionArgs part = args;
      part.rows += first;
      part.lists += first * args.common.cache.num_kv_heads;
      part.num_rows = std::min(args.num_rows - first, kMaxDecodeRows);
      const cudaError_t error = kernels::cuda::LaunchDecodeStates({part, states_args.states}, workspace, stream_);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  };
  Timed(TimedOp::kDecodeAttention, "decode attention", launch);
}

void DeviceCudaBackend::PrefillAttention(const kernels::PrefillAttentionArgs& args) {
  if (!Ready()) return;
  const kernels::cuda::Workspace workspace = {prefill_workspace_->data(), prefill_workspace_->size_bytes()};
  Timed(TimedOp::kPrefillAttention, "prefill attention", [&] {
    return kernels::cuda::HopperPrefillSupports(args)
               ? kernels::cuda::LaunchHopperPrefillAttention(args, workspace, stream_)
               : kernels::cuda::LaunchPrefillAttention(args, stream_);
  });
}

// Few sizes, so that few graphs serve every batch, and none much larger than it must be.
int64_t DeviceCudaBackend::RecordedRows(int64_t num_rows) const {
  if (num_rows > kMaxDecodeRows) return 0;
  for (const int64_t rows : {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224}) {
    if (num_rows <= rows) return rows;
  }
  return kMaxDecodeRows;
}

absl::Status DeviceCudaBackend::AllocationStatus(cudaError_t error, int64_t size_bytes, absl::string_view purpose) {
  ++num_allocations_;
  if (error == cudaSuccess) return absl::OkStatus();
  if (error != cudaErrorMemoryAllocation) return DeviceFault("allocate", error);
  cudaGetLastError();
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot allocate ", size_bytes, " bytes for ", purpose, " on ", name_, "; ", HeldText(*this)));
}

absl::StatusOr<std::unique_ptr<Buffer>> DeviceCudaBackend::Allocate(int64_t size_bytes, MemoryKind kind) {
  FARSPAN_CHECK(size_bytes >= 0, "size_bytes=", size_bytes);
  if (!OnDevice()) return fault_;
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(size_bytes));
  FARSPAN_RETURN_IF_ERROR(AllocationStatus(error, size_bytes, MemoryKindName(kind)));
  return std::make_unique<DeviceBuffer>(data, size_bytes, &held_bytes_[static_cast<size_t>(kind)]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(int ordinal) {
  FARSPAN_ASSIGN_OR_RETURN(const CudaDeviceInfo info, ProbeCudaDevice(ordinal));
  return Create(info);
}

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(const CudaDeviceInfo& info) {
  FARSPAN_RETURN_IF_ERROR(ClaimForProcess(info.ordinal));
  FARSPAN_RETURN_IF_ERROR(UseCudaDevice(info.ordinal));
  cudaStream_t stream = nullptr;
  if (const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); error != cudaSuccess) {
    return DeviceFault("stream", error);
  }
  auto backend =
      std::make_unique<DeviceCudaBackend>(info.ordinal, absl::StrCat("cuda:", info.ordinal, "/", info.name), stream);
  FARSPAN_RETURN_IF_ERROR(backend->TakeWorkspace());
  return backend;
}

}  // namespace farspan
