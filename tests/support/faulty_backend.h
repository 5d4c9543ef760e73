// SPDX-License-Identifier: Apache-2.0
// A backend that fails as a GPU does when a test says so, and else is the one that it wraps.
#pragma once

#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/backend.h"
#include "engine/backend/memory_text.h"

namespace farspan {

// Changed by the test between steps, on the thread that runs them.
struct DeviceFaults {
  int64_t memory_bytes = std::numeric_limits<int64_t>::max();  // of the device: what does not fit is refused
  int64_t waits_without_memory = 0;                            // the next so many waits find no memory for their ops
  bool lost = false;  // an illegal address, an ECC error, a device that is gone
};

class FaultyBackend : public Backend {
 public:
  FaultyBackend(std::unique_ptr<Backend> real, DeviceFaults* faults) : real_(std::move(real)), faults_(*faults) {}

  std::string_view name() const override { return "faulty"; }
  PlanFeatures caps() const override { return real_->caps(); }
  kernels::Activation activation() const override { return real_->activation(); }
  int64_t ProjectedWidth(int64_t query_width, int64_t kv_width) const override {
    return real_->ProjectedWidth(query_width, kv_width);
  }
  int64_t InnerWidth(int64_t feed_forward_width) const override { return real_->InnerWidth(feed_forward_width); }
  absl::Status Prepare(const ModelShape& shape, const StepLimits& limits) override {
    return real_->Prepare(shape, limits);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t size_bytes, MemoryKind kind) override {
    if (faults_.lost) return Lost();
    if (HeldBytes(*real_) + size_bytes <= faults_.memory_bytes) return real_->Allocate(size_bytes, kind);
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", size_bytes, " bytes for ", MemoryKindName(kind), "; ", HeldText(*real_)));
  }
  int64_t MemoryBytes(MemoryKind kind) const override { return real_->MemoryBytes(kind); }
  DeviceMemory WholeMemory() const override { return real_->WholeMemory(); }
  int64_t NumAllocations() const override { return real_->NumAllocations(); }
  SteadyDuration OpTime(TimedOp op) const override { return real_->OpTime(op); }

  absl::Status Upload(void* device, std::span<const std::byte> host) override {
    return faults_.lost ? Lost() : real_->Upload(device, host);
  }
  absl::Status Download(std::span<std::byte> host, const void* device) override {
    return faults_.lost ? Lost() : real_->Download(host, device);
  }
  const void* Stage(std::span<const std::byte> host) override { return real_->Stage(host); }
  void* StageMutable(std::span<const std::byte> host) override { return real_->StageMutable(host); }
  int64_t RecordedRows(int64_t num_rows) const override { return real_->RecordedRows(num_rows); }
  void RunRecorded(uint64_t key, absl::FunctionRef<void()> ops) override { real_->RunRecorded(key, ops); }

  void CopyBytes(void* to, const void* from, int64_t size_bytes) override { real_->CopyBytes(to, from, size_bytes); }
  void FillRandom(const kernels::FillRandomArgs& args) override { real_->FillRandom(args); }
  void Embed(const kernels::EmbedArgs& args) override { real_->Embed(args); }
  void RopeTable(const kernels::RopeTableArgs& args) override { real_->RopeTable(args); }
  void AttentionInput(const kernels::AttentionInputArgs& args) override { real_->AttentionInput(args); }
  void AttentionOutput(const kernels::AddLinearArgs& args) override { real_->AttentionOutput(args); }
  void FeedForward(const kernels::FeedForwardArgs& args) override { real_->FeedForward(args); }
  void Logits(const kernels::LogitsArgs& args) override { real_->Logits(args); }
  void FillKeyBounds(const kernels::FillKeyBoundsArgs& args) override { real_->FillKeyBounds(args); }
  void SelectBlocks(const kernels::SelectBlocksArgs& args) override { real_->SelectBlocks(args); }
  void DecodeAttention(const kernels::DecodeAttentionArgs& args) override { real_->DecodeAttention(args); }
  void KeyScores(const kernels::KeyScoresArgs& args) override { real_->KeyScores(args); }
  void DecodeStates(const kernels::DecodeStatesArgs& args) override { real_->DecodeStates(args); }
  void MergeStates(const kernels::MergeStatesArgs& args) override { real_->MergeStates(args); }
  void CompactTokens(const kernels::CompactTokensArgs& args) override { real_->CompactTokens(args); }
  void PrefillAttention(const kernels::PrefillAttentionArgs& args) override { real_->PrefillAttention(args); }

  bool draws() const override { return real_->draws(); }
  const kernels::DrawnRow* Draw(const kernels::DrawArgs& args) override { return real_->Draw(args); }

  StepTicket Submit() override { return real_->Submit(); }
  absl::Status Wait(StepTicket ticket) override {
    const absl::Status status = real_->Wait(ticket);
    if (faults_.lost) return Lost();
    if (faults_.waits_without_memory == 0) return status;
    --faults_.waits_without_memory;
    return absl::ResourceExhaustedError("there was no memory for an op");
  }

 private:
  static absl::Status Lost() { return absl::InternalError("wait: cudaErrorIllegalAddress"); }

  const std::unique_ptr<Backend> real_;
  DeviceFaults& faults_;
};

}  // namespace farspan
