// SPDX-License-Identifier: Apache-2.0
#include "tests/simulation/invariants.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

constexpr int32_t kNobody = -1;

// One holder of each page: index into accounting.sequences and the logical page.
struct Holder {
  int32_t sequence = kNobody;
  int64_t logical_page = 0;
};

KvFingerprint FingerprintOf(const SequenceAccount& sequence, int64_t end_token) {
  const AttentionPolicy& policy = *sequence.request->policy;
  const bool prompt_alone = end_token <= static_cast<int64_t>(sequence.request->prompt.size());
  return prompt_alone ? policy.prefill_fingerprint() : policy.decode_fingerprint();
}

bool MayShare(const SequenceAccount& a, const SequenceAccount& b, int64_t end_token) {
  // Samples of one request share the prompt's last page until one of them writes to it.
  if (a.request == b.request) return true;
  return a.request->tenant == b.request->tenant && FingerprintOf(a, end_token) == FingerprintOf(b, end_token);
}

}  // namespace

void CheckPages(const EngineAccounting& accounting, Verdict* verdict) {
  std::vector<int32_t> holders(accounting.reference_counts.size(), 0);
  for (const SequenceAccount& sequence : accounting.sequences) {
    for (const PageId page : sequence.pages) {
      if (page != EngineAccounting::kNoPage) ++holders[static_cast<size_t>(page)];
    }
    if (!sequence.running && std::any_of(sequence.pages.begin(), sequence.pages.end(),
                                         [](PageId page) { return page != EngineAccounting::kNoPage; })) {
      verdict->Fail("page_accounting", "a waiting request holds pages");
    }
  }
  for (const PageId page : accounting.cached_pages) ++holders[static_cast<size_t>(page)];
  int64_t num_held = 0;
  for (size_t page = 0; page < holders.size(); ++page) {
    num_held += holders[page] > 0 ? 1 : 0;
    if (holders[page] == accounting.reference_counts[page]) continue;
    return verdict->Fail("page_accounting", absl::StrCat("page ", page, " has ", accounting.reference_counts[page],
                                                         " references and ", holders[page], " holders"));
  }
  const auto num_pages = static_cast<int64_t>(holders.size());
  if (accounting.num_free_pages + num_held != num_pages) {
    verdict->Fail("page_accounting",
                  absl::StrCat(accounting.num_free_pages, " pages are free and ", num_held, " held, of ", num_pages));
  }
}

void CheckSharing(const EngineAccounting& accounting, int64_t page_tokens, const TokenAt& token_at, Verdict* verdict) {
  std::vector<Holder> holders(accounting.reference_counts.size());
  for (size_t s = 0; s < accounting.sequences.size(); ++s) {
    const SequenceAccount& sequence = accounting.sequences[s];
    for (size_t logical = 0; logical < sequence.pages.size(); ++logical) {
      if (sequence.pages[logical] == EngineAccounting::kNoPage) continue;
      Holder& holder = holders[static_cast<size_t>(sequence.pages[logical])];
      const auto logical_page = static_cast<int64_t>(logical);
      if (holder.sequence == kNobody) {
        holder = {static_cast<int32_t>(s), logical_page};
        continue;
      }
      const SequenceAccount& other = accounting.sequences[static_cast<size_t>(holder.sequence)];
      const int64_t end = std::min({(logical_page + 1) * page_tokens, sequence.computed_tokens, other.computed_tokens});
      bool same = holder.logical_page == logical_page && MayShare(other, sequence, (logical_page + 1) * page_tokens);
      for (int64_t position = 0; same && position < end; ++position) {
        same = token_at(other, position) == token_at(sequence, position);
      }
      if (same) continue;
      return verdict->Fail("page_sharing",
                           absl::StrCat("page ", static_cast<int32_t>(sequence.pages[logical]),
                                        " is shared by requests ", other.request->id, " and ", sequence.request->id,
                                        " as their pages ", holder.logical_page, " and ", logical_page));
    }
  }
}

void CheckGauges(const EngineAccounting& accounting, const EngineGauges& gauges, Verdict* verdict) {
  std::vector<bool> used(accounting.reference_counts.size(), false);
  for (const SequenceAccount& sequence : accounting.sequences) {
    for (const PageId page : sequence.pages) {
      if (page != EngineAccounting::kNoPage) used[static_cast<size_t>(page)] = true;
    }
  }
  const int64_t num_used = std::count(used.begin(), used.end(), true);
  const auto num_cached = std::count_if(accounting.cached_pages.begin(), accounting.cached_pages.end(),
                                        [&used](PageId page) { return !used[static_cast<size_t>(page)]; });
  if (gauges.kv_pages_free != accounting.num_free_pages || gauges.kv_pages_used != num_used ||
      gauges.kv_pages_cached != num_cached) {
    verdict->Fail("gauges", absl::StrCat("published are ", gauges.kv_pages_free, " free, ", gauges.kv_pages_used,
                                         " used and ", gauges.kv_pages_cached, " cached pages; held are ",
                                         accounting.num_free_pages, ", ", num_used, " and ", num_cached));
  }
}

void CheckPolicyGauges(const EngineAccounting& accounting, const EngineGauges& gauges, int64_t page_bytes,
                       Verdict* verdict) {
  std::map<std::string_view, PolicyGauges> held;
  for (const SequenceAccount& sequence : accounting.sequences) {
    PolicyGauges& gauge = held[sequence.request->policy->name()];
    ++(sequence.running ? gauge.requests_running : gauge.requests_waiting);
    gauge.resident_bytes +=
        page_bytes * (std::ssize(sequence.pages) -
                      std::count(sequence.pages.begin(), sequence.pages.end(), EngineAccounting::kNoPage));
  }
  for (const PolicyGauges& published : gauges.policies) {
    const PolicyGauges expected = std::exchange(held[published.policy], {});
    if (published.requests_running == expected.requests_running &&
        published.requests_waiting == expected.requests_waiting &&
        published.resident_bytes == expected.resident_bytes) {
      continue;
    }
    verdict->Fail("gauges", absl::StrCat("published for a policy are ", published.requests_running, " running, ",
                                         published.requests_waiting, " waiting and ", published.resident_bytes,
                                         " bytes; held are ", expected.requests_running, ", ",
                                         expected.requests_waiting, " and ", expected.resident_bytes));
  }
  for (const auto& [policy, left] : held) {
    if (left.requests_running + left.requests_waiting > 0) verdict->Fail("gauges", "a policy was not published");
  }
}

}  // namespace farspan
