// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/attention_flag.h"
#include "clients/cli/command.h"
#include "clients/cli/display_text.h"
#include "clients/cli/json.h"
#include "clients/cli/text_table.h"
#include "clients/cli/unary_call.h"
#include "clients/cli/units.h"

namespace farspan::cli {
namespace {

constexpr double kDefaultTimeoutSeconds = 10;

std::string Cell(absl::string_view text) { return EscapeControls(text, Controls::kEscapeAll); }

std::string ModelText(const v1::ServedModel& model) {
  return absl::StrCat(Cell(model.name()), ", ", Cell(model.architecture()), ", ", model.parameters_count(),
                      " parameters, ", BytesText(model.weight_bytes()), " of weights");
}

std::string ShapeText(const v1::ServedModel& model) {
  return absl::StrCat(model.layers_count(), " layers, ", model.heads_count(), " heads on ", model.kv_heads_count(),
                      " KV heads of ", model.head_size(), ", vocabulary ", model.vocabulary_size());
}

std::string CacheText(const v1::KvCacheInfo& cache) {
  return absl::StrCat(BytesText(cache.total_bytes()), " of ", Cell(cache.dtype()), ", ", cache.pages_count(),
                      " pages of ", cache.page_tokens(), " tokens, ", BytesText(cache.bytes_per_token()), " a token");
}

std::string InfoText(const v1::GetServerInfoResponse& info) {
  const std::pair<std::string, std::string> facts[] = {
      {"server", absl::StrCat(Cell(info.server_version()), ", API ", Cell(info.api_version()), ", gRPC ",
                              Cell(info.grpc_version()))},
      {"backend", absl::StrCat(Cell(info.backend()), ", ", info.threads_count(), " threads")},
      {"device", absl::StrCat(Cell(info.device()), ", ", Cell(info.device_reason()))},
      {"model", ModelText(info.model())},
      {"shape", ShapeText(info.model())},
      {"context", absl::StrCat(info.model().max_context_tokens(), " tokens")},
      {"chat", info.model().chat_supported() ? "yes" : "no chat template"},
      {"KV cache", CacheText(info.kv_cache())},
      {"default policy", AttentionLabel(info.default_attention())},
      {"fingerprint", Cell(info.system_fingerprint())},
  };
  std::string text;
  for (const auto& [name, value] : facts) absl::StrAppendFormat(&text, "%-15s %s\n", name, value);
  if (info.config_size() == 0) return text;
  TextTable table{.header = {"setting", "value", "source"}, .rows = {}};
  for (const v1::ConfigEntry& entry : info.config()) {
    table.rows.push_back({Cell(entry.name()), Cell(entry.value()), Cell(entry.source())});
  }
  return absl::StrCat(text, "\n", RenderTable(table));
}

class InfoCommand final : public Command {
 public:
  std::string name() const override { return "info"; }
  std::string summary() const override { return "show the server, its model, memory and settings"; }
  std::vector<std::string> examples() const override { return {"farspan info", "farspan info --json"}; }

  void AddFlags(FlagSet* flags) override {
    flags->AddSwitch("json", "Prints the answer as one JSON object.", &json_);
    connection_.AddTo(flags);
  }

  Outcome Run(Console* console) override {
    v1::GetServerInfoResponse info;
    const auto call = [](const Client& client, const CallOptions& options) { return client.GetServerInfo(options); };
    Outcome outcome = CallServer(connection_, console, call, &info);
    if (outcome.code == ExitCode::kOk) console->out << (json_ ? JsonLine(ProtoJson(info)) : InfoText(info));
    return outcome;
  }

 private:
  Connection connection_{kDefaultTimeoutSeconds};
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> NewInfoCommand() { return std::make_unique<InfoCommand>(); }

}  // namespace farspan::cli
