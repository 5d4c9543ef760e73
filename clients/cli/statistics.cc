// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/statistics.h"

#include "absl/strings/str_cat.h"
#include "clients/cli/units.h"

namespace farspan::cli {

int64_t ReadBytes(const v1::KvStatistics& kv) { return kv.prefill_read_bytes() + kv.decode_read_bytes(); }

int64_t DenseReadBytes(const v1::KvStatistics& kv) {
  return kv.prefill_dense_read_bytes() + kv.decode_dense_read_bytes();
}

namespace {

std::string PreemptionsText(int64_t preemptions) {
  if (preemptions == 0) return "";
  return preemptions == 1 ? ", preempted once" : absl::StrCat(", preempted ", preemptions, " times");
}

}  // namespace

std::string StatisticsLine(const v1::GenerationFinished& finished) {
  const v1::Timing& timing = finished.timing();
  const v1::KvStatistics& kv = finished.kv();
  return absl::StrCat("prompt ", finished.usage().prompt_tokens_count(), " tokens (",
                      finished.usage().cached_prompt_tokens_count(), " cached), generated ",
                      finished.usage().generated_tokens_count(), ", TTFT ", DurationText(timing.ttft_duration()),
                      timing.has_tpot_duration() ? absl::StrCat(", TPOT ", DurationText(timing.tpot_duration())) : "",
                      ", peak KV ", BytesText(kv.peak_resident_bytes()), ", KV read ", BytesText(ReadBytes(kv)), " (",
                      ShareText(ReadBytes(kv), DenseReadBytes(kv)), " of dense)",
                      PreemptionsText(timing.preemptions_count()));
}

}  // namespace farspan::cli
