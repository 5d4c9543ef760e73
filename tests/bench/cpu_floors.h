// SPDX-License-Identifier: Apache-2.0
// What this machine's processors could do at most: how fast they read memory and how fast they multiply and add.
#pragma once

namespace farspan {

// The most of many short runs, since a busy machine only ever slows one.
struct CpuFloors {
  double read_gb_per_second_one = 0;  // one thread, from memory rather than from a cache
  double read_gb_per_second_all = 0;  // all threads together
  double fma_gflop_per_second = 0;    // float32, one thread, with the widest vectors that the processor has
  int vector_floats = 0;
};

// Takes about a second and 512 MiB a thread.
CpuFloors MeasureCpuFloors(int num_threads);

}  // namespace farspan
