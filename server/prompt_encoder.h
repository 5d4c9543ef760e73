// SPDX-License-Identifier: Apache-2.0
// A request's prompt as the tokens that the model will read.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/ids.h"
#include "farspan/v1/inference.pb.h"
#include "server/served_model.h"

namespace farspan {

struct EncodedPrompt {
  std::vector<TokenId> tokens;
  std::string added_system_prompt;  // by the chat template, of its own
  bool bos_added = false;
};

// `prompt` has passed CheckRequest; `path` names it in errors. INVALID_ARGUMENT for an empty prompt, a token outside
// the vocabulary, or a chat that the model has no template for. Cost: that of tokenising; never on a gRPC thread.
absl::StatusOr<EncodedPrompt> EncodePrompt(const v1::Prompt& prompt, absl::string_view path, const ServedModel& model);

// The first of `ids` outside the vocabulary as a violation of `path`.
absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, const std::string& path,
                           int64_t vocab_size);

}  // namespace farspan
