// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/comparison_table.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/attention_flag.h"
#include "clients/cli/display_text.h"
#include "clients/cli/statistics.h"
#include "clients/cli/text_table.h"
#include "clients/cli/units.h"

namespace farspan::cli {
namespace {

constexpr int kNarrowestText = 24;

std::string Text(const v1::ComparisonRow& row) { return EscapeControls(row.text(), Controls::kEscapeAll); }

std::vector<std::string> Cells(const v1::ComparisonRow& row, bool is_reference,
                               const std::optional<std::string>& find) {
  const v1::GenerationFinished& finished = row.finished();
  const v1::Timing& timing = finished.timing();
  const v1::KvStatistics& kv = finished.kv();
  std::vector<std::string> cells{
      absl::StrCat(AttentionLabel(row.attention()), is_reference ? " (reference)" : ""),
      absl::StrCat(finished.usage().prompt_tokens_count()),
      DurationText(timing.ttft_duration()),
      timing.has_tpot_duration() ? DurationText(timing.tpot_duration()) : "-",
      BytesText(kv.peak_resident_bytes()),
      BytesText(ReadBytes(kv)),
      ShareText(ReadBytes(kv), DenseReadBytes(kv)),
      ShareText(kv.decode_read_bytes() + kv.decode_side_read_bytes(), kv.decode_dense_read_bytes()),
      absl::StrFormat("%.0f %%", 100 * row.token_agreement_ratio()),
      row.has_first_divergence_index() ? absl::StrCat("token ", row.first_divergence_index()) : "none",
      absl::StrFormat("%.3f", row.reference_mean_logprob())};
  if (find) cells.push_back(Found(row, *find) ? "yes" : "no");
  return cells;
}

TextTable Numbers(const v1::ComparisonFinished& comparison, const std::optional<std::string>& find) {
  TextTable table;
  table.header = {"policy",    "prompt tokens",    "TTFT",        "TPOT", "peak KV", "KV read", "of dense", "in decode",
                  "agreement", "first divergence", "ref. logprob"};
  if (find) table.header.push_back("found?");
  for (int i = 0; i < comparison.rows_size(); ++i) table.rows.push_back(Cells(comparison.rows(i), i == 0, find));
  return table;
}

std::string Texts(const v1::ComparisonFinished& comparison, int columns) {
  std::string texts;
  for (const v1::ComparisonRow& row : comparison.rows()) {
    absl::StrAppend(&texts, ClipToWidth(absl::StrCat(AttentionLabel(row.attention()), ": ", Text(row)), columns), "\n");
  }
  return texts;
}

}  // namespace

bool Found(const v1::ComparisonRow& row, const std::string& find) { return absl::StrContains(row.text(), find); }

std::string ComparisonTable(const v1::ComparisonFinished& comparison, const std::optional<std::string>& find,
                            int columns) {
  TextTable table = Numbers(comparison, find);
  const std::string numbers = RenderTable(table);
  const int text_columns = columns - RenderedWidth(numbers) - 2;
  if (text_columns >= kNarrowestText) {
    table.header.push_back("text");
    for (int i = 0; i < comparison.rows_size(); ++i) {
      table.rows[static_cast<size_t>(i)].push_back(ClipToWidth(Text(comparison.rows(i)), text_columns));
    }
    return RenderTable(table);
  }
  const std::string sideways = RenderTable(Transposed(table));
  const bool turn = RenderedWidth(numbers) > columns && RenderedWidth(sideways) <= columns;
  return absl::StrCat(turn ? sideways : numbers, "\n", Texts(comparison, columns));
}

}  // namespace farspan::cli
