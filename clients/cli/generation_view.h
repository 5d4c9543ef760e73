// SPDX-License-Identifier: Apache-2.0
// Shows a generation as it runs: text on standard output, progress on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "clients/cli/console.h"
#include "clients/cli/progress_line.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

class GenerationView {
 public:
  struct Options {
    bool text = true;       // write the first sample's text as it arrives
    bool progress = true;   // on a terminal
    bool additions = true;  // say what the chat template and the tokenizer added
    int num_samples = 1;    // of several, each gets a heading
  };
  GenerationView(Console* console, const Options& options);

  // False when standard output no longer takes what is written.
  bool Show(const v1::GenerateResponse& event);

  // Ends the text with a line end where it has none, and removes the progress line.
  void Finish();

  // A further sample, whole, after Finish.
  void ShowSample(size_t index, const std::string& text);

 private:
  void ShowAdditions(const v1::GenerationStarted& started);
  bool ShowDelta(const v1::GenerationDelta& delta);
  void ShowHeading(size_t index);
  void ShowText(const std::string& text);

  Console* const console_;
  const Options options_;
  ProgressLine progress_;
  bool mid_line_ = false;
  bool has_text_ = false;
  int64_t tokens_ = 0;
  std::chrono::steady_clock::time_point first_token_time_;
};

}  // namespace farspan::cli
