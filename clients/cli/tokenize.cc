// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/command.h"
#include "clients/cli/display_text.h"
#include "clients/cli/json.h"
#include "clients/cli/prompt_flags.h"
#include "clients/cli/unary_call.h"

namespace farspan::cli {
namespace {

class TokenizeCommand final : public Command {
 public:
  std::string name() const override { return "tokenize"; }
  std::string summary() const override { return "show the tokens of a prompt, or the text of tokens"; }
  std::vector<std::string> examples() const override {
    return {"farspan tokenize --prompt 'Hello, world'", "farspan tokenize --chat --prompt Hello --json > tokens.json",
            "farspan tokenize --prompt-tokens-file tokens.json"};
  }

  void AddFlags(FlagSet* flags) override {
    prompt_.AddTo(flags);
    flags->AddSwitch("json", "Prints the answer as one JSON object.", &json_);
    connection_.AddTo(flags);
  }

  absl::Status Check() const override { return prompt_.Check(); }

  Outcome Run(Console* console) override {
    absl::StatusOr<v1::Prompt> prompt = prompt_.Read(console);
    if (!prompt.ok()) return InputFailure(prompt.status());
    return prompt->has_tokens() ? Detokenize(prompt->tokens(), console) : Tokenize(*prompt, console);
  }

 private:
  Outcome Tokenize(const v1::Prompt& prompt, Console* console) const {
    v1::TokenizeRequest request;
    *request.mutable_prompt() = prompt;
    v1::TokenizeResponse response;
    const auto call = [&](const Client& client, const CallOptions& options) {
      return client.Tokenize(request, options);
    };
    Outcome outcome = CallServer(connection_, console, call, &response);
    if (outcome.code != ExitCode::kOk) return outcome;
    if (json_) {
      console->out << JsonLine(ProtoJson(response));
      return outcome;
    }
    for (int i = 0; i < response.token_ids_size(); ++i) {
      const std::string text = i < response.token_texts_size() ? response.token_texts(i) : "";
      console->out << absl::StrFormat("%7d  %s\n", response.token_ids(i), EscapeControls(text, Controls::kEscapeAll));
    }
    console->err << response.token_ids_size() << " tokens"
                 << (response.bos_added() ? ", beginning of sequence added" : "") << "\n";
    return outcome;
  }

  Outcome Detokenize(const v1::TokenList& tokens, Console* console) const {
    v1::DetokenizeRequest request;
    *request.mutable_token_ids() = tokens.ids();
    v1::DetokenizeResponse response;
    const auto call = [&](const Client& client, const CallOptions& options) {
      return client.Detokenize(request, options);
    };
    Outcome outcome = CallServer(connection_, console, call, &response);
    if (outcome.code != ExitCode::kOk) return outcome;
    console->out << (json_ ? JsonLine(ProtoJson(response)) : absl::StrCat(console->ForOut(response.text()), "\n"));
    return outcome;
  }

  Connection connection_;
  PromptFlags prompt_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> NewTokenizeCommand() { return std::make_unique<TokenizeCommand>(); }

}  // namespace farspan::cli
