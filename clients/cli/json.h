// SPDX-License-Identifier: Apache-2.0
// JSON of the command line: proto3 JSON with the proto's field names and every primitive field printed.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>

#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

using Json = nlohmann::ordered_json;

// 64-bit integers are strings, bytes base64, as proto3 JSON has it.
Json ProtoJson(const google::protobuf::Message& message);

// {"token_id", "logprob", "text", "top": [...]}; null where nothing was chosen.
Json LogprobsJson(const v1::TokenLogprobs& logprobs);

// One line. Malformed UTF-8 becomes U+FFFD.
std::string JsonLine(const Json& json);

}  // namespace farspan::cli
