// SPDX-License-Identifier: Apache-2.0
// The flags of farspan-bench-model, which its main file explains. What is wrong ends the process with 64.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "engine/base/model_shape.h"
#include "engine/kernels/args.h"

namespace farspan {

[[noreturn]] inline void Fail(const std::string& problem) {
  std::fprintf(stderr, "farspan-bench-model: %s\n", problem.c_str());
  std::exit(64);
}

inline void Require(const absl::Status& status) {
  if (!status.ok()) Fail(status.ToString());
}

template <typename T>
T Require(absl::StatusOr<T> value) {
  Require(value.status());
  return *std::move(value);
}

struct Options {
  std::map<std::string, std::string> text = {{"model", ""},        {"device", "auto"},  {"threads", "2"},
                                             {"batch", "1"},       {"context", "1024"}, {"steps", "9"},
                                             {"prefill", ""},      {"depth", "0"},      {"kv-cache-dtype", "bf16"},
                                             {"chunk", "512"},     {"block-size", "0"}, {"warmups", "2"},
                                             {"decode-after", "0"}};
  std::vector<std::string> attention;
  bool cold = false;
  bool json = false;
  bool memory = false;

  std::vector<int64_t> numbers(const std::string& name) const {
    std::vector<int64_t> values;
    if (text.at(name).empty()) return values;
    for (const absl::string_view part : absl::StrSplit(text.at(name), ',')) {
      if (!absl::SimpleAtoi(part, &values.emplace_back()) || values.back() < 0) {
        Fail(absl::StrCat("--", name, ": must be counts between commas"));
      }
    }
    return values;
  }
  int64_t number(const std::string& name) const { return numbers(name).at(0); }
};

inline Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json" || flag == "--cold" || flag == "--memory") {
      (flag == "--json" ? options.json : flag == "--cold" ? options.cold : options.memory) = true;
    } else if (flag == "--attention" && i + 1 < argc) {
      options.attention.emplace_back(argv[++i]);
    } else {
      const auto place = flag.substr(0, 2) == "--" ? options.text.find(flag.substr(2)) : options.text.end();
      if (place == options.text.end() || i + 1 == argc) Fail(absl::StrCat("unknown or incomplete flag ", flag));
      place->second = argv[++i];
    }
  }
  if (options.text["model"].empty()) Fail("--model: must be given");
  if (options.attention.empty()) options.attention.emplace_back("dense { }");
  return options;
}

inline KvDtype DtypeOf(const std::string& name) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kF32, KvDtype::kF16, KvDtype::kF8E4M3}) {
    if (name == KvDtypeName(dtype)) return dtype;
  }
  Fail("--kv-cache-dtype: must be bf16, f32, fp16 or fp8");
}

inline kernels::RandomFormat FormatOf(kernels::KvElement element) {
  switch (element) {
    case kernels::KvElement::kBf16:
      return kernels::RandomFormat::kBf16;
    case kernels::KvElement::kF32:
      return kernels::RandomFormat::kF32;
    case kernels::KvElement::kF16:
      return kernels::RandomFormat::kF16;
    case kernels::KvElement::kF8E4M3:
      return kernels::RandomFormat::kF8E4M3;
  }
  FARSPAN_CHECK(false, "element=", static_cast<int>(element));
}

}  // namespace farspan
