// SPDX-License-Identifier: Apache-2.0
#include "engine/backend/cpu_backend.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/backend/aligned_memory.h"
#include "engine/backend/memory_text.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_pool.h"
#include "engine/kernels/cpu/kernel_table.h"
#include "engine/kernels/weight_panels.h"

namespace farspan {
namespace {

using kernels::KernelOp;
using kernels::KernelTable;

// Bytes held, by kind. Thread-safe.
class MemoryLedger {
 public:
  void Add(MemoryKind kind, int64_t bytes) { Cell(kind).fetch_add(bytes, std::memory_order_relaxed); }
  int64_t Bytes(MemoryKind kind) const { return bytes_[static_cast<size_t>(kind)].load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t>& Cell(MemoryKind kind) { return bytes_[static_cast<size_t>(kind)]; }
  std::array<std::atomic<int64_t>, kNumMemoryKinds> bytes_{};
};

// How long ops have run. Thread-safe.
class OpClock {
 public:
  // Counts from construction to destruction.
  class Scope {
   public:
    Scope(TimedOp op, OpClock* clock) : cell_(clock->Cell(op)), start_(Clock::Real()->Now()) {}
    ~Scope() { cell_.fetch_add((Clock::Real()->Now() - start_).count(), std::memory_order_relaxed); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::atomic<SteadyDuration::rep>& cell_;
    const SteadyTime start_;
  };

  SteadyDuration Total(TimedOp op) const {
    return SteadyDuration(ticks_[static_cast<size_t>(op)].load(std::memory_order_relaxed));
  }

 private:
  std::atomic<SteadyDuration::rep>& Cell(TimedOp op) { return ticks_[static_cast<size_t>(op)]; }
  std::array<std::atomic<SteadyDuration::rep>, kNumTimedOps> ticks_{};
};

class HostBuffer final : public Buffer {
 public:
  HostBuffer(AlignedMemory memory, MemoryKind kind, MemoryLedger* ledger)
      : Buffer(memory.data(), memory.size_bytes()), memory_(std::move(memory)), kind_(kind), ledger_(ledger) {
    ledger_->Add(kind_, size_bytes());
  }
  ~HostBuffer() override { ledger_->Add(kind_, -size_bytes()); }

 private:
  const AlignedMemory memory_;
  const MemoryKind kind_;
  MemoryLedger* const ledger_;
};

class HostCpuBackend final : public Backend {
 public:
  HostCpuBackend(const KernelTable& table, int num_threads)
      : table_(table), name_(absl::StrCat("cpu/", table.name)), pool_(num_threads), scratch_(num_threads) {}

  std::string_view name() const override { return name_; }
  PlanFeatures caps() const override {
    return PlanFeatures::kRanges | PlanFeatures::kLeftWindow | PlanFeatures::kQueryRotation | PlanFeatures::kDrop |
           PlanFeatures::kKeyBoundsSelector;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t size_bytes, MemoryKind kind) override {
    FARSPAN_CHECK(size_bytes >= 0, "size_bytes=", size_bytes);
    AlignedMemory memory = Take(size_bytes);
    if (memory.data() == nullptr) return AllocationError(size_bytes, kind);
    return std::make_unique<HostBuffer>(std::move(memory), kind, &ledger_);
  }
  int64_t MemoryBytes(MemoryKind kind) const override { return ledger_.Bytes(kind); }
  int64_t NumAllocations() const override { return num_allocations_.load(std::memory_order_relaxed); }
  SteadyDuration OpTime(TimedOp op) const override { return clock_.Total(op); }

  absl::Status Upload(void* device, std::span<const std::byte> host) override {
    if (!host.empty()) std::memcpy(device, host.data(), host.size());
    return absl::OkStatus();
  }
  absl::Status Download(std::span<std::byte> host, const void* device) override {
    if (!host.empty()) std::memcpy(host.data(), device, host.size());
    return absl::OkStatus();
  }
  kernels::Activation activation() const override { return kernels::Activation::kF32; }
  kernels::WeightLayout weight_layout() const override {
    return table_.pack_rows.run == nullptr ? kernels::WeightLayout::kBlocks : kernels::WeightLayout::kPanels;
  }
  int64_t ProjectedWidth(int64_t, int64_t kv_width) const override { return 2 * kv_width; }
  int64_t InnerWidth(int64_t feed_forward_width) const override { return 2 * feed_forward_width; }
  const void* Stage(std::span<const std::byte> host) override { return host.data(); }
  void* StageMutable(std::span<const std::byte> host) override {
    return staged_.emplace_back(host.begin(), host.end()).data();
  }

