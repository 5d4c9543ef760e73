// SPDX-License-Identifier: Apache-2.0
// The engine's statistics as messages of the API.
#pragma once

#include "engine/attention/policy.h"
#include "engine/output.h"
#include "farspan/v1/inference.pb.h"

namespace farspan {

// Negative durations become zero.
void SetDuration(SteadyDuration duration, google::protobuf::Duration* out);

void SetUsage(const RequestStatistics& statistics, v1::Usage* out);
void SetTiming(const RequestStatistics& statistics, v1::Timing* out);
void SetKvStatistics(const RequestStatistics& statistics, PolicyMode mode, v1::KvStatistics* out);

}  // namespace farspan
