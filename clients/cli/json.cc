// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/json.h"

#include <google/protobuf/util/json_util.h>

#include <charconv>
#include <cmath>

#include "absl/strings/numbers.h"

namespace farspan::cli {
namespace {

// The double that prints with the float's own digits; proto3 JSON's strings for what JSON has no number for.
Json FloatJson(float value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value);
  double shortest = 0;
  std::from_chars(digits, end.ptr, shortest);
  return shortest;
}

Json LogprobJson(const v1::TokenLogprob& logprob) {
  return {{"token_id", logprob.token_id()}, {"logprob", FloatJson(logprob.logprob())}, {"text", logprob.text()}};
}

}  // namespace

Json ProtoJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return nullptr;
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

Json LogprobsJson(const v1::TokenLogprobs& logprobs) {
  if (!logprobs.has_chosen()) return nullptr;
  Json json = LogprobJson(logprobs.chosen());
  json["top"] = Json::array();
  for (const v1::TokenLogprob& candidate : logprobs.top()) json["top"].push_back(LogprobJson(candidate));
  return json;
}

std::string JsonLine(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

}  // namespace farspan::cli
