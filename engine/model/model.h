// SPDX-License-Identifier: Apache-2.0
// A network: tokens and cached keys in, logits out. No memory of requests, no knowledge of policies.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/model_shape.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/forward_batch.h"
#include "engine/sampling/draw.h"

namespace farspan {

// Upper bound on the rows of one Logits call: bounds the logits buffer whatever a request asks for.
inline constexpr int64_t kMaxLogitRows = 64;

struct ModelInfo {
  std::string architecture;  // "llama"
  std::string name;          // from the file; may be empty
  std::string weights_id;    // identifies the weights: equal ids, equal logits
  int64_t num_parameters = 0;
  int64_t weight_bytes = 0;  // resident, after conversion
};

// Engine thread only. A row's result does not depend on the other rows of its batch.
class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelShape& shape() const = 0;
  virtual const ModelInfo& info() const = 0;
  // Rows of the largest batch that Forward takes.
  virtual int64_t max_batch_rows() const = 0;

  // Runs every layer, writes the rows' K and V into `kv`, and keeps the final hidden states of batch.logit_rows.
  // 1 <= batch.num_rows() <= max_batch_rows(). RESOURCE_EXHAUSTED when there was no memory for the step, which may be
  // run again; any other failure is a device fault.
  virtual absl::Status Forward(const ForwardBatch& batch, KvCache& kv) = 0;

  // Logits of logit_rows [first, first + count) of the last Forward, on the host: [count][vocab_size]. The span is
  // valid until the next call of either method. 0 <= count <= kMaxLogitRows.
  virtual absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) = 0;

  // What each request makes of its row of the last Forward, in their order; they ascend in rows, and two name the same
  // row only where at most one reads it. Fails as Forward does, for all of them: then nothing was drawn. This one draws
  // on the host from slices of Logits, so that neither memory nor the passes over the output matrix grow with the rows.
  virtual absl::StatusOr<std::vector<DrawResult>> Draw(std::span<const DrawRequest> requests);

  // Steps that may have begun and not ended: 1, or 2 where the device draws.
  virtual int64_t max_steps_in_flight() const { return 1; }
  // Begins a step: Forward, then Draw. Where two may be in flight it only enqueues both, and a token id of the batch
  // may be the DrawnTokenId of a logit row of the step begun last, from which that step draws a token that is not
  // given.
  virtual void BeginStep(const ForwardBatch& batch, std::span<const DrawRequest> draws, KvCache& kv);
  // The end of the oldest step that has not ended: what its Draw returns. After RESOURCE_EXHAUSTED the steps begun
  // behind that one mean nothing either; each is still to be ended.
  virtual absl::StatusOr<std::vector<DrawResult>> EndStep();

 private:
  std::optional<absl::StatusOr<std::vector<DrawResult>>> ended_step_;  // by BeginStep itself
};

}  // namespace farspan
