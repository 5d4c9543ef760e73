// SPDX-License-Identifier: Apache-2.0
#include "engine/batch_builder.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

// Appends the parts of `range` page by page.
void AppendEntries(const ReadRange& range, TokenRange tokens, const BlockTable& pages,
                   std::vector<kernels::KvEntry>* entries) {
  const int64_t page_tokens = pages.page_tokens();
  for (int64_t token = tokens.begin; token < tokens.end;) {
    const int64_t page_end = (token / page_tokens + 1) * page_tokens;
    const int64_t end = std::min(tokens.end, page_end);
    entries->push_back({.page = static_cast<int32_t>(pages.page_of(token)),
                        .first_valid = static_cast<int32_t>(token % page_tokens),
                        .num_valid = static_cast<int32_t>(end - token),
                        .position = token,
                        .query_cap = range.query_cap,
                        .ignores_left_window = range.ignores_left_window});
    token = end;
  }
}

// The entries that queries [queries.begin, queries.end) can see of `plan`. Tokens that all of them miss are left out,
// which changes no result: a page in which a query sees nothing is a no-op.
kernels::KvList AppendList(const AttentionPlan& plan, TokenRange queries, const BlockTable& pages,
                           std::vector<kernels::KvEntry>* entries) {
  const auto begin = static_cast<int64_t>(entries->size());
  for (const ReadRange& range : plan.reads) {
    TokenRange visible = {.begin = range.tokens.begin, .end = std::min(range.tokens.end, queries.end)};
    if (!range.ignores_left_window && plan.left_window_tokens != kUnboundedTokens) {
      visible.begin = std::max(visible.begin, queries.begin - plan.left_window_tokens + 1);
    }
    AppendEntries(range, visible, pages, entries);
  }
  return {.entries_begin = begin, .num_entries = static_cast<int64_t>(entries->size()) - begin};
}

AttentionTraffic TrafficOf(const AttentionPlan& plan, TokenRange queries, const ModelShape& shape) {
  AttentionTraffic traffic;
  for (const ReadRange& range : plan.reads) traffic.entries_selected += range.tokens.size();
  traffic.entries_candidate = queries.end;
  traffic.read_bytes = traffic.entries_selected * shape.kv_bytes_per_token();
  traffic.dense_read_bytes = traffic.entries_candidate * shape.kv_bytes_per_token();
  return traffic;
}

void AppendRows(const Sequence& sequence, TokenRange queries, ForwardBatch* batch) {
  const BlockTable& pages = sequence.block_table();
  for (int64_t position = queries.begin; position < queries.end; ++position) {
    batch->token_ids.push_back(sequence.token(position));
    batch->positions.push_back(position);
    batch->kv_slots.push_back({.page = static_cast<int32_t>(pages.page_of(position)),
                               .token = static_cast<int32_t>(position % pages.page_tokens())});
  }
}

void AppendDecode(const Sequence& sequence, const AttentionPlan& plan, int64_t row, TokenRange query,
                  const ModelShape& shape, ForwardBatch* batch) {
  batch->decode_rows.push_back({.row = row, .position = query.begin, .left_window = plan.left_window_tokens});
  const kernels::KvList list = AppendList(plan, query, sequence.block_table(), &batch->entries);
  batch->decode_lists.insert(batch->decode_lists.end(), static_cast<size_t>(shape.num_kv_heads), list);
}

void AppendPrefill(const Sequence& sequence, const AttentionPlan& plan, TokenRange queries, const ModelShape& shape,
                   ForwardBatch* batch) {
  constexpr int64_t kTile = kernels::kPrefillTileQueries;
  for (int64_t first = queries.begin; first < queries.end;) {
    const TokenRange tile = {.begin = first, .end = std::min(queries.end, (first / kTile + 1) * kTile)};
    batch->prefill_tiles.push_back({.row = batch->num_rows() + first - queries.begin,
                                    .num_queries = tile.size(),
                                    .first_position = first,
                                    .left_window = plan.left_window_tokens});
    const kernels::KvList list = AppendList(plan, tile, sequence.block_table(), &batch->entries);
    batch->prefill_lists.insert(batch->prefill_lists.end(), static_cast<size_t>(shape.num_heads), list);
    first = tile.end;
  }
}

// Rows whose logits are wanted: the last known token's, which the next one is drawn from, and a prompt's where asked.
int64_t AppendLogitRows(const Sequence& sequence, TokenRange queries, ForwardBatch* batch) {
  const int64_t first_row = batch->num_rows();
  const bool reports = sequence.prefilling() && !sequence.follows() && sequence.request().prompt_logprobs.has_value();
  const int64_t reported = std::max(queries.begin, sequence.reported_prompt_tokens());
  const int64_t unreported = reports ? std::max<int64_t>(0, queries.end - reported) : 0;
  const bool last = queries.end == sequence.num_tokens();
  const int64_t count = std::max<int64_t>(unreported, last ? 1 : 0);
  for (int64_t i = queries.size() - count; i < queries.size(); ++i) batch->logit_rows.push_back(first_row + i);
  return count;
}

}  // namespace

BuiltBatch BuildBatch(const StepPlan& plan, const ModelShape& shape, Scheduler* scheduler) {
  BuiltBatch built;
  ForwardBatch& batch = built.forward;
  for (const StepPlan::Run& run : plan.runs) {
    const Sequence& sequence = scheduler->sequence(run.id);
    const TokenRange queries = {.begin = sequence.computed(), .end = sequence.computed() + sequence.in_flight()};
    BatchRun batch_run = {.id = run.id,
                          .num_tokens = queries.size(),
                          .prefill = sequence.prefilling(),
                          .first_logit_row = batch.num_logit_rows()};
    batch_run.num_logit_rows = AppendLogitRows(sequence, queries, &batch);
    // A chunk is planned as one; decode rows, several after a preemption, one by one as they were the first time.
    const int64_t planned_together = batch_run.prefill ? queries.size() : 1;
    for (int64_t begin = queries.begin; begin < queries.end; begin += planned_together) {
      const TokenRange part = {.begin = begin, .end = begin + planned_together};
      const AttentionPlan attention =
          sequence.request().policy->Plan({.queries = part, .prompt_tokens = sequence.prompt_tokens()});
      batch_run.drop = attention.drop;
      batch_run.traffic.Add(TrafficOf(attention, part, shape));
      if (batch_run.prefill) {
        AppendPrefill(sequence, attention, part, shape, &batch);
      } else {
        AppendDecode(sequence, attention, batch.num_rows() + begin - queries.begin, part, shape, &batch);
      }
    }
    AppendRows(sequence, queries, &batch);
    built.runs.push_back(batch_run);
  }
  return built;
}

}  // namespace farspan
