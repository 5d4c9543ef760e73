// SPDX-License-Identifier: Apache-2.0
#include "engine/batch_builder.h"

#include <algorithm>
#include <iterator>
#include <optional>

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
  const int64_t context_tokens = queries.end;
  int64_t chosen_tokens = 0, dense_layers = 0, scored_bounds = 0;
  for (const ReadRange& range : plan.reads) chosen_tokens += range.tokens.size();
  if (plan.selector) {
    chosen_tokens += plan.selector->num_picked * plan.selector->block_tokens;
    scored_bounds = context_tokens / plan.selector->block_tokens * plan.selector->block_tokens /
                    kernels::KeyBoundsTokens(shape.page_tokens, plan.selector->block_tokens);
    for (int64_t layer = 0; layer < std::min(shape.num_layers, kMaxMaskedLayers); ++layer) {
      dense_layers += plan.selector->dense_layers[static_cast<size_t>(layer)] ? 1 : 0;
    }
  }
  const int64_t chosen_layers = shape.num_layers - dense_layers;
  const int64_t layer_tokens = dense_layers * context_tokens + chosen_layers * chosen_tokens;
  const int64_t layer_token_bytes = shape.kv_bytes_per_token() / shape.num_layers;
  return {.entries_selected = (layer_tokens + shape.num_layers / 2) / shape.num_layers,
          .entries_candidate = context_tokens,
          .read_bytes = layer_tokens * layer_token_bytes,
          .dense_read_bytes = context_tokens * shape.kv_bytes_per_token(),
          .side_read_bytes = chosen_layers * scored_bounds * layer_token_bytes};
}

// A token that the step before draws is forced, or named by the place of its draw.
TokenId TokenOrItsDraw(const Sequence& sequence, int64_t position, int64_t draw_row_before) {
  if (position < sequence.num_tokens()) return sequence.token(position);
  const std::vector<TokenId>& forced = sequence.request().forced_tokens;
  if (!forced.empty()) return forced[static_cast<size_t>(position - sequence.prompt_tokens())];
  return kernels::DrawnTokenId(draw_row_before);
}

void AppendRows(const Sequence& sequence, TokenRange queries, int64_t draw_row_before, ForwardBatch* batch) {
  const BlockTable& pages = sequence.block_table();
  for (int64_t position = queries.begin; position < queries.end; ++position) {
    batch->token_ids.push_back(TokenOrItsDraw(sequence, position, draw_row_before));
    batch->positions.push_back(position);
    batch->kv_slots.push_back({.page = static_cast<int32_t>(pages.page_of(position)),
                               .token = static_cast<int32_t>(position % pages.page_tokens())});
  }
}

static_assert(kMaxMaskedLayers == 64 * std::size(decltype(kernels::SelectorRow::dense_layers){}));

kernels::BlockScore BlockScoreOf(SelectorKey key) {
  switch (key) {
    case SelectorKey::kKeyBounds:
      return kernels::BlockScore::kKeyBounds;
  }
  FARSPAN_CHECK(false, "key=", static_cast<int>(key));
}

kernels::ScoreReduction ReductionOf(GroupReduction reduction) {
  return reduction == GroupReduction::kSoftmaxSum ? kernels::ScoreReduction::kSoftmaxSum
                                                  : kernels::ScoreReduction::kRawSum;
}

// What the batch's next decode row chooses from; the batch's entries get its context, then its plan's ranges.
kernels::SelectorRow MakeSelectorRow(const AttentionPlan& plan, int64_t row_index, TokenRange query,
                                     const BlockTable& pages, ForwardBatch* batch) {
  const Selector& selector = *plan.selector;
  AttentionPlan leading, trailing;
  for (const ReadRange& range : plan.reads) {
    (range.tokens.end <= selector.candidates.begin ? leading : trailing).reads.push_back(range);
  }
  const AttentionPlan dense = {.reads = {{.tokens = {.begin = 0, .end = query.end}}}};
  kernels::SelectorRow row = {.row = row_index,
                              .decode_row = static_cast<int64_t>(batch->decode_rows.size()),
                              .context = AppendList(dense, query, pages, &batch->entries),
                              .leading = AppendList(leading, query, pages, &batch->entries),
                              .trailing = AppendList(trailing, query, pages, &batch->entries),
                              .score = BlockScoreOf(selector.key),
                              .reduction = ReductionOf(selector.group_reduction),
                              .block_tokens = selector.block_tokens,
                              .num_blocks = query.end / selector.block_tokens,
                              .first_candidate = selector.candidates.begin / selector.block_tokens,
                              .num_candidates = selector.num_candidates(),
                              .num_picked = selector.num_picked,
                              .slots_begin = 0,
                              .dense_layers = {}};
  for (size_t layer = 0; layer < selector.dense_layers.size(); ++layer) {
    if (selector.dense_layers[layer]) row.dense_layers[layer / 64] |= uint64_t{1} << (layer % 64);
  }
  return row;
}

// Entries from `begin` to the batch's last that start before `position`; they ascend.
int64_t NumEntriesBefore(const ForwardBatch& batch, int64_t begin, int64_t position) {
  const auto first = batch.entries.begin() + begin;
  const auto end = std::partition_point(
      first, batch.entries.end(), [position](const kernels::KvEntry& entry) { return entry.position < position; });
  return end - first;
}

// The token at `position`.
DrawRequest NextToken(const Sequence& sequence, int64_t position, int64_t logit_row) {
  const Request& request = sequence.request();
  DrawRequest draw = {.logit_row = logit_row,
                      .given_token = std::nullopt,
                      .num_alternatives = request.logprobs,
                      .sampling = request.sampling,
                      .counts = &sequence.counts(),
                      .key = {.seed = request.sampling.seed, .position = position, .sample_index = sequence.sample()}};
  const auto forced = static_cast<size_t>(position - sequence.prompt_tokens());
  if (forced < request.forced_tokens.size()) draw.given_token = request.forced_tokens[forced];
  return draw;
}

