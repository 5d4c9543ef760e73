// SPDX-License-Identifier: Apache-2.0
// What GetServerInfo and ListAttentionPolicies say, read from the parts that run and from the messages' own rules.
#pragma once

#include "farspan/v1/model.pb.h"
#include "server/serving_context.h"

namespace farspan {

inline constexpr char kServerVersion[] = FARSPAN_VERSION;

void DescribeServer(const ServingContext& serving, v1::GetServerInfoResponse* out);
void DescribePolicies(const ServedModel& model, v1::ListAttentionPoliciesResponse* out);

}  // namespace farspan
