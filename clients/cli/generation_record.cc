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
      AddDelta(event.delta());
      break;
    case v1::GenerateResponse::kFinished:
      complete_ = true;
      finished_ = event.finished();
      break;
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;  // an event of a later version
  }
}

void GenerationRecord::AddDelta(const v1::GenerationDelta& delta) {
  constexpr int32_t kMaxSamples = 1024;  // far above what a server gives, so that a broken one cannot fill the memory
  if (delta.sample_index() < 0 || delta.sample_index() >= kMaxSamples) return;
  const auto index = static_cast<size_t>(delta.sample_index());
  if (index >= samples_.size()) samples_.resize(index + 1);
  Sample& sample = samples_[index];
  sample.text += delta.text();
  sample.token_ids.insert(sample.token_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
  for (const auto& entry : delta.logprobs()) sample.logprobs.push_back(LogprobsJson(entry));
}

void GenerationRecord::PutSample(const Sample& sample, Json* json) const {
  (*json)["text"] = sample.text;
  (*json)["token_ids"] = sample.token_ids;
  if (asked_.has_logprobs()) (*json)["logprobs"] = sample.logprobs;
}

Json GenerationRecord::ToJson() const {
  Json json = has_started_ ? ProtoJson(started_) : Json::object();
  if (complete_) json.update(ProtoJson(finished_));
  json.erase("samples");
  PutSample(samples_.front(), &json);
  for (size_t i = 0; samples_.size() > 1 && i < samples_.size(); ++i) {
    const int index = static_cast<int>(i);
    Json sample = index < finished_.samples_size() ? ProtoJson(finished_.samples(index)) : Json::object();
    PutSample(samples_[i], &sample);
    json["samples"].push_back(std::move(sample));
  }
  if (asked_.has_prompt_logprobs()) json["prompt_logprobs"] = prompt_logprobs_;
  return json;
}

}  // namespace farspan::cli
