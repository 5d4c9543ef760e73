// SPDX-License-Identifier: Apache-2.0
// One forward pass over mixed prefill and decode rows of any policies, as flat host arrays. Immutable once built.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/ids.h"
#include "engine/kernels/args.h"

namespace farspan {

struct ForwardBatch {
  // One row a token; a prefill chunk's rows are consecutive and ascending in position.
  std::vector<TokenId> token_ids;
  std::vector<int64_t> positions;         // [rows] logical
  std::vector<kernels::KvSlot> kv_slots;  // [rows] where each row's K and V go

  // The entry lists that rows read; a list may be named by many rows and heads.
  std::vector<kernels::KvEntry> entries;
  std::vector<kernels::DecodeRow> decode_rows;
  std::vector<kernels::KvList> decode_lists;  // [decode_rows][num_kv_heads]
  // Decode rows that choose what they read in each layer; decode_lists name their whole context for them.
  // Their slots are entries that mean nothing before a layer's choice.
  std::vector<kernels::SelectorRow> selector_rows;
  std::vector<uint64_t> selector_tables;  // [selector_rows] BlockTable::identity() of the pages, 0 for any
  std::vector<kernels::PrefillTile> prefill_tiles;
  std::vector<kernels::KvList> prefill_lists;  // [prefill_tiles][num_heads]

  // Rows whose logits are wanted, ascending.
  std::vector<int64_t> logit_rows;

  int64_t num_rows() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_logit_rows() const { return static_cast<int64_t>(logit_rows.size()); }
};

}  // namespace farspan
