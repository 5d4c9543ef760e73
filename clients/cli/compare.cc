// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "clients/cli/attention_flag.h"
#include "clients/cli/command.h"
#include "clients/cli/comparison_table.h"
#include "clients/cli/generation_flags.h"
#include "clients/cli/json.h"
#include "clients/cli/progress_line.h"
#include "clients/cli/prompt_flags.h"
#include "clients/cli/rule_flags.h"
#include "clients/cli/units.h"
#include "farspan/v1/options.pb.h"

namespace farspan::cli {
namespace {

constexpr int kPipedColumns = 200;

int64_t MaxPolicies() {
  const auto* field =
      v1::ComparePoliciesRequest::descriptor()->FindFieldByNumber(v1::ComparePoliciesRequest::kPoliciesFieldNumber);
  return field->options().GetExtension(v1::rule).max_items();
}

class CompareCommand final : public Command {
 public:
  std::string name() const override { return "compare"; }
  std::string summary() const override { return "run one prompt under several attention policies and print a table"; }
  std::vector<std::string> examples() const override {
    return {"farspan compare --prompt-file book.txt --attention window --max-tokens 64",
            "farspan compare --chat --prompt-file question.txt --attention 'window { window_tokens: 256 }' \\",
            "    --attention 'window { window_tokens: 2048 }' --find 48213",
            "farspan compare --prompt-file book.txt --attention window --reference dense --json"};
  }

  void AddFlags(FlagSet* flags) override {
    prompt_.AddTo(flags);
    AddAttentionFlag("attention", "A policy to compare.", MaxPolicies(), request_.mutable_policies(), flags);
    AddAttentionFlag(
        "reference", "What the policies are compared with [default: dense].",
        [this] { return request_.mutable_reference(); }, flags);
    flags->AddText("find", "TEXT", "Adds a column that says whether the output holds this text.", &find_);
    flags->AddSwitch("json", "Prints the table as one JSON object.", &json_);
    flags->AddSwitch("quiet", "No progress.", &quiet_);
    connection_.AddTo(flags);
    AddRuleFlags(&request_, "Comparison", flags);
    AddGenerationFlags(request_.mutable_spec(), flags);
  }

  absl::Status Check() const override {
    if (request_.policies_size() == 0) return absl::InvalidArgumentError("--attention: must be given at least once");
    if (absl::Status status = CheckOneSample(request_.spec(), "a comparison"); !status.ok()) return status;
    return prompt_.Check();
  }

  Outcome Run(Console* console) override {
    absl::StatusOr<Client> client = connection_.Connect(*console);
    if (!client.ok()) return UsageFailure(client.status());
    absl::StatusOr<v1::Prompt> prompt = prompt_.Read(console);
    if (!prompt.ok()) return InputFailure(prompt.status());
    *request_.mutable_spec()->mutable_prompt() = *std::move(prompt);

    std::optional<v1::ComparisonFinished> finished;
    Outcome outcome = Stream(*client, &finished, console);
    if (outcome.code == ExitCode::kOk && !finished) {
      outcome = {ExitCode::kRequestFailed, "the server ended the stream without its last event"};
    }
    Print(finished, outcome, console);
    return outcome;
  }

 private:
  Outcome Stream(const Client& client, std::optional<v1::ComparisonFinished>* finished, Console* console) {
    const Interrupt::Action action(&console->interrupt);
    ProgressLine line(console, !quiet_);
    CallProgress progress{.target = connection_.Target(*console)};
    const auto on_event = [&](const v1::ComparePoliciesResponse& event) {
      progress.answered = true;
      if (event.has_run()) ShowRun(event.run(), &line);
      if (event.has_finished()) *finished = event.finished();
      return true;
    };
    const absl::Status status = client.ComparePolicies(request_, on_event, connection_.Options(action));
    progress.interrupted = action.interrupted();
    return status.ok() ? Outcome{} : CallFailure(status, progress);
  }

  void ShowRun(const v1::PolicyRunEvent& run, ProgressLine* line) const {
    const std::string label = run.row_index() == 0 || run.row_index() > request_.policies_size()
                                  ? "reference"
                                  : AttentionLabel(request_.policies(run.row_index() - 1));
    const std::string where =
        absl::StrCat("run ", run.row_index() + 1, " of ", request_.policies_size() + 1, " (", label,
                     run.phase() == v1::PolicyRunEvent::PHASE_SCORE ? ", scoring" : "", "): ");
    if (run.event().has_progress()) {
      const v1::GenerationProgress& prefill = run.event().progress();
      line->Show(absl::StrCat(where, "prompt ",
                              ShareText(prefill.prefill_tokens_done_count(), prefill.prefill_tokens_total_count())));
    } else if (run.event().has_delta()) {
      line->Show(absl::StrCat(where, "generating"));
    }
  }

  void Print(const std::optional<v1::ComparisonFinished>& finished, const Outcome& outcome, Console* console) const {
    if (!json_) {
      if (finished) {
        console->out << ComparisonTable(*finished, find_, console->out_is_terminal ? console->columns : kPipedColumns);
      }
      return;
    }
    Json json = ProtoJson(finished.value_or(v1::ComparisonFinished()));
    for (int i = 0; find_ && finished && i < finished->rows_size(); ++i) {
      json["rows"][static_cast<size_t>(i)]["found"] = Found(finished->rows(i), *find_);
    }
    if (outcome.code != ExitCode::kOk) json["error"] = outcome.sentence;
    console->out << JsonLine(json);
  }

  Connection connection_;
  PromptFlags prompt_;
  v1::ComparePoliciesRequest request_;
  std::optional<std::string> find_;
  bool json_ = false;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> NewCompareCommand() { return std::make_unique<CompareCommand>(); }

}  // namespace farspan::cli