  void CopyBytes(void* to, const void* from, int64_t size_bytes) override {
    std::memcpy(to, from, static_cast<size_t>(size_bytes));
  }
  absl::Status Prepare(const ModelShape&, const StepLimits&) override { return absl::OkStatus(); }
  int64_t RecordedRows(int64_t) const override { return 0; }
  void RunRecorded(uint64_t, absl::FunctionRef<void()> ops) override { ops(); }
  void FillRandom(const kernels::FillRandomArgs& args) override { RunOp(table_.fill_random, args); }
  void Embed(const kernels::EmbedArgs& args) override { RunOp(table_.embed, args); }
  void RopeTable(const kernels::RopeTableArgs& args) override { RunOp(table_.rope_table, args); }
  void AttentionInput(const kernels::AttentionInputArgs& args) override;
  void AttentionOutput(const kernels::AddLinearArgs& args) override {
    Linear(args.x, args.num_rows, {{args.weight, args.hidden}}, true);
  }
  void FeedForward(const kernels::FeedForwardArgs& args) override;
  void Logits(const kernels::LogitsArgs& args) override;
  void PrefillAttention(const kernels::PrefillAttentionArgs& args) override {
    const OpClock::Scope scope(TimedOp::kPrefillAttention, &clock_);
    RunOp(table_.prefill_attention, args);
  }
  void FillKeyBounds(const kernels::FillKeyBoundsArgs& args) override {
    const OpClock::Scope scope(TimedOp::kDecodeSelection, &clock_);
    RunOp(table_.fill_key_bounds, args);
  }
  void SelectBlocks(const kernels::SelectBlocksArgs& args) override;
  void DecodeAttention(const kernels::DecodeAttentionArgs& args) override { RunDecode(args, table_.decode_merge, {}); }
  void KeyScores(const kernels::KeyScoresArgs& args) override { RunOp(table_.key_scores, args); }
  void DecodeStates(const kernels::DecodeStatesArgs& args) override {
    RunDecode(args.attention, table_.decode_states, args.states);
  }
  void MergeStates(const kernels::MergeStatesArgs& args) override { RunOp(table_.merge_states, args); }
  void CompactTokens(const kernels::CompactTokensArgs& args) override;

  bool draws() const override { return false; }
  const kernels::DrawnRow* Draw(const kernels::DrawArgs&) override {
    FARSPAN_CHECK(false, "a draw on a backend that does not draw");
    return nullptr;
  }

  StepTicket Submit() override { return StepTicket{++submitted_}; }
  absl::Status Wait(StepTicket ticket) override {
    FARSPAN_CHECK(static_cast<uint64_t>(ticket) <= submitted_, "ticket=", static_cast<uint64_t>(ticket));
    staged_.clear();
    return std::exchange(step_status_, absl::OkStatus());
  }

 private:
  AlignedMemory Take(int64_t size_bytes) {
    num_allocations_.fetch_add(1, std::memory_order_relaxed);
    return AlignedMemory(size_bytes);
  }

  absl::Status AllocationError(int64_t size_bytes, MemoryKind kind) const {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", size_bytes, " bytes of host memory for ",
                                                     MemoryKindName(kind), "; ", HeldText(*this)));
  }

  // Grows `*memory` to at least `size_bytes`, losing its contents; false, failing the step, where there is no memory.
  bool Reserve(int64_t size_bytes, AlignedMemory* memory) {
    if (size_bytes <= memory->size_bytes()) return true;
    AlignedMemory grown = Take(size_bytes);
    if (grown.data() == nullptr) {
      step_status_ = AllocationError(size_bytes, MemoryKind::kWorkspace);
      return false;
    }
    ledger_.Add(MemoryKind::kWorkspace, size_bytes - memory->size_bytes());
    *memory = std::move(grown);
    return true;
  }

  void RunDecode(const kernels::DecodeAttentionArgs& args, const KernelOp<kernels::DecodePass>& merge,
                 const kernels::SoftmaxStates& states);
  void Norm(const float* x, const float* weight, float epsilon, int64_t num_rows, int64_t width, float* out) {
    RunOp(table_.rms_norm,
          kernels::RmsNormArgs{
              .x = x, .weight = weight, .out = out, .num_rows = num_rows, .width = width, .epsilon = epsilon});
  }
  struct Product {
    const kernels::WeightView& weight;
    float* y;
  };
  static constexpr size_t kMaxProducts = 3;

