// SPDX-License-Identifier: Apache-2.0
// One generation from request to last event, shown as it runs.
#pragma once

#include "clients/cli/command.h"
#include "clients/cli/generation_record.h"
#include "clients/cli/generation_view.h"
#include "clients/cpp/client.h"

namespace farspan::cli {

// Ctrl-C cancels it. `record` holds what arrived, also on failure.
Outcome StreamGeneration(const Client& client, const Connection& connection, const v1::GenerateRequest& request,
                         const GenerationView::Options& view_options, GenerationRecord* record, Console* console);

}  // namespace farspan::cli
