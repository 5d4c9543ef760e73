// SPDX-License-Identifier: Apache-2.0
#include "engine/kernels/cpu/attention_walk.h"
#include "engine/kernels/cpu/number_formats.h"
#include "engine/kernels/cpu/portable/kernels.h"
#include "engine/kernels/cpu/row_tasks.h"

namespace farspan::kernels::portable {
namespace {

int64_t RowElements(const KvAppendArgs& args) { return args.cache.num_kv_heads * 2 * args.cache.head_dim; }

int64_t NumTasks(const KvAppendArgs& args) { return NumRowTasks(args.num_rows, RowElements(args)); }

void Store(const KvLayerView& cache, int64_t offset, const float* values) {
  WithKvElement(cache.element, [&]<typename Element>() {
    Element* out = static_cast<Element*>(cache.data) + offset;
    for (int64_t i = 0; i < cache.head_dim; ++i) Narrow(values[i], out + i);
  });
}

void Run(const KvAppendArgs& args, int64_t task, void*) {
  const KvLayerView& cache = args.cache;
  const RowSpan rows = RowsOfTask(task, args.num_rows, RowElements(args));
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const KvSlot slot = args.slots[row];
    if (slot.page < 0) continue;
    for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
      const int64_t source = (row * cache.num_kv_heads + head) * cache.head_dim;
      const int64_t key = KeyOffset(cache, slot.page, head) + slot.token * cache.head_dim;
      Store(cache, key, args.k + source);
      Store(cache, key + cache.plane_elements(), args.v + source);
    }
  }
}

}  // namespace

constinit const KernelOp<KvAppendArgs> kKvAppend = {NumTasks, NoScratch, Run};

}  // namespace farspan::kernels::portable
