// SPDX-License-Identifier: Apache-2.0
// Draw requests in the form that a device's op reads, and what the op wrote as results.
#pragma once

#include <span>
#include <vector>

#include "engine/kernels/draw_args.h"
#include "engine/sampling/draw.h"

namespace farspan {

struct DeviceDraws {
  std::vector<kernels::DrawRow> rows;  // the logit rows [first_row, first_row + num_rows), idle where nothing is asked
  std::vector<kernels::CountedToken> counts;
};

// `requests` ascend in logit rows, all in the given range, no two in one; each reads its logits.
DeviceDraws MakeDeviceDraws(std::span<const DrawRequest> requests, int64_t first_row, int64_t num_rows);

// The result of a request from what the op wrote for its row.
DrawResult DeviceDrawResult(const DrawRequest& request, const kernels::DrawnRow& drawn);

}  // namespace farspan
