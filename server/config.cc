// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/model/hash_model_options.h"
#include "engine/model/random_model_options.h"
#include "server/cpu_count.h"
#include "server/flag_table.h"

extern char** environ;

namespace farspan {
namespace {

constexpr absl::string_view kPrefix = "FARSPAN_";

std::string EnvironmentName(absl::string_view flag_name) {
  return absl::StrCat(kPrefix, absl::AsciiStrToUpper(absl::StrReplaceAll(flag_name, {{"-", "_"}})));
}

constexpr size_t kMaxShownBytes = 64;

// Variables that the clients, the scripts and the tests read; one environment may serve all.
bool IsOfOthers(absl::string_view name) {
  return name == "FARSPAN_SERVER" || name == "FARSPAN_CACHE_DIR" || name == "FARSPAN_TEST_MODEL" ||
         name == "FARSPAN_TEST_DEVICE";
}

std::string Shown(absl::string_view value) {
  const std::string escaped = absl::CHexEscape(value.substr(0, kMaxShownBytes));
  return absl::StrCat("\"", escaped, value.size() > kMaxShownBytes ? "..." : "", "\"");
}

// Fills a CommandLine; one instance for one command line.
class CommandLineReader {
 public:
  explicit CommandLineReader(CommandLine* out) : out_(*out) {}

  void ReadEnvironment(const Environment& environment) {
    for (const auto& [name, value] : environment) {
      bool known = IsOfOthers(name);
      for (const Flag& flag : FlagTable()) {
        if (EnvironmentName(flag.name) != name) continue;
        known = true;
        Set(flag, name, value, "environment");
      }
      if (!known) WarnOfVariable(name);
    }
  }

  void ReadArguments(const std::vector<std::string>& arguments) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const std::string& argument = arguments[i];
      if (!absl::StartsWith(argument, "--")) {
        ReadPositional(argument);
      } else if (ReadFlag(argument, i + 1 < arguments.size() ? &arguments[i + 1] : nullptr)) {
        ++i;
      }
    }
  }

  void CheckTogether() {
    const ServerConfig& config = out_.config;
    if (out_.action == CommandAction::kServe && config.model_path.empty() && !failed_.contains("model")) {
      Error("--model must be given: the path of a GGUF file, random: and a shape, or hash: for the hash model");
    }
    if (config.max_num_seqs && config.max_num_batched_tokens && *config.max_num_seqs > *config.max_num_batched_tokens) {
      Error(absl::StrCat("--max-num-seqs must not be above --max-num-batched-tokens (", *config.max_num_batched_tokens,
                         "), got ", *config.max_num_seqs));
    }
    if (config.max_num_queued_reqs_per_tenant.value_or(0) > config.max_num_queued_reqs) {
      Error(absl::StrCat("--max-num-queued-reqs-per-tenant must not be above --max-num-queued-reqs (",
                         config.max_num_queued_reqs, "), got ", *config.max_num_queued_reqs_per_tenant));
    }
    if (config.grpc_port != 0 && config.grpc_port == config.metrics_port) {
      Error(absl::StrCat("--metrics-port must differ from --grpc-port, got ", config.metrics_port, " for both"));
    }
    if (!config.on_loopback() && !config.insecure) {
      Error(
          absl::StrCat("--host must be a loopback address unless --insecure is given, since connections are not "
                       "encrypted, got ",
                       Shown(config.host)));
    }
    for (const Flag& flag : FlagTable()) {
      const auto source = sources_.find(flag.name);
      out_.values.push_back({std::string(flag.name), flag.show(config),
                             std::string(source == sources_.end() ? "default" : source->second)});
    }
  }

 private:
  void Error(std::string sentence) { out_.errors.push_back(std::move(sentence)); }

  void WarnOfVariable(absl::string_view name) {
    const std::string flag_name = absl::AsciiStrToLower(absl::StrReplaceAll(name.substr(kPrefix.size()), {{"_", "-"}}));
    const absl::string_view closest = ClosestFlagName(flag_name);
    out_.warnings.push_back(absl::StrCat(
        "the environment's ", absl::CHexEscape(name.substr(0, kMaxShownBytes)), " belongs to no flag and is ignored",
        closest.empty() ? "; --help lists all flags" : absl::StrCat("; did you mean ", EnvironmentName(closest), "?")));
  }

  void Set(const Flag& flag, absl::string_view shown_name, absl::string_view value, absl::string_view source) {
    const absl::Status status = flag.set(value, &out_.config);
    if (status.ok()) {
      sources_[flag.name] = source;
      return;
    }
    failed_.insert(flag.name);
    Error(absl::StrCat(shown_name, " ", status.message(), ", got ", Shown(value)));
  }

