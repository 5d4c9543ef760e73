// SPDX-License-Identifier: Apache-2.0
#include "clients/cpp/event_stream.h"

#include <grpcpp/client_context.h>

#include <utility>

namespace farspan {

// TryCancel may run the stream's callbacks before it returns, so the lock is not held around it.
void CancellableCall::Cancel() {
  std::shared_ptr<grpc::ClientContext> context;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    context = context_;
  }
  if (context) context->TryCancel();
}

void CancellableCall::Attach(std::shared_ptr<grpc::ClientContext> context) {
  bool cancelled = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    context_ = context;
    cancelled = cancelled_;
  }
  if (cancelled) context->TryCancel();
}

}  // namespace farspan
