// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/generation_view.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/display_text.h"
#include "clients/cli/units.h"

namespace farspan::cli {

GenerationView::GenerationView(Console* console, const Options& options)
    : console_(console), options_(options), progress_(console, options.progress) {}

bool GenerationView::Show(const v1::GenerateResponse& event) {
  switch (event.event_case()) {
    case v1::GenerateResponse::kStarted:
      ShowAdditions(event.started());
      return true;
    case v1::GenerateResponse::kProgress: {
      const int64_t done = event.progress().prefill_tokens_done_count();
      const int64_t total = event.progress().prefill_tokens_total_count();
      progress_.Show(absl::StrCat("prompt ", ShareText(done, total), " (", done, " of ", total, " tokens)"));
      return true;
    }
    case v1::GenerateResponse::kDelta:
      return ShowDelta(event.delta());
    default:
      return true;
  }
}

void GenerationView::ShowAdditions(const v1::GenerationStarted& started) {
  if (!options_.additions) return;
  if (!started.added_system_prompt().empty()) {
    console_->err << "added by the chat template: system message \""
                  << EscapeControls(started.added_system_prompt(), Controls::kEscapeAll) << "\"\n";
  }
  if (started.bos_added()) console_->err << "added by the tokenizer: beginning-of-sequence token\n";
}

bool GenerationView::ShowDelta(const v1::GenerationDelta& delta) {
  const auto now = std::chrono::steady_clock::now();
  if (tokens_ == 0) first_token_time_ = now;
  const int64_t since_first = tokens_ == 0 ? 0 : tokens_ + delta.token_ids_size() - 1;
  tokens_ += delta.token_ids_size();
  if (options_.text && delta.sample_index() == 0 && !delta.text().empty()) {
    if (!mid_line_ || console_->out_is_terminal) progress_.Clear();
    if (!std::exchange(has_text_, true)) ShowHeading(0);
    ShowText(delta.text());
  }
  // On one terminal the text itself is the progress.
  const double seconds = std::chrono::duration<double>(now - first_token_time_).count();
  if (!(options_.text && console_->out_is_terminal) && since_first > 0 && seconds > 0) {
    progress_.Show(absl::StrFormat("%d tokens, %.1f tokens/s", tokens_, static_cast<double>(since_first) / seconds));
  }
  return console_->out.good();
}

void GenerationView::ShowHeading(size_t index) {
  if (options_.num_samples > 1) console_->out << "[sample " << index + 1 << " of " << options_.num_samples << "]\n";
}

void GenerationView::ShowText(const std::string& text) {
  console_->out << console_->ForOut(text);
  console_->out.flush();
  mid_line_ = text.back() != '\n';
}

void GenerationView::ShowSample(size_t index, const std::string& text) {
  ShowHeading(index);
  if (!text.empty()) ShowText(text);
  Finish();
}

void GenerationView::Finish() {
  progress_.Clear();
  if (mid_line_) console_->out << "\n";
  mid_line_ = false;
  console_->out.flush();
}

}  // namespace farspan::cli