  void ReadPositional(const std::string& argument) {
    if (argument == "-h") {
      out_.action = CommandAction::kHelp;
    } else if (absl::StartsWith(argument, "-")) {
      Error(absl::StrCat("flags begin with two hyphens, got ", Shown(argument)));
    } else if (model_seen_) {
      Error(absl::StrCat("the model is given twice, the second time as ", Shown(argument)));
    } else {
      model_seen_ = true;
      Set(*FindFlag("model"), "--model", argument, "flag");
    }
  }

  // True when `next` was taken as the flag's value.
  bool ReadFlag(absl::string_view argument, const std::string* next) {
    absl::string_view name = argument.substr(2);
    std::optional<absl::string_view> value;
    if (const size_t equals = name.find('='); equals != absl::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    if (!value && ReadAction(name)) return false;
    const Flag* flag = FindFlag(name);
    if (flag != nullptr && flag->is_switch()) {
      Set(*flag, absl::StrCat("--", flag->name), value.value_or("true"), "flag");
      return false;
    }
    if (flag == nullptr) return ReadNegatedOrUnknown(name, value, next);
    if (flag->name == "model") model_seen_ = true;
    if (value || next != nullptr) {
      Set(*flag, absl::StrCat("--", flag->name), value ? *value : absl::string_view(*next), "flag");
    } else {
      failed_.insert(flag->name);
      Error(absl::StrCat("--", flag->name, " needs a value: ", flag->value_name));
    }
    return !value && next != nullptr;
  }

  bool ReadAction(absl::string_view name) {
    const std::string hyphenated = absl::StrReplaceAll(name, {{"_", "-"}});
    if (hyphenated == "help")
      out_.action = CommandAction::kHelp;
    else if (hyphenated == "version")
      out_.action = CommandAction::kVersion;
    else if (hyphenated == "print-config")
      out_.action = CommandAction::kPrintConfig;
    else
      return false;
    return true;
  }

  bool ReadNegatedOrUnknown(absl::string_view name, std::optional<absl::string_view> value, const std::string* next) {
    absl::string_view positive = name;
    if (absl::ConsumePrefix(&positive, "no-") || absl::ConsumePrefix(&positive, "no_")) {
      const Flag* flag = FindFlag(positive);
      if (flag != nullptr && flag->is_switch() && !value) {
        Set(*flag, absl::StrCat("--", name), "false", "flag");
        return false;
      }
    }
    const absl::string_view closest = ClosestFlagName(name);
    Error(absl::StrCat("unknown flag ", Shown(absl::StrCat("--", name)),
                       closest.empty() ? "; --help lists all" : absl::StrCat("; did you mean --", closest, "?")));
    return !value && next != nullptr && !absl::StartsWith(*next, "-");
  }

  CommandLine& out_;
  bool model_seen_ = false;
  std::map<absl::string_view, absl::string_view> sources_;
  std::set<absl::string_view> failed_;
};

// Absent where only the model's file says.
std::optional<int64_t> KnownContextTokens(const ServerConfig& config) {
  if (config.max_model_len) return config.max_model_len;
  if (IsHashModelName(config.model_path)) {
    if (const auto hash = ParseHashModelName(config.model_path); hash.ok()) return hash->context_tokens;
  } else if (IsRandomModelName(config.model_path)) {
    const auto random = ParseRandomModelName(config.model_path);
    if (random.ok()) return random->shape.spec.config.context_tokens;
  }
  return std::nullopt;
}

}  // namespace

ServerConfig::ServerConfig() { attention_policy.mutable_dense(); }

bool ServerConfig::on_loopback() const {
  in_addr address{};
  if (inet_pton(AF_INET, host.c_str(), &address) == 1) return (ntohl(address.s_addr) >> 24) == 127;
  return host == "localhost" || host == "::1";
}

CommandLine ParseCommandLine(const std::vector<std::string>& arguments, const Environment& environment) {
  CommandLine line;
  CommandLineReader reader(&line);
  reader.ReadEnvironment(environment);
  reader.ReadArguments(arguments);
  reader.CheckTogether();
  return line;
}