  // Products of one x, shared out together.
  void Linear(const void* x, int64_t num_rows, std::initializer_list<Product> products, bool accumulate = false) {
    FARSPAN_CHECK(products.size() <= kMaxProducts, "products=", products.size());
    const auto* const values = static_cast<const float*>(x);
    const void* const packed_x = Pack(values, num_rows, products);
    if (!step_status_.ok()) return;  // without room to pack in, panels cannot be multiplied
    std::array<kernels::LinearArgs, kMaxProducts> parts;
    size_t num_parts = 0;
    for (const Product& product : products) {
      parts[num_parts++] = {.x = values,
                            .weight = product.weight,
                            .y = product.y,
                            .num_rows = num_rows,
                            .accumulate = accumulate,
                            .packed_x = packed_x};
    }
    RunOps(table_.linear, std::span<const kernels::LinearArgs>(parts).first(num_parts));
  }

  // x as panels are multiplied by it; null where this level packs no rows or no product is of panels.
  const void* Pack(const float* x, int64_t num_rows, std::initializer_list<Product> products) {
    const auto is_panel = [](const Product& product) { return kernels::IsPanel(product.weight.type); };
    if (table_.pack_rows.run == nullptr || std::none_of(products.begin(), products.end(), is_panel)) return nullptr;
    const int64_t columns = products.begin()->weight.columns;
    if (!Reserve(num_rows * kernels::PackedRowBytes(columns), &packed_rows_)) return nullptr;
    RunOp(table_.pack_rows,
          kernels::PackRowsArgs{.x = x, .num_rows = num_rows, .columns = columns, .packed = packed_rows_.data()});
    return packed_rows_.data();
  }

  template <typename Args>
  void RunOp(const KernelOp<Args>& op, const Args& args) {
    RunOps(op, std::span(&args, 1));
  }

  // One op on each of at most kMaxProducts arguments, none of which needs another's results.
  template <typename Args>
  void RunOps(const KernelOp<Args>& op, std::span<const Args> parts) {
    std::array<int64_t, kMaxProducts> ends{};
    int64_t num_tasks = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      num_tasks += op.num_tasks(parts[i]);
      ends[i] = num_tasks;
      for (AlignedMemory& scratch : scratch_) {
        if (!Reserve(op.scratch_bytes(parts[i]), &scratch)) return;
      }
    }
    const auto run = [&](int64_t task, int thread) {
      size_t part = 0;
      while (task >= ends[part]) ++part;
      const int64_t first = part == 0 ? 0 : ends[part - 1];
      op.run(parts[part], task - first, scratch_[static_cast<size_t>(thread)].data());
    };
    if (num_tasks == 1) return run(0, 0);
    pool_.ParallelFor(num_tasks, run);
  }

