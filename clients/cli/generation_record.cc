// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/generation_record.h"

namespace farspan::cli {

void GenerationRecord::Add(const v1::GenerateResponse& event) {
  switch (event.event_case()) {
    case v1::GenerateResponse::kStarted:
      has_started_ = true;
      started_ = event.started();
      break;
    case v1::GenerateResponse::kProgress:
      for (const auto& entry : event.progress().prompt_logprobs()) prompt_logprobs_.push_back(LogprobsJson(entry));
      break;
    case v1::GenerateResponse::kDelta:
      text_ += event.delta().text();
      token_ids_.insert(token_ids_.end(), event.delta().token_ids().begin(), event.delta().token_ids().end());
      for (const auto& entry : event.delta().logprobs()) logprobs_.push_back(LogprobsJson(entry));
      break;
    case v1::GenerateResponse::kFinished:
      complete_ = true;
      finished_ = event.finished();
      break;
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;  // an event of a later version
  }
}

Json GenerationRecord::ToJson() const {
  Json json = has_started_ ? ProtoJson(started_) : Json::object();
  if (complete_) json.update(ProtoJson(finished_));
  json["text"] = text_;
  json["token_ids"] = token_ids_;
  if (asked_.has_logprobs()) json["logprobs"] = logprobs_;
  if (asked_.has_prompt_logprobs()) json["prompt_logprobs"] = prompt_logprobs_;
  return json;
}

}  // namespace farspan::cli
