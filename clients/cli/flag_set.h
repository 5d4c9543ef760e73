// SPDX-License-Identifier: Apache-2.0
// The flags of one command: parsing, help, and what to say about a wrong one.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace farspan::cli {

// `--name VALUE` or `--name=VALUE`; a switch is `--name` or `--no-name`. Underscores in a name count as hyphens.
struct Flag {
  std::string name;
  std::string value_name;  // what the help calls the value; empty for a switch
  std::string doc;         // sentences
  std::string group;       // heading in the help
  bool repeated = false;   // each occurrence adds a value; otherwise the last one counts
  bool several = false;    // takes every argument up to the next flag as a value
  // Takes the value ("true" or "false" for a switch); an error's message follows "--name: ".
  std::function<absl::Status(const std::string&)> set;
};

class FlagSet {
 public:
  void Add(Flag flag);
  void AddText(std::string name, std::string value_name, std::string doc, std::string* value);
  void AddText(std::string name, std::string value_name, std::string doc, std::optional<std::string>* value);
  void AddSwitch(std::string name, std::string doc, bool* value);

  // INVALID_ARGUMENT with one sentence for the first argument that is wrong.
  absl::Status Parse(const std::vector<std::string>& arguments) const;

  // The flags by group, in the order added, wrapped at `columns`.
  std::string Help(int columns) const;

  const std::vector<Flag>& flags() const { return flags_; }

 private:
  const Flag* Find(absl::string_view name) const;
  absl::Status Unknown(absl::string_view argument) const;

  std::vector<Flag> flags_;
};

// The candidate nearest to `word`, or none where nothing is near: for "did you mean".
std::optional<std::string> NearestName(absl::string_view word, const std::vector<std::string>& candidates);

// `text` in lines of at most `columns`, each after `indent` spaces.
std::string Wrap(absl::string_view text, int indent, int columns);

// At most 64 characters of a value, control characters escaped, in quotes.
std::string Quoted(absl::string_view value);

}  // namespace farspan::cli
