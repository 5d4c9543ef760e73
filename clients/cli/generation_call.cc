// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/generation_call.h"

namespace farspan::cli {

Outcome StreamGeneration(const Client& client, const Connection& connection, const v1::GenerateRequest& request,
                         const GenerationView::Options& view_options, GenerationRecord* record, Console* console) {
  const Interrupt::Action action(&console->interrupt);
  GenerationView view(console, view_options);
  CallProgress progress{.target = connection.Target(*console)};
  bool writable = true;
  const auto on_event = [&](const v1::GenerateResponse& event) {
    progress.answered = true;
    record->Add(event);
    writable = view.Show(event);
    return writable;
  };
  const absl::Status status = client.Generate(request, on_event, connection.Options(action));
  view.Finish();
  for (size_t i = 1; view_options.text && i < record->num_samples(); ++i) view.ShowSample(i, record->text(i));
  if (!writable) return {ExitCode::kOutputFailed, "the output cannot be written"};
  progress.interrupted = action.interrupted();
  if (!status.ok()) return CallFailure(status, progress);
  if (!record->complete()) return {ExitCode::kRequestFailed, "the server ended the stream without its last event"};
  return {};
}

}  // namespace farspan::cli
