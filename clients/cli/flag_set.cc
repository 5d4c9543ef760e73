// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/flag_set.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace farspan::cli {
namespace {

constexpr size_t kQuotedCharacters = 64;

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, substituted}));
    }
  }
  return row.back();
}

absl::Status Prefixed(const std::string& name, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("--", name, ": ", status.message()));
}

absl::Status SetSwitch(const Flag& flag, bool negated, const std::optional<std::string>& value) {
  if (negated) {
    if (value) return absl::InvalidArgumentError(absl::StrCat("--no-", flag.name, ": takes no value"));
    return flag.set("false");
  }
  if (value && *value != "true" && *value != "false") {
    return absl::InvalidArgumentError(absl::StrCat("--", flag.name, ": must be true or false, got ", Quoted(*value)));
  }
  return Prefixed(flag.name, flag.set(value.value_or("true")));
}

}  // namespace

std::optional<std::string> NearestName(absl::string_view word, const std::vector<std::string>& candidates) {
  std::optional<std::string> nearest;
  size_t best = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string Wrap(absl::string_view text, int indent, int columns) {
  const std::string margin(static_cast<size_t>(indent), ' ');
  std::string result;
  std::string line = margin;
  for (const absl::string_view word :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ' ', absl::SkipEmpty())) {
    if (line.size() > margin.size() && line.size() + 1 + word.size() > static_cast<size_t>(columns)) {
      absl::StrAppend(&result, line, "\n");
      line = margin;
    }
    absl::StrAppend(&line, line.size() > margin.size() ? " " : "", word);
  }
  return absl::StrCat(result, line, "\n");
}

std::string Quoted(absl::string_view value) {
  const bool clipped = value.size() > kQuotedCharacters;
  const absl::string_view shown(value.data(), std::min(value.size(), kQuotedCharacters));
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(shown), clipped ? "..." : "", "'");
}

void FlagSet::Add(Flag flag) { flags_.push_back(std::move(flag)); }

void FlagSet::AddText(std::string name, std::string value_name, std::string doc, std::string* value) {
  Add({.name = std::move(name),
       .value_name = std::move(value_name),
       .doc = std::move(doc),
       .set = [value](const auto& v) {
         *value = v;
         return absl::OkStatus();
       }});
}

void FlagSet::AddText(std::string name, std::string value_name, std::string doc, std::optional<std::string>* value) {
  Add({.name = std::move(name),
       .value_name = std::move(value_name),
       .doc = std::move(doc),
       .set = [value](const auto& v) {
         *value = v;
         return absl::OkStatus();
       }});
}

void FlagSet::AddSwitch(std::string name, std::string doc, bool* value) {
  Add({.name = std::move(name), .doc = std::move(doc), .set = [value](const std::string& v) {
         *value = v == "true";
         return absl::OkStatus();
       }});
}

const Flag* FlagSet::Find(absl::string_view name) const {
  const auto found = std::find_if(flags_.begin(), flags_.end(), [&](const Flag& flag) { return flag.name == name; });
  return found == flags_.end() ? nullptr : &*found;
}

absl::Status FlagSet::Unknown(absl::string_view name) const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) {
    names.push_back(flag.name);
    if (flag.value_name.empty()) names.push_back(absl::StrCat("no-", flag.name));
  }
  const std::optional<std::string> nearest = NearestName(name, names);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag ", Quoted(absl::StrCat("--", std::string(name))),
                   nearest ? absl::StrCat(", did you mean --", *nearest, "?") : "; --help lists the flags"));
}

absl::Status FlagSet::Parse(const std::vector<std::string>& arguments) const {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!absl::StartsWith(argument, "--") || argument.size() == 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("unexpected argument ", Quoted(argument), "; values follow their flag, as in --prompt TEXT"));
    }
    const size_t equals = argument.find('=');
    std::string name = argument.substr(2, equals == std::string::npos ? std::string::npos : equals - 2);
    absl::StrReplaceAll({{"_", "-"}}, &name);
    std::optional<std::string> value;
    if (equals != std::string::npos) value = argument.substr(equals + 1);

    const Flag* flag = Find(name);
    const bool negated = flag == nullptr && absl::StartsWith(name, "no-");
    if (negated) flag = Find(absl::string_view(name).substr(3));
    if (flag == nullptr || (negated && !flag->value_name.empty())) return Unknown(name);

    if (flag->value_name.empty()) {
      if (absl::Status status = SetSwitch(*flag, negated, value); !status.ok()) return status;
      continue;
    }
    if (!value) {
      if (i + 1 == arguments.size() || absl::StartsWith(arguments[i + 1], "--")) {
        return absl::InvalidArgumentError(absl::StrCat("--", flag->name, ": needs a value (", flag->value_name,
                                                       "); one that begins with -- is written --", flag->name, "=..."));
      }
      value = arguments[++i];
    }
    if (absl::Status status = Prefixed(flag->name, flag->set(*value)); !status.ok()) return status;
    for (; flag->several && i + 1 < arguments.size() && !absl::StartsWith(arguments[i + 1], "--"); ++i) {
      if (absl::Status status = Prefixed(flag->name, flag->set(arguments[i + 1])); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

std::string FlagSet::Help(int columns) const {
  std::vector<std::string> groups;
  for (const Flag& flag : flags_) {
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  }
  std::string help;
  for (const std::string& group : groups) {
    absl::StrAppend(&help, help.empty() ? "" : "\n", group.empty() ? "Flags" : group, ":\n");
    for (const Flag& flag : flags_) {
      if (flag.group != group) continue;
      absl::StrAppend(&help, "  --", flag.value_name.empty() ? "[no-]" : "", flag.name,
                      flag.value_name.empty() ? "" : " ", flag.value_name, flag.repeated || flag.several ? " ..." : "",
                      "\n", Wrap(flag.doc, 6, columns));
    }
  }
  return help;
}

}  // namespace farspan::cli
