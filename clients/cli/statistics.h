// SPDX-License-Identifier: Apache-2.0
// What a finished generation cost, for people.
#pragma once

#include <string>

#include "farspan/v1/inference.pb.h"

namespace farspan::cli {

// "prompt 5865 tokens (4096 cached), generated 14, TTFT 12.3 s, TPOT 31.0 ms, peak KV 66.0 MiB, KV read 4.10 GiB (12 %
// of dense), preempted once".
std::string StatisticsLine(const v1::GenerationFinished& finished);

int64_t ReadBytes(const v1::KvStatistics& kv);
int64_t DenseReadBytes(const v1::KvStatistics& kv);

}  // namespace farspan::cli
