// SPDX-License-Identifier: Apache-2.0
#include <istream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "clients/cli/attention_flag.h"
#include "clients/cli/command.h"
#include "clients/cli/display_text.h"
#include "clients/cli/generation_call.h"
#include "clients/cli/generation_flags.h"
#include "clients/cli/prompt_flags.h"
#include "clients/cli/statistics.h"
#include "clients/cli/unary_call.h"

namespace farspan::cli {
namespace {

constexpr const char* kHelp =
    "/reset           forget the conversation\n"
    "/attention SPEC  choose the attention policy of the next answers; without SPEC: show it\n"
    "/quit            end (so does Ctrl-D); Ctrl-C stops an answer\n"
    "//TEXT           a message that begins with /\n";

class ChatCommand final : public Command {
 public:
  std::string name() const override { return "chat"; }
  std::string summary() const override { return "talk with the model, one line a message"; }
  std::vector<std::string> examples() const override {
    return {"farspan chat", "farspan chat --system 'Answer in one sentence.' --attention window",
            "printf 'Hello\\nAnd now in French\\n' | farspan chat --temperature 0"};
  }

  void AddFlags(FlagSet* flags) override {
    flags->AddText("system", "TEXT", "System message at the start of the conversation.", &system_);
    AddAttentionFlag(
        "attention", "The attention policy.", [this] { return request_.mutable_attention(); }, flags);
    flags->AddSwitch("quiet", "Only the answers: no progress, no statistics.", &quiet_);
    connection_.AddTo(flags);
    AddGenerationFlags(request_.mutable_spec(), flags);
  }

  absl::Status Check() const override { return CheckOneSample(request_.spec(), "a chat"); }

  Outcome Run(Console* console) override {
    absl::StatusOr<Client> client = connection_.Connect(*console);
    if (!client.ok()) return UsageFailure(client.status());
    Reset();
    if (console->in_is_terminal) {
      if (Outcome outcome = Greet(console); outcome.code != ExitCode::kOk) return outcome;
    }
    std::string line;
    while (ReadLine(console, &line)) {
      if (line == "/quit" || line == "/exit") break;
      if (line.empty() || RunCommand(line, console)) continue;
      Outcome outcome = Turn(*client, absl::StartsWith(line, "//") ? line.substr(1) : line, console);
      if (outcome.code == ExitCode::kOk) continue;
      if (!console->in_is_terminal) return outcome;
      console->err << "farspan: " << console->ForErr(outcome.sentence) << "; this message is forgotten\n";
    }
    return {};
  }

 private:
  v1::Chat* conversation() { return request_.mutable_spec()->mutable_prompt()->mutable_chat(); }

  void Reset() {
    conversation()->Clear();
    if (system_) *conversation()->add_messages() = Message(v1::ChatMessage::ROLE_SYSTEM, *system_);
  }

  // Fails early where there is no server or no chat template.
  Outcome Greet(Console* console) const {
    v1::GetServerInfoResponse info;
    const auto call = [](const Client& client, const CallOptions& options) { return client.GetServerInfo(options); };
    Outcome outcome = CallServer(connection_, console, call, &info);
    if (outcome.code == ExitCode::kOk && !quiet_) {
      console->err << EscapeControls(info.model().name(), Controls::kEscapeAll) << ", context "
                   << info.model().max_context_tokens() << " tokens. /help lists the commands.\n";
    }
    return outcome;
  }

  static bool ReadLine(Console* console, std::string* line) {
    if (console->in_is_terminal) {
      console->err << (console->color ? "\x1b[1m> \x1b[0m" : "> ");
      console->err.flush();
    }
    if (!std::getline(console->in, *line)) return false;
    absl::StripAsciiWhitespace(line);
    return true;
  }

  // Whether the line was a command rather than a message.
  bool RunCommand(const std::string& line, Console* console) {
    if (line[0] != '/' || absl::StartsWith(line, "//")) return false;
    const std::string word = line.substr(0, line.find(' '));
    const std::string argument(absl::StripAsciiWhitespace(absl::StripPrefix(line, word)));
    if (word == "/help") {
      console->err << kHelp;
    } else if (word == "/reset") {
      Reset();
    } else if (word == "/attention") {
      ChooseAttention(argument, console);
    } else {
      console->err << "farspan: unknown command " << Quoted(word) << "; /help lists the commands\n";
    }
    return true;
  }

  void ChooseAttention(const std::string& text, Console* console) {
    if (text.empty()) {
      console->err << (request_.has_attention() ? AttentionLabel(request_.attention()) : "the server's default")
                   << "\n";
      return;
    }
    absl::StatusOr<v1::AttentionSpec> attention = ParseAttention(text);
    if (attention.ok()) {
      *request_.mutable_attention() = *std::move(attention);
    } else {
      console->err << "farspan: /attention: " << attention.status().message() << "\n";
    }
  }

  // A failed turn leaves the conversation as it was.
  Outcome Turn(const Client& client, const std::string& message, Console* console) {
    *conversation()->add_messages() = Message(v1::ChatMessage::ROLE_USER, message);
    GenerationRecord record(request_.spec().output());
    const bool first = conversation()->messages_size() == 1;
    const GenerationView::Options view{.text = true, .progress = !quiet_, .additions = !quiet_ && first};
    Outcome outcome = StreamGeneration(client, connection_, request_, view, &record, console);
    if (outcome.code != ExitCode::kOk) {
      conversation()->mutable_messages()->RemoveLast();
      return outcome;
    }
    *conversation()->add_messages() = Message(v1::ChatMessage::ROLE_ASSISTANT, record.text());
    if (!quiet_ && console->err_is_terminal) console->err << StatisticsLine(record.finished()) << "\n";
    return outcome;
  }

  Connection connection_;
  v1::GenerateRequest request_;
  std::optional<std::string> system_;
  bool quiet_ = false;
};

}  // namespace

std::unique_ptr<Command> NewChatCommand() { return std::make_unique<ChatCommand>(); }

}  // namespace farspan::cli