  const KernelTable& table_;
  const std::string name_;
  ThreadPool pool_;
  MemoryLedger ledger_;
  std::atomic<int64_t> num_allocations_ = 0;
  OpClock clock_;
  std::vector<AlignedMemory> scratch_;  // [thread]
  std::vector<std::vector<std::byte>> staged_;
  AlignedMemory packed_rows_;
  AlignedMemory decode_partials_;
  kernels::DecodeSplits decode_splits_;
  AlignedMemory block_scores_;
  kernels::ScoreTiles score_tiles_;
  uint64_t submitted_ = 0;
  absl::Status step_status_;  // of the step that is being enqueued
};

void HostCpuBackend::AttentionInput(const kernels::AttentionInputArgs& args) {
  const int64_t width = args.query.columns, rows = args.num_rows;
  auto* const normed = static_cast<float*>(args.normed);
  auto* const q = static_cast<float*>(args.q);
  auto* const k = static_cast<float*>(args.projected);
  float* const v = k + rows * args.key.rows;
  Norm(args.hidden, args.norm_weight, args.epsilon, rows, width, normed);
  Linear(normed, rows, {{args.query, q}, {args.key, k}, {args.value, v}});
  for (const auto& [x, num_heads] : {std::pair(q, args.num_heads), std::pair(k, args.cache.num_kv_heads)}) {
    RunOp(table_.rope, kernels::RopeArgs{.x = x,
                                         .cos_sin = args.cos_sin,
                                         .num_rows = rows,
                                         .num_heads = num_heads,
                                         .head_dim = args.cache.head_dim,
                                         .rope_dim = args.rope_dim});
  }
  RunOp(table_.kv_append,
        kernels::KvAppendArgs{.k = k, .v = v, .slots = args.slots, .cache = args.cache, .num_rows = rows});
}

void HostCpuBackend::FeedForward(const kernels::FeedForwardArgs& args) {
  const int64_t width = args.gate.columns, inner_width = args.gate.rows, rows = args.num_rows;
  auto* const normed = static_cast<float*>(args.normed);
  auto* const gate = static_cast<float*>(args.inner);
  float* const up = gate + rows * inner_width;
  Norm(args.hidden, args.norm_weight, args.epsilon, rows, width, normed);
  Linear(normed, rows, {{args.gate, gate}, {args.up, up}});
  RunOp(table_.silu_mul, kernels::SiluMulArgs{.gate = gate, .up = up, .num_rows = rows, .width = inner_width});
  Linear(gate, rows, {{args.down, args.hidden}}, true);
}

void HostCpuBackend::Logits(const kernels::LogitsArgs& args) {
  RunOp(table_.rms_norm, kernels::RmsNormArgs{.x = args.hidden,
                                              .weight = args.norm_weight,
                                              .out = static_cast<float*>(args.normed),
                                              .num_rows = args.num_rows,
                                              .width = args.weight.columns,
                                              .epsilon = args.epsilon,
                                              .rows = args.rows});
  Linear(args.normed, args.num_rows, {{args.weight, args.logits}});
}

void HostCpuBackend::SelectBlocks(const kernels::SelectBlocksArgs& args) {
  const OpClock::Scope scope(TimedOp::kDecodeSelection, &clock_);
  kernels::PlanScoreTiles(args, &score_tiles_);
  if (!Reserve(score_tiles_.num_scores * static_cast<int64_t>(sizeof(float)), &block_scores_)) return;
  const kernels::SelectionPass pass = {
      .args = &args,
      .tiles = score_tiles_.tiles.data(),
      .num_tiles = static_cast<int64_t>(score_tiles_.tiles.size()),
      .first_score = score_tiles_.first_score.data(),
      .scores = static_cast<float*>(block_scores_.data()),
  };
  RunOp(table_.score_key_bounds, pass);
  RunOp(table_.pick_blocks, pass);
}

void HostCpuBackend::CompactTokens(const kernels::CompactTokensArgs& args) {
  RunOp(table_.compact_tokens, args);
  if (args.bounds.data == nullptr) return;
  const int64_t run_tokens = kernels::KeyBoundsTokens(args.cache.page_tokens);
  std::vector<kernels::KeyRun> runs;
  for (int64_t token = 0; token + run_tokens <= args.num_tokens; token += run_tokens) {
    runs.push_back({.page = args.pages[token / args.cache.page_tokens],
                    .run = static_cast<int32_t>(token % args.cache.page_tokens / run_tokens)});
  }
  RunOp(table_.fill_key_bounds, kernels::FillKeyBoundsArgs{.cache = args.cache,
                                                           .bounds = args.bounds,
                                                           .runs = runs.data(),
                                                           .num_runs = static_cast<int64_t>(runs.size())});
}

void HostCpuBackend::RunDecode(const kernels::DecodeAttentionArgs& args, const KernelOp<kernels::DecodePass>& merge,
                               const kernels::SoftmaxStates& states) {
  const OpClock::Scope scope(TimedOp::kDecodeAttention, &clock_);
  kernels::PlanDecodeSplits(args, &decode_splits_);
  const int64_t num_splits = static_cast<int64_t>(decode_splits_.splits.size());
  const int64_t partial_floats = kernels::DecodePartialFloats(args.common) * kernels::DecodeGroup(args.common);
  if (!Reserve(num_splits * partial_floats * static_cast<int64_t>(sizeof(float)), &decode_partials_)) return;
  const kernels::DecodePass pass = {
      .args = &args,
      .splits = decode_splits_.splits.data(),
      .num_splits = num_splits,
      .first_split = decode_splits_.first_split.data(),
      .partials = static_cast<float*>(decode_partials_.data()),
      .states = states,
  };
  RunOp(table_.decode_partials, pass);
  RunOp(merge, pass);
}

absl::StatusOr<const KernelTable*> TableOf(CpuIsa isa) {
  const bool avx2 = kernels::CpuHasAvx2(), avx512 = kernels::CpuHasAvx512();
  switch (isa) {
    case CpuIsa::kAvx512:
      if (avx512) return &kernels::Avx512Kernels();
      return absl::InvalidArgumentError(
          absl::StrCat("cpu_isa: this CPU does not run avx512; available: auto, portable", avx2 ? ", avx2" : ""));
    case CpuIsa::kAvx2:
      if (avx2) return &kernels::Avx2Kernels();
      return absl::InvalidArgumentError("cpu_isa: this CPU does not run avx2; available: auto, portable");
    case CpuIsa::kAuto:
      if (avx512) return &kernels::Avx512Kernels();
      if (avx2) return &kernels::Avx2Kernels();
      break;
    case CpuIsa::kPortable:
      break;
  }
  return &kernels::PortableKernels();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CpuBackend::Create(const CpuBackendOptions& options) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(absl::StrCat("threads must be at least 1, got ", options.num_threads));
  }
  FARSPAN_ASSIGN_OR_RETURN(const KernelTable* table, TableOf(options.isa));
  return std::make_unique<HostCpuBackend>(*table, options.num_threads);
}

}  // namespace farspan
