// SPDX-License-Identifier: Apache-2.0
// A call with one answer whose work is too slow for a gRPC thread.
#pragma once

#include <functional>

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/string_view.h"
#include "server/serving_context.h"

namespace farspan {

// Admits the call like any other, runs `work` in the text pool, and ends the call with its status. `work` fills the
// response, which like the request lives until then. `method` lives for ever.
grpc::ServerUnaryReactor* RunUnaryCall(grpc::CallbackServerContext* context, const ServingContext* serving,
                                       absl::string_view method, const google::protobuf::Message& request,
                                       const google::protobuf::Message& response, std::function<absl::Status()> work);

}  // namespace farspan
