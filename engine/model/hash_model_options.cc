// SPDX-License-Identifier: Apache-2.0
#include "engine/model/hash_model_options.h"

#include <array>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/absl_view.h"

namespace farspan {
namespace {

constexpr char kPrefix[] = "hash:";

struct Setting {
  const char* name;
  int64_t HashModelOptions::*field;
  int64_t minimum;
  int64_t maximum;
  const char* doc;
};

constexpr std::array<Setting, 7> kSettings = {{
    {"step_us", &HashModelOptions::step_us, 0, 60'000'000, "microseconds that each step takes"},
    {"prefill_us_per_token", &HashModelOptions::prefill_us_per_token, 0, 1'000'000,
     "microseconds more for each prompt token of a step"},
    {"decode_us_per_row", &HashModelOptions::decode_us_per_row, 0, 1'000'000,
     "microseconds more for each decode row of a step"},
    {"context", &HashModelOptions::context_tokens, 16, 1 << 24, "tokens of prompt and output together"},
    {"layers", &HashModelOptions::num_layers, 1, 64, "layers, each of which reads the one below"},
    {"load_ms", &HashModelOptions::load_ms, 0, 3'600'000, "milliseconds that loading takes"},
    {"fail_at_step", &HashModelOptions::fail_at_step, 0, int64_t{1} << 40,
     "the step from which on the device fails; 0 for never"},
}};

const Setting* FindSetting(std::string_view name) {
  for (const Setting& setting : kSettings) {
    if (name == setting.name) return &setting;
  }
  return nullptr;
}

std::string SettingNames() {
  std::string names;
  for (const Setting& setting : kSettings) absl::StrAppend(&names, names.empty() ? "" : ", ", setting.name);
  return names;
}

absl::Status Set(std::string_view assignment, HashModelOptions* options) {
  const size_t equals = assignment.find('=');
  const Setting* setting = FindSetting(assignment.substr(0, equals));
  if (setting == nullptr || equals == std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be hash: with NAME=VALUE pairs between commas, NAME one of ", SettingNames()));
  }
  int64_t value = 0;
  if (!absl::SimpleAtoi(AbslView(assignment.substr(equals + 1)), &value) || value < setting->minimum ||
      value > setting->maximum) {
    return absl::InvalidArgumentError(absl::StrCat("must have a whole number from ", setting->minimum, " to ",
                                                   setting->maximum, " as ", setting->name));
  }
  options->*setting->field = value;
  return absl::OkStatus();
}

}  // namespace

bool IsHashModelName(std::string_view name) { return absl::StartsWith(AbslView(name), kPrefix); }

absl::StatusOr<HashModelOptions> ParseHashModelName(std::string_view name) {
  HashModelOptions options;
  if (!IsHashModelName(name)) return absl::InvalidArgumentError("must begin with hash:");
  const std::string_view settings = name.substr(sizeof(kPrefix) - 1);
  if (settings.empty()) return options;
  for (const absl::string_view assignment : absl::StrSplit(AbslView(settings), ',')) {
    if (absl::Status status = Set(std::string(assignment), &options); !status.ok()) return status;
  }
  return options;
}

std::string HashModelOptionsText() {
  const HashModelOptions defaults;
  std::string text;
  for (const Setting& setting : kSettings) {
    absl::StrAppend(&text, "  ", setting.name, "=", defaults.*setting.field, "  ", setting.doc, " (", setting.minimum,
                    " to ", setting.maximum, ")\n");
  }
  return text;
}

}  // namespace farspan
