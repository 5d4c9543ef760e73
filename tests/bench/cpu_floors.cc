// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/cpu_floors.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "engine/backend/aligned_memory.h"
#include "engine/base/check.h"
#include "engine/kernels/cpu/kernel_table.h"

namespace farspan {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr int64_t kBytesPerThread = int64_t{512} << 20;
constexpr int64_t kRunBytes = int64_t{32} << 20;

double Now() { return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

uint64_t Read(const uint8_t* bytes, int64_t size_bytes) {
  constexpr int64_t kAheadBytes = 16384, kLineBytes = 64;
  constexpr int kSecondLevel = 2;
  uint64_t sums[8] = {};
  for (int64_t line = 0; line < size_bytes; line += kLineBytes) {
    __builtin_prefetch(bytes + line + kAheadBytes, 0, kSecondLevel);
    uint64_t words[8];
    std::memcpy(words, bytes + line, sizeof(words));
    for (int i = 0; i < 8; ++i) sums[i] += words[i];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

// Threads read disjoint parts, each run another one.
double ReadRate(int num_threads) {
  std::vector<AlignedMemory> memory;
  for (int i = 0; i < num_threads; ++i) {
    memory.emplace_back(kBytesPerThread);
    FARSPAN_CHECK(memory.back().data() != nullptr, "no memory for thread ", i);
    std::memset(memory.back().data(), 1, static_cast<size_t>(kBytesPerThread));
  }
  std::vector<uint64_t> sums(static_cast<size_t>(num_threads));
  double best = 0;
  for (int64_t run = 0; run < 3 * (kBytesPerThread / kRunBytes); ++run) {
    const int64_t offset = run % (kBytesPerThread / kRunBytes - 1) * kRunBytes;
    const auto read = [&](size_t thread) {
      sums[thread] += Read(static_cast<const uint8_t*>(memory[thread].data()) + offset, kRunBytes);
    };
    std::vector<std::thread> threads;
    const double begin = Now();
    for (size_t thread = 1; thread < sums.size(); ++thread) threads.emplace_back(read, thread);
    read(0);
    for (std::thread& thread : threads) thread.join();
    best = std::max(best, static_cast<double>(kRunBytes * num_threads) * 1e-9 / (Now() - begin));
  }
  FARSPAN_CHECK(sums[0] != 0, "nothing was read");
  return best;
}

// Chains of multiply-adds, as many as hide their latency.
template <typename Vector>
inline __attribute__((always_inline)) float MultiplyAdd(int64_t rounds) {
  Vector a = {}, b = {}, c = {}, d = {}, e = {}, f = {}, g = {}, h = {}, i = {}, j = {};
  const Vector x = a + 0.5f, y = a + 1.5f;
  for (int64_t round = 0; round < rounds; ++round) {
    a = a * x + y, b = b * x + y, c = c * x + y, d = d * x + y, e = e * x + y;
    f = f * x + y, g = g * x + y, h = h * x + y, i = i * x + y, j = j * x + y;
    __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j));
  }
  const Vector sum = a + b + c + d + e + f + g + h + i + j;
  return sum[0];
}

typedef float Float4 __attribute__((vector_size(16)));
float MultiplyAdd4(int64_t rounds) { return MultiplyAdd<Float4>(rounds); }

#if defined(__x86_64__)
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float16 __attribute__((vector_size(64)));
__attribute__((target("avx2,fma"))) float MultiplyAdd8(int64_t rounds) { return MultiplyAdd<Float8>(rounds); }
__attribute__((target("avx512f,fma"))) float MultiplyAdd16(int64_t rounds) { return MultiplyAdd<Float16>(rounds); }
#endif

double FmaRate(int vector_floats) {
  constexpr int64_t kRounds = 20000, kChains = 10;
  double best = 0;
  volatile float sink = 0;
  for (int run = 0; run < 500; ++run) {
    const double begin = Now();
#if defined(__x86_64__)
    sink = vector_floats == 16 ? MultiplyAdd16(kRounds)
                               : (vector_floats == 8 ? MultiplyAdd8(kRounds) : MultiplyAdd4(kRounds));
#else
    sink = MultiplyAdd4(kRounds);
#endif
    best = std::max(best, 2e-9 * static_cast<double>(kRounds * kChains * vector_floats) / (Now() - begin));
  }
  static_cast<void>(sink);
  return best;
}

}  // namespace

CpuFloors MeasureCpuFloors(int num_threads) {
  CpuFloors floors;
  floors.read_gb_per_second_one = ReadRate(1);
  floors.read_gb_per_second_all = ReadRate(num_threads);
  floors.vector_floats = kernels::CpuHasAvx512() ? 16 : (kernels::CpuHasAvx2() ? 8 : 4);
  floors.fma_gflop_per_second = FmaRate(floors.vector_floats);
  return floors;
}

}  // namespace farspan
