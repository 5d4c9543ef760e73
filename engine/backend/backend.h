// SPDX-License-Identifier: Apache-2.0
// One compute device: its memory, one ordered queue of ops, and what it can run. The CPU backend is the oracle and the
// default where there is no GPU, with the same semantics as any other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/attention/plan.h"
#include "engine/backend/step_arrays.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/model_shape.h"
#include "engine/kernels/args.h"
#include "engine/kernels/draw_args.h"

namespace farspan {

// What memory is for; bytes are reported by kind, disjoint and summing to what the backend holds.
enum class MemoryKind : uint8_t { kWeights, kKvPages, kSideData, kActivations, kWorkspace };
inline constexpr int kNumMemoryKinds = 5;

// Whose time is counted: what attention costs, and what choosing its entries adds.
enum class TimedOp : uint8_t { kPrefillAttention, kDecodeAttention, kPrefillSelection, kDecodeSelection };
inline constexpr int kNumTimedOps = 4;

// Owns device memory; returned to the backend on destruction. The backend outlives its buffers.
class Buffer {
 public:
  virtual ~Buffer() = default;
  void* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 protected:
  Buffer(void* data, int64_t size_bytes) : data_(data), size_bytes_(size_bytes) {}

 private:
  void* const data_;
  const int64_t size_bytes_;
};

// Of a whole device, whoever holds it.
struct DeviceMemory {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

// Names a submitted step; tickets complete in order.
enum class StepTicket : uint64_t {};

// Engine thread only, except what says that it is thread-safe. Ops are enqueued in call order and run in it, those of a
// step after those of the steps before; pointers must stay valid until the ticket of the Submit that follows has been
// waited for. An op cannot fail by itself: a device fault is the status of Wait.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "cpu/avx2", as logs and GetServerInfo show it
  virtual PlanFeatures caps() const = 0;      // plan features that this device runs
  // The element of the values that its ops hand each other.
  virtual kernels::Activation activation() const = 0;
  // How quantised weights are to come; blocks that the layout does not cover stay blocks on a CPU.
  virtual kernels::WeightLayout weight_layout() const { return kernels::WeightLayout::kBlocks; }

  // Elements of a row of AttentionInputArgs::projected and of FeedForwardArgs::inner, as far as its ops use them.
  virtual int64_t ProjectedWidth(int64_t query_width, int64_t kv_width) const { return query_width + 2 * kv_width; }
  virtual int64_t InnerWidth(int64_t feed_forward_width) const { return 3 * feed_forward_width; }

  // Takes what ops of a model of this shape need beside their arguments, and room for the arrays of its steps. Before
  // the first op; RESOURCE_EXHAUSTED as Allocate's.
  virtual absl::Status Prepare(const ModelShape& shape, const StepLimits& limits) = 0;

  // Uninitialised memory, 64-byte aligned. RESOURCE_EXHAUSTED names kind and bytes.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t size_bytes, MemoryKind kind) = 0;
  // Bytes held now. Thread-safe.
  virtual int64_t MemoryBytes(MemoryKind kind) const = 0;
  // Now. Zeros where the device is the host, or does not answer. Thread-safe.
  virtual DeviceMemory WholeMemory() const { return {}; }
  // How often it has taken memory, of any kind, since it was made. Thread-safe.
  virtual int64_t NumAllocations() const = 0;
  // How long ops have run since the backend was made. Where steps are replayed from a record this is an estimate: few
  // of them are timed, and stand for those between. Thread-safe.
  virtual SteadyDuration OpTime(TimedOp op) const = 0;

  // Blocking copies between host and device memory.
  virtual absl::Status Upload(void* device, std::span<const std::byte> host) = 0;
  virtual absl::Status Download(std::span<std::byte> host, const void* device) = 0;
  // Makes a step's host array readable by ops until its Wait. A copy where draws(); elsewhere it must last until then.
  virtual const void* Stage(std::span<const std::byte> host) = 0;
  // The same as a copy that ops may write.
  virtual void* StageMutable(std::span<const std::byte> host) = 0;

  // The rows that a step of `num_rows` decode rows is padded to before it is recorded; 0 where it is not.
  virtual int64_t RecordedRows(int64_t num_rows) const = 0;
  // Enqueues `ops`. Runs of one key enqueue the same ops on the same arguments, staged arrays of the same sizes in the
  // same order included, but for the last one's: a backend may record them once and enqueue the record from then on.
  virtual void RunRecorded(uint64_t key, absl::FunctionRef<void()> ops) = 0;

  // Copies device memory to device memory; the two do not overlap.
  virtual void CopyBytes(void* to, const void* from, int64_t size_bytes) = 0;
  virtual void FillRandom(const kernels::FillRandomArgs& args) = 0;
  // Only where weight_layout() is kTiles.
  virtual void PackTiles(const kernels::PackTilesArgs&) { FARSPAN_CHECK(false, "tiles on a backend without"); }
  virtual void Embed(const kernels::EmbedArgs& args) = 0;
  virtual void RopeTable(const kernels::RopeTableArgs& args) = 0;
  virtual void AttentionInput(const kernels::AttentionInputArgs& args) = 0;
  virtual void AttentionOutput(const kernels::AddLinearArgs& args) = 0;
  virtual void FeedForward(const kernels::FeedForwardArgs& args) = 0;
  virtual void Logits(const kernels::LogitsArgs& args) = 0;
  virtual void FillKeyBounds(const kernels::FillKeyBoundsArgs& args) = 0;
  virtual void SelectBlocks(const kernels::SelectBlocksArgs& args) = 0;
  virtual void DecodeAttention(const kernels::DecodeAttentionArgs& args) = 0;
  virtual void PrefillAttention(const kernels::PrefillAttentionArgs& args) = 0;

  // Scores of keys, and attention in parts: for policies that weigh tokens, and that read a context by several ops.
  virtual void KeyScores(const kernels::KeyScoresArgs& args) = 0;
  virtual void DecodeStates(const kernels::DecodeStatesArgs& args) = 0;
  virtual void MergeStates(const kernels::MergeStatesArgs& args) = 0;
  virtual void CompactTokens(const kernels::CompactTokensArgs& args) = 0;

  // Whether Draw runs here; where not, tokens are drawn on the host.
  virtual bool draws() const = 0;
  // At most kMaxDrawRows, once a step. `args.drawn` is null: what was drawn lies in host memory, readable from the
  // step's completion until as many more steps have begun as may be in flight.
  virtual const kernels::DrawnRow* Draw(const kernels::DrawArgs& args) = 0;

  // Steps that may be submitted and not waited for: 1 or 2.
  virtual int64_t max_steps_in_flight() const { return 1; }
  virtual StepTicket Submit() = 0;
  // Returns when the step, one of the last so many, has completed. RESOURCE_EXHAUSTED when there was no memory for one
  // of its ops: what the step wrote is undefined, later steps may run. A sticky device fault is INTERNAL here and at
  // every later call.
  virtual absl::Status Wait(StepTicket ticket) = 0;

  template <typename T>
  const T* StageArray(std::span<const T> host) {
    return static_cast<const T*>(Stage(std::as_bytes(host)));
  }
};

}  // namespace farspan