// The rows of `queries` whose logits are wanted, and what is made of each: where the prompt's log-probabilities are
// asked for, its own next token; behind the last known token, the next one. The first sample speaks for all of the
// prompt, and what it reported before a preemption it does not report again.
int64_t AppendDraws(TokenRange queries, Sequence* sequence, BuiltBatch* built) {
  ForwardBatch& batch = built->forward;
  const int64_t first_row = batch.num_rows() - queries.begin;
  const std::optional<int> alternatives = sequence->request().prompt_logprobs;
  const size_t num_before = built->draws.size();
  if (!sequence->follows() && alternatives) {
    const int64_t end = std::min(queries.end, sequence->prompt_tokens() - 1);
    for (int64_t position = std::max(queries.begin, sequence->reported_prompt_tokens()); position < end; ++position) {
      built->draws.push_back({.logit_row = batch.num_logit_rows(),
                              .given_token = sequence->token(position + 1),
                              .num_alternatives = alternatives});
      batch.logit_rows.push_back(first_row + position);
    }
  }
  if (sequence->draws()) {
    sequence->SetDrawRow(batch.num_logit_rows());
    built->draws.push_back(NextToken(*sequence, queries.end, batch.num_logit_rows()));
    batch.logit_rows.push_back(first_row + queries.end - 1);
  }
  return static_cast<int64_t>(built->draws.size() - num_before);
}

}  // namespace

void AppendDecodeAttention(const AttentionPlan& plan, int64_t row, TokenRange query, const BlockTable& pages,
                           const ModelShape& shape, ForwardBatch* batch) {
  kernels::KvList list;
  if (plan.selector) {
    kernels::SelectorRow selector = MakeSelectorRow(plan, row, query, pages, batch);
    selector.slots_begin = static_cast<int64_t>(batch->entries.size());
    const int64_t num_slots = shape.num_kv_heads * kernels::SelectedEntries(selector, pages.page_tokens());
    batch->entries.resize(batch->entries.size() + static_cast<size_t>(num_slots));
    batch->selector_rows.push_back(selector);
    batch->selector_tables.push_back(pages.identity());
    list = selector.context;
  } else {
    list = AppendList(plan, query, pages, &batch->entries);
  }
  batch->decode_rows.push_back({.row = row, .position = query.begin, .left_window = plan.left_window_tokens});
  batch->decode_lists.insert(batch->decode_lists.end(), static_cast<size_t>(shape.num_kv_heads), list);
}

void AppendPrefillAttention(const AttentionPlan& plan, TokenRange queries, const BlockTable& pages,
                            const ModelShape& shape, ForwardBatch* batch) {
  constexpr int64_t kTile = kernels::kPrefillTileQueries;
  // Where every query reads all before it, the tiles' lists are the beginnings of one.
  const bool shares_list = plan.reads.size() == 1 && plan.left_window_tokens == kUnboundedTokens;
  kernels::KvList list;
  if (shares_list) list = AppendList(plan, queries, pages, &batch->entries);
  for (int64_t first = queries.begin; first < queries.end;) {
    const TokenRange tile = {.begin = first, .end = std::min(queries.end, (first / kTile + 1) * kTile)};
    batch->prefill_tiles.push_back({.row = batch->num_rows() + first - queries.begin,
                                    .num_queries = tile.size(),
                                    .first_position = first,
                                    .left_window = plan.left_window_tokens});
    if (shares_list) {
      list.num_entries = NumEntriesBefore(*batch, list.entries_begin, tile.end);
    } else {
      list = AppendList(plan, tile, pages, &batch->entries);
    }
    batch->prefill_lists.insert(batch->prefill_lists.end(), static_cast<size_t>(shape.num_heads), list);
    first = tile.end;
  }
}

BuiltBatch BuildBatch(const StepPlan& plan, const ModelShape& shape, Scheduler* scheduler) {
  BuiltBatch built;
  ForwardBatch& batch = built.forward;
  for (const StepPlan::Run& run : plan.runs) {
    Sequence& sequence = scheduler->sequence(run.id);
    const TokenRange queries = {.begin = sequence.scheduled() - run.num_tokens, .end = sequence.scheduled()};
    BatchRun batch_run = {.id = run.id,
                          .num_tokens = queries.size(),
                          .prefill = queries.begin < sequence.prompt_tokens(),
                          .first_draw = static_cast<int64_t>(built.draws.size())};
    const int64_t draw_row_before = sequence.draw_row();
    batch_run.num_draws = AppendDraws(queries, &sequence, &built);
    // A chunk is planned as one; decode rows, several after a preemption, one by one as they were the first time.
    const int64_t planned_together = batch_run.prefill ? queries.size() : 1;
    for (int64_t begin = queries.begin; begin < queries.end; begin += planned_together) {
      const TokenRange part = {.begin = begin, .end = begin + planned_together};
      const AttentionPlan attention =
          sequence.request().policy->Plan({.queries = part, .prompt_tokens = sequence.prompt_tokens()});
      batch_run.drop = attention.drop;
      batch_run.traffic.Add(TrafficOf(attention, part, shape));
      if (batch_run.prefill) {
        AppendPrefillAttention(attention, part, sequence.block_table(), shape, &batch);
      } else {
        AppendDecodeAttention(attention, batch.num_rows() + begin - queries.begin, part, sequence.block_table(), shape,
                              &batch);
      }
    }
    AppendRows(sequence, queries, draw_row_before, &batch);
    built.runs.push_back(batch_run);
  }
  return built;
}

}  // namespace farspan
