// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "clients/cli/command.h"
#include "clients/cli/display_text.h"
#include "clients/cli/json.h"
#include "clients/cli/unary_call.h"

namespace farspan::cli {
namespace {

constexpr double kDefaultTimeoutSeconds = 10;

std::string Cell(absl::string_view text) { return EscapeControls(text, Controls::kEscapeAll); }

std::string Capabilities(const v1::AttentionPolicyInfo& policy) {
  std::vector<std::string> facts;
  if (policy.sparse_prefill() && policy.sparse_decode()) {
    facts.push_back("reads less of the prompt and while generating");
  } else if (policy.sparse_prefill()) {
    facts.push_back("reads less while computing the prompt");
  } else if (policy.sparse_decode()) {
    facts.push_back("reads less while generating");
  } else {
    facts.push_back("reads everything");
  }
  facts.push_back(policy.evicts() ? "frees KV pages while it runs" : "keeps all KV pages");
  const bool chooses = policy.sparse_prefill() || policy.sparse_decode();
  if (chooses && policy.granularity() == v1::ATTENTION_GRANULARITY_TOKEN) facts.push_back("chooses single tokens");
  if (chooses && policy.granularity() == v1::ATTENTION_GRANULARITY_BLOCK) facts.push_back("chooses blocks");
  facts.push_back(absl::StrCat("version ", policy.version()));
  if (!policy.supported()) facts.push_back("NOT SUPPORTED on this server's device");
  return absl::StrJoin(facts, "; ");
}

std::string OptionFacts(const v1::AttentionOption& option) {
  std::vector<std::string> facts{Cell(option.type())};
  if (!option.unit().empty()) facts.push_back(absl::StrCat("in ", Cell(option.unit())));
  if (option.has_minimum()) facts.push_back(absl::StrFormat("from %.15g", option.minimum()));
  if (option.has_maximum()) facts.push_back(absl::StrFormat("up to %.15g", option.maximum()));
  for (const std::string& value : option.enum_values()) facts.push_back(Cell(value));
  if (!option.default_value().empty()) facts.push_back(absl::StrCat("default ", Cell(option.default_value())));
  return absl::StrJoin(facts, "; ");
}

std::string PolicyText(const v1::AttentionPolicyInfo& policy, int columns) {
  std::string text = absl::StrCat(Cell(policy.name()), "\n", Wrap(Cell(policy.summary()), 2, columns));
  if (!policy.paper().empty()) absl::StrAppend(&text, Wrap(Cell(policy.paper()), 2, columns));
  absl::StrAppend(&text, Wrap(Capabilities(policy), 2, columns));
  for (const v1::AttentionOption& option : policy.options()) {
    absl::StrAppend(&text, "  ", Cell(option.name()), "\n",
                    Wrap(absl::StrCat(Cell(option.doc()), " [", OptionFacts(option), "]"), 6, columns));
  }
  return text;
}

class PoliciesCommand final : public Command {
 public:
  std::string name() const override { return "policies"; }
  std::string summary() const override { return "list the attention policies that a request may choose"; }
  std::vector<std::string> examples() const override { return {"farspan policies", "farspan policies --json"}; }

  void AddFlags(FlagSet* flags) override {
    flags->AddSwitch("json", "Prints the answer as one JSON object.", &json_);
    connection_.AddTo(flags);
  }

  Outcome Run(Console* console) override {
    v1::ListAttentionPoliciesResponse response;
    const auto call = [](const Client& client, const CallOptions& options) {
      return client.ListAttentionPolicies(options);
    };
    Outcome outcome = CallServer(connection_, console, call, &response);
    if (outcome.code != ExitCode::kOk) return outcome;
    if (json_) {
      console->out << JsonLine(ProtoJson(response));
      return outcome;
    }
    std::vector<std::string> texts;
    for (const auto& policy : response.policies()) texts.push_back(PolicyText(policy, console->columns));
    console->out << absl::StrJoin(texts, "\n");
    return outcome;
  }

 private:
  Connection connection_{kDefaultTimeoutSeconds};
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> NewPoliciesCommand() { return std::make_unique<PoliciesCommand>(); }

}  // namespace farspan::cli
