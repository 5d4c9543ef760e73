// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/attention_flag.h"
#include "clients/cli/command.h"
#include "clients/cli/generation_call.h"
#include "clients/cli/generation_flags.h"
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
            "farspan generate --prompt-file - --json --logprobs 5 < prompt.txt",
            "farspan generate --prompt 'A name for a boat:' --n 4 --max-tokens 8 --priority -10"};
  }

  void AddFlags(FlagSet* flags) override {
    prompt_.AddTo(flags);
    AddAttentionFlag(
        "attention", "The attention policy.", [this] { return request_.mutable_attention(); }, flags);
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
    const GenerationView::Options view{.text = !json_,
                                       .progress = !quiet_,
                                       .additions = !quiet_ && !json_,
                                       .num_samples = request_.spec().sampling().n()};
    const Outcome outcome = StreamGeneration(*client, connection_, request_, view, &record, console);
    if (json_) PrintJson(record, outcome, console);
    if (outcome.code == ExitCode::kOk && !quiet_) console->err << StatisticsLine(record.finished()) << "\n";
    return outcome;
  }

 private:
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
