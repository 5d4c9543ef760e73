// SPDX-License-Identifier: Apache-2.0
// Cuts ops that treat each row alone into tasks of whole rows, large enough to outweigh handing them out.
// Internal linkage on purpose: each ISA level compiles its own copy with its own flags.
#pragma once

#include <cstdint>

namespace farspan::kernels {

struct RowSpan {
  int64_t begin;
  int64_t end;
};

static inline int64_t RowsPerTask(int64_t row_elements) {
  constexpr int64_t kElementsPerTask = 16384;
  return row_elements >= kElementsPerTask ? 1 : kElementsPerTask / (row_elements < 1 ? 1 : row_elements);
}

static inline int64_t NumRowTasks(int64_t num_rows, int64_t row_elements) {
  const int64_t rows_per_task = RowsPerTask(row_elements);
  return (num_rows + rows_per_task - 1) / rows_per_task;
}

static inline RowSpan RowsOfTask(int64_t task, int64_t num_rows, int64_t row_elements) {
  const int64_t rows_per_task = RowsPerTask(row_elements);
  const int64_t begin = task * rows_per_task;
  const int64_t end = begin + rows_per_task;
  return {begin, end < num_rows ? end : num_rows};
}

template <typename Args>
static inline int64_t NoScratch(const Args&) {
  return 0;
}

}  // namespace farspan::kernels
