// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/attention_flag.h"
#include "clients/cli/command.h"
#include "clients/cli/generation_flags.h"
#include "clients/cli/generation_record.h"
#include "clients/cli/generation_view.h"
#include "clients/cli/prompt_flags.h"
#include "clients/cli/statistics.h"

namespace farspan::cli {
namespace {

class GenerateCommand final : public Command {
 public:
  std::string name() const override { return "generate"; }
  std::string summary() const override { return "continue a prompt; the text streams to standard output"; }
  std::vector<std::string> examples() const override {
    return {"farspan generate --prompt 'Once upon a time' --max-tokens 64",
            "farspan generate --chat --prompt 'Why is the sky blue?' --temperature 0",
            "farspan generate --prompt-file book.txt --attention 'window { sink_tokens: 4 window_tokens: 1024 }'",
            "farspan generate --prompt-file - --json --logprobs 5 < prompt.txt"};
  }

  void AddFlags(FlagSet* flags) override {
    prompt_.AddTo(flags);
    flags->Add({.name = "attention", .value_name = "SPEC", .doc = AttentionSyntax(), .set = [this](const auto& text) {
                  absl::StatusOr<v1::AttentionSpec> attention = ParseAttention(text);
                  if (attention.ok()) *request_.mutable_attention() = *std::move(attention);
                  return attention.status();
                }});
    flags->AddSwitch("json", "Prints one JSON object at the end instead of the text as it arrives.", &json_);
    flags->AddSwitch("quiet", "Only the output: no progress, no statistics.", &quiet_);
    connection_.AddTo(flags);
    AddGenerationFlags(request_.mutable_spec(), flags);
  }

  absl::Status Check() const override { return prompt_.Check(); }

  Outcome Run(Console* console) override {
    absl::StatusOr<Client> client = connection_.Connect(*console);
    if (!client.ok()) return UsageFailure(client.status());
    absl::StatusOr<v1::Prompt> prompt = prompt_.Read(console);
    if (!prompt.ok()) return InputFailure(prompt.status());
    *request_.mutable_spec()->mutable_prompt() = *std::move(prompt);

    GenerationRecord record(request_.spec().output());
    const Outcome outcome = Stream(*client, &record, console);
    if (json_) PrintJson(record, outcome, console);
    if (outcome.code == ExitCode::kOk && !quiet_) console->err << StatisticsLine(record.finished()) << "\n";
    return outcome;
  }

 private:
  Outcome Stream(const Client& client, GenerationRecord* record, Console* console) {
    const Interrupt::Action action(&console->interrupt);
    GenerationView view(console, {.text = !json_, .progress = !quiet_, .additions = !quiet_ && !json_});
    CallProgress progress{.target = connection_.Target(*console)};
    bool writable = true;
    const auto on_event = [&](const v1::GenerateResponse& event) {
      progress.answered = true;
      record->Add(event);
      writable = view.Show(event);
      return writable;
    };
    const absl::Status status = client.Generate(request_, on_event, connection_.Options(action));
    view.Finish();
    if (!writable) return {ExitCode::kOutputFailed, "the output cannot be written"};
    progress.interrupted = action.interrupted() && !record->complete();
    if (!status.ok()) return CallFailure(status, progress);
    if (!record->complete()) return {ExitCode::kRequestFailed, "the server ended the stream without its last event"};
    return {};
  }

  static void PrintJson(const GenerationRecord& record, const Outcome& outcome, Console* console) {
    Json json = record.ToJson();
    if (outcome.code != ExitCode::kOk) json["error"] = outcome.sentence;
    console->out << JsonLine(json);
  }

  Connection connection_;
  PromptFlags prompt_;
  v1::GenerateRequest request_;
  bool json_ = false;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> NewGenerateCommand() { return std::make_unique<GenerateCommand>(); }

}  // namespace farspan::cli