Environment ProcessEnvironment() {
  Environment variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    const size_t equals = text.find('=');
    if (!absl::StartsWith(text, kPrefix) || equals == absl::string_view::npos) continue;
    variables.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

std::string HelpText() {
  std::string text =
      "farspan-server: serves a language model over gRPC, with a long-context attention policy for each request.\n"
      "\nUsage: farspan-server --model PATH [flags]\n\n"
      "Each flag can also be set in the environment: --max-num-seqs as FARSPAN_MAX_NUM_SEQS. Flags come before the\n"
      "environment. Underscores are taken as hyphens; a switch is turned off by --no-NAME.\n\n";
  const ServerConfig defaults;
  for (const Flag& flag : FlagTable()) {
    const std::string shown = flag.show(defaults);
    absl::StrAppend(&text, "  --", flag.name, flag.is_switch() ? "" : " ", flag.value_name, "\n      ", flag.doc);
    absl::StrAppend(&text, shown.empty() ? "" : absl::StrCat(" [", shown, "]"), "\n");
  }
  absl::StrAppend(&text,
                  "  --print-config\n      Prints the effective settings with their sources, and ends.\n"
                  "  --version\n      Prints the version, and ends.\n  --help\n      Prints this text, and ends.\n\n"
                  "The hash model needs no file and answers with text that is a hash of what it read, in step times of "
                  "your choice:\n"
                  "for tests of load and of clients. --model hash:step_us=500,context=4096 sets, beside defaults:\n",
                  HashModelOptionsText(),
                  "\nA random model has the shape of a real one and weights that a generator makes on the device, for "
                  "measurements: its "
                  "text is\nnoise. --model random:llama-3.1-8b,weights=q4_0 sets, beside defaults:\n",
                  RandomModelOptionsText(),
                  "\nExit codes: 0 drained; 3 drained, but requests were cut; 64 wrong flags, or flags that ask for\n"
                  "more memory than there is; 70 internal error or a port in use; 75 device lost; 78 the model file "
                  "cannot be\nserved.\n");
  return text;
}

absl::StatusOr<DeviceChoice> ChooseServedDevice(const ServerConfig& config) {
  if (!IsHashModelName(config.model_path)) return ChooseDevice(config.device);
  return ChooseCpu(config.device, "the hash model");
}

BatchLimits BatchLimitsOn(bool gpu, const ServerConfig& config) {
  BatchLimits limits = gpu ? BatchLimits{.max_num_seqs = 256, .max_num_batched_tokens = 8192}
                           : BatchLimits{.max_num_seqs = 64, .max_num_batched_tokens = 512};
  if (config.max_num_batched_tokens) {
    limits.max_num_batched_tokens = *config.max_num_batched_tokens;
  } else if (config.max_num_seqs) {
    limits.max_num_batched_tokens = std::max(limits.max_num_batched_tokens, *config.max_num_seqs);
  }
  limits.max_num_seqs = config.max_num_seqs.value_or(std::min(limits.max_num_seqs, limits.max_num_batched_tokens));
  return limits;
}

std::string ServedModelName(const ServerConfig& config) {
  if (!config.served_model_name.empty()) return config.served_model_name;
  if (IsHashModelName(config.model_path)) return "hash";
  if (IsRandomModelName(config.model_path)) {
    // "llama-3.1-8b" for "random:llama-3.1-8b,seed=1" and "random:/models/llama-3.1-8b.json".
    const std::string shape = config.model_path.substr(config.model_path.find(':') + 1);
    const std::filesystem::path path(shape.substr(0, shape.find(',')));
    return absl::StrCat("random-", path.extension() == ".json" ? path.stem().string() : path.string());
  }
  return std::filesystem::path(config.model_path).stem().string();
}

std::vector<ConfigValue> WithDeviceChosen(const CommandLine& line) {
  const ServerConfig& config = line.config;
  const absl::StatusOr<DeviceChoice> choice = ChooseServedDevice(config);
  std::map<std::string, int64_t> resolved = {
      {"threads", config.threads ? *config.threads : AvailableCores()},
      {"max-num-queued-reqs-per-tenant", config.max_num_queued_reqs_per_tenant.value_or(config.max_num_queued_reqs)}};
  if (choice.ok()) {
    const BatchLimits limits = BatchLimitsOn(choice->is_cuda(), config);
    resolved["max-num-seqs"] = limits.max_num_seqs;
    resolved["max-num-batched-tokens"] = limits.max_num_batched_tokens;
    resolved["block-size"] = config.block_size.value_or(DefaultPageTokens(*choice));
  }
  if (const std::optional<int64_t> context = KnownContextTokens(config)) {
    resolved["max-model-len"] = *context;
    resolved["max-num-queued-tokens"] = config.max_num_queued_tokens.value_or(kQueuedContexts * *context);
  }
  std::vector<ConfigValue> values = line.values;
  for (ConfigValue& value : values) {
    const auto place = resolved.find(value.name);
    if (place != resolved.end()) value.value = absl::StrCat(place->second);
    if (value.name == "served-model-name") value.value = ServedModelName(config);
    if (value.name != "device") continue;
    absl::StrAppend(&value.source, ": ", choice.ok() ? choice->reason : std::string(choice.status().message()));
    if (choice.ok()) value.value = choice->name;
  }
  return values;
}

std::string ConfigText(const std::vector<ConfigValue>& values) {
  std::string text;
  for (const ConfigValue& value : values) {
    absl::StrAppend(&text, value.name, " = ", value.value, "  # ", value.source, "\n");
  }
  return text;
}

}  // namespace farspan
