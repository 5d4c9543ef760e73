// SPDX-License-Identifier: Apache-2.0
// Fresh random inputs and a hostile way to run kernels: tasks in random order, scratch and outputs poisoned with NaN.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "engine/kernels/cpu/kernel_table.h"

namespace farspan::kernels {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Seeded anew in each run of the tests; prints its seed, and FARSPAN_TEST_SEED=N repeats a run.
class Random {
 public:
  Random();

  int64_t Integer(int64_t low, int64_t high);  // inclusive
  template <typename T>
  T OneOf(std::span<const T> values) {
    return values[static_cast<size_t>(Integer(0, static_cast<int64_t>(values.size()) - 1))];
  }
  bool OneIn(int64_t n) { return Integer(1, n) == 1; }
  float Real(float low, float high);
  std::vector<float> Reals(int64_t size, float low, float high);
  template <typename T>
  void Shuffle(std::vector<T>* values) {
    std::shuffle(values->begin(), values->end(), engine_);
  }

 private:
  std::mt19937_64 engine_;
};

inline constexpr KvElement kWideKvElements[] = {KvElement::kBf16, KvElement::kF32};
inline constexpr KvElement kAllKvElements[] = {KvElement::kBf16, KvElement::kF32, KvElement::kF16, KvElement::kF8E4M3};

// One element at `index` of a KV cache's or of bounds' bytes.
float LoadKvElement(KvElement element, const void* bytes, int64_t index);
void StoreKvElement(KvElement element, void* bytes, int64_t index, float value);

// Every ISA level that this machine runs, the portable one first.
std::vector<const KernelTable*> KernelLevels();

// Runs all tasks of an op in random order, the scratch overwritten with NaN before each.
template <typename Args>
void RunShuffled(const KernelOp<Args>& op, const Args& args, Random* random) {
  std::vector<int64_t> tasks(static_cast<size_t>(op.num_tasks(args)));
  for (size_t i = 0; i < tasks.size(); ++i) tasks[i] = static_cast<int64_t>(i);
  random->Shuffle(&tasks);
  const size_t scratch_bytes = static_cast<size_t>(op.scratch_bytes(args));
  std::vector<uint8_t> memory(scratch_bytes + 64);
  const size_t misalignment = reinterpret_cast<uintptr_t>(memory.data()) % 64;
  uint8_t* scratch = memory.data() + (64 - misalignment) % 64;
  for (const int64_t task : tasks) {
    std::memset(scratch, 0xff, scratch_bytes);
    op.run(args, task, scratch);
  }
}

struct RandomWeight {
  std::vector<uint8_t> bytes;
  WeightView view;
  std::vector<double> values;  // [rows][columns], what the bytes stand for
};
RandomWeight MakeWeight(WeightType type, int64_t rows, int64_t columns, Random* random);

// True when both hold the same bits.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace farspan::kernels
