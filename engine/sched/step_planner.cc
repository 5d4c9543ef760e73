// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/step_planner.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

// Waiting requests that one plan looks past at most: bounds the cost of a plan while the pool is full.
constexpr int kMaxBlocked = 8;
constexpr int64_t kAnyPriority = std::numeric_limits<int64_t>::max();

// How the sequence must end now, if it must.
std::optional<Outcome> OutcomeAt(const Sequence& sequence, SteadyTime now) {
  const RequestGroup& group = sequence.group();
  const Request& request = group.request();
  if (sequence.outcome()) return sequence.outcome();
  if (group.handle().stopped(sequence.sample())) return Outcome{.reason = FinishReason::kStop};
  if (group.failure()) return group.failure();
  if (group.handle().cancelled()) {
    return Outcome{.reason = FinishReason::kCancelled, .status = absl::CancelledError("the request was cancelled")};
  }
  if (request.deadline <= now) {
    return Outcome{
        .reason = FinishReason::kDeadline,
        .status = absl::DeadlineExceededError(absl::StrCat("the deadline passed in phase ", PhaseName(sequence.phase()),
                                                           " after ", sequence.num_generated(), " tokens"))};
  }
  if (!group.started() && request.queue_deadline <= now) {
    return Outcome{.reason = FinishReason::kQueueTimeout,
                   .status = absl::ResourceExhaustedError("the request waited too long without being started")};
  }
  return std::nullopt;
}

// A leader's pages serve a fork while they hold the whole prompt, or all that its last token reads.
bool CanBeForked(const Sequence& leader) {
  return !leader.prefilling() &&
         (leader.block_table().dropped_tokens() == 0 || leader.scheduled() == leader.prompt_tokens());
}

// Tokens that the row at `position` reads.
int64_t DepthOf(const Sequence& sequence, int64_t position) {
  const AttentionPlan plan = sequence.request().policy->Plan(
      {.queries = {.begin = position, .end = position + 1}, .prompt_tokens = sequence.prompt_tokens()});
  int64_t depth = 0;
  for (const ReadRange& range : plan.reads) depth += range.tokens.size();
  return depth;
}

}  // namespace

StepPlanner::StepPlanner(const SchedulerView& view, SteadyTime now)
    : view_(view),
      now_(now),
      batch_{.pages = PageLedger(&view.pool),
             .seats = view.limits.max_num_seqs - std::ssize(view.running),
             .num_running = std::ssize(view.running)},
      rows_(view.limits.max_num_batched_tokens) {
  for (const auto* list : {&view.running, &view.waiting}) {
    for (const auto& sequence : *list) {
      const bool leads = !sequence->follows() && sequence->request().num_samples > 1;
      if (leads && sequence->computed() < sequence->prompt_tokens()) computing_leaders_.insert(sequence->id());
    }
  }
}

StepPlan StepPlanner::Plan() {
  PlanEnds();
  PlanUrgent();
  PlanForks();
  PlanDecodeRows();
  AdmitUrgent();
  PlanChunks();
  PlanAdmissions();
  plan_.preempt = batch_.preempted;
  FailHeadIfStuck();
  return std::move(plan_);
}

void StepPlanner::PlanEnds() {
  for (const auto& sequence : view_.running) {
    const BlockTable& table = sequence->block_table();
    for (const PageId page : HeldPages(table, table.PagesInside(sequence->pending_drop()))) batch_.pages.LetGo(page);
    if (std::optional<Outcome> outcome = OutcomeAt(*sequence, now_)) {
      plan_.retire.push_back({sequence->id(), *std::move(outcome)});
      ended_.insert(sequence->id());
      ++batch_.seats;
      --batch_.num_running;
    } else {
      batch_.ranked.push_back(sequence.get());
    }
  }
  std::sort(batch_.ranked.begin(), batch_.ranked.end(),
            [](const Sequence* a, const Sequence* b) { return Scheduler::RanksBefore(*a, *b); });
  absl::flat_hash_set<SequenceId> may_be_forked;
  for (const auto& sequence : view_.waiting) {
    if (std::optional<Outcome> outcome = OutcomeAt(*sequence, now_)) {
      plan_.retire.push_back({sequence->id(), *std::move(outcome)});
      ended_.insert(sequence->id());
    } else if (sequence->follows()) {
      may_be_forked.insert(sequence->leader());
    }
  }
  // Pages that a fork of this plan shares with its retiring leader do not come back.
  for (const auto& sequence : view_.running) {
    if (Ends(sequence->id()) && !may_be_forked.contains(sequence->id())) batch_.pages.LetGoOfAll(*sequence);
  }
}

// A better priority may take the place of worse ones, where that is enough to begin.
void StepPlanner::PlanUrgent() {
  if (batch_.ranked.empty()) return;
  const WaitingLine line = Line(batch_.ranked.back()->request().priority);
  if (line.empty()) return;
  const Sequence& first = line.Front();
  const PrefixMatch match = FindPrefix(first, view_.index);
  const auto fits = [&]() { return batch_.seats > 0 && Fits(first, match); };
  const Batch before = batch_;
  while (!fits() && !batch_.ranked.empty() && batch_.ranked.back()->request().priority > first.request().priority) {
    Preempt(*batch_.ranked.back());
  }
  if (fits()) {
    urgent_ = &first;
  } else {
    batch_ = before;
  }
}

void StepPlanner::PlanForks() {
  for (const auto& sequence : view_.waiting) {
    if (!sequence->follows() || Ends(sequence->id())) continue;
    const Sequence* leader = FindRunning(sequence->leader());
    if (leader == nullptr || Preempted(leader->id()) || !CanBeForked(*leader)) continue;
    // The prompt's last token is computed once more, in a copy of the page that holds it. What the leader is about to
    // drop stays with the fork for that step.
    const std::vector<PageId> shared =
        HeldPages(leader->block_table(),
                  {.begin = 0, .end = CeilDiv(leader->prompt_tokens(), leader->block_table().page_tokens())});
    const int64_t own_pages = std::max<int64_t>(1, PagesNow(*sequence) - std::ssize(shared) + 1);
    const int64_t spare = batch_.pages.num_free() - PromisedPages() - batch_.num_running;
    const bool fits = own_pages + batch_.pages.NumIdle(shared) < spare;
    if (batch_.seats == 0 || rows_ <= batch_.num_running || !fits) continue;
    plan_.forks.push_back({.id = sequence->id(), .leader = leader->id()});
    forked_.insert(leader->id());
    placed_.insert(sequence->id());
    --batch_.seats;
    ++batch_.num_running;
    for (const PageId page : shared) batch_.pages.Hold(page);
    batch_.pages.Take(own_pages);
    --rows_;
  }
}

void StepPlanner::PlanDecodeRows() {
  for (const Sequence* sequence : std::vector<const Sequence*>(batch_.ranked)) {
    if (Preempted(sequence->id()) || sequence->prefilling() || sequence->num_runnable() != 1 || rows_ == 0) continue;
    const int64_t pages = sequence->block_table().PagesMissing(sequence->scheduled() + 1) + CopyPages(*sequence);
    if (MakeRoom(pages, *sequence)) Run(*sequence, 1, pages);
  }
  const auto decode_rows = std::ssize(plan_.runs) + std::ssize(plan_.forks);
  chunks_ = {.tokens = rows_, .seconds = std::numeric_limits<double>::infinity()};
  if (decode_rows > 0 && view_.limits.max_inter_token_latency > SteadyDuration::zero()) {
    chunks_ = view_.step_cost.Budget(view_.limits.max_inter_token_latency, decode_rows, rows_);
  }
}

void StepPlanner::AdmitUrgent() {
  if (urgent_ == nullptr || placed_.contains(urgent_->id()) || batch_.seats == 0 || chunks_.empty()) return;
  const PrefixMatch match = FindPrefix(*urgent_, view_.index);
  if (Fits(*urgent_, match)) Admit(*urgent_, match);
}

// Each prompt takes at most half of what is left while others want rows too: a long one delays none by its length.
void StepPlanner::PlanChunks() {
  std::vector<const Sequence*> computing;
  for (const Sequence* sequence : batch_.ranked) {
    const bool decodes = !sequence->prefilling() && sequence->num_runnable() == 1;
    if (!decodes && sequence->num_runnable() > 0) computing.push_back(sequence);
  }
  const bool somebody_can_begin = !computing.empty() && SomebodyCanBegin();
  for (size_t i = 0; i < computing.size() && !chunks_.empty(); ++i) {
    const Sequence& sequence = *computing[i];
    if (Preempted(sequence.id())) continue;
    const BlockTable& table = sequence.block_table();
    const int64_t copies = CopyPages(sequence);
    if (!MakeRoom(copies + table.PagesMissing(sequence.scheduled() + 1), sequence)) continue;
    const int64_t most_tokens =
        table.capacity_tokens() + (batch_.pages.num_free() - copies) * table.page_tokens() - sequence.scheduled();
    const bool shares = i + 1 < computing.size() || somebody_can_begin;
    const int64_t depth = DepthOf(sequence, sequence.scheduled()), affordable = chunks_.TokensAt(depth);
    const int64_t share = shares ? CeilDiv(affordable, 2) : affordable;
    const int64_t num_tokens = std::min({share, sequence.num_runnable(), most_tokens});
    chunks_.Take(num_tokens, depth);
    Run(sequence, num_tokens, copies + table.PagesMissing(sequence.scheduled() + num_tokens));
  }
  for (const StepPlan::Fork& fork : plan_.forks) plan_.runs.push_back({.id = fork.id, .num_tokens = 1});
}

void StepPlanner::PlanAdmissions() {
  if (preempted_for_pages_ || batch_.seats == 0 || chunks_.empty()) return;
  WaitingLine line = Line(kAnyPriority);
  std::vector<SequenceId> blocked;
  int passes_left = Scheduler::kMaxOvertaken;  // of those that are blocked
  while (!line.empty() && batch_.seats > 0 && !chunks_.empty() && passes_left > 0) {
    const Sequence& sequence = line.Pop();
    const PrefixMatch match = FindPrefix(sequence, view_.index);
    const int64_t num_tokens = Fits(sequence, match) ? Admit(sequence, match) : 0;
    if (num_tokens > 0) {
      line.Charge(sequence.request().tenant, num_tokens);
      plan_.overtaken.insert(plan_.overtaken.end(), blocked.begin(), blocked.end());
      if (!blocked.empty()) --passes_left;
      continue;
    }
    blocked.push_back(sequence.id());
    passes_left = std::min(passes_left, Scheduler::kMaxOvertaken - sequence.times_overtaken());
    if (blocked.size() >= kMaxBlocked) break;
  }
}

// Only a defect of a policy's bounds leads here: the request that cannot start ends, the loop goes on.
void StepPlanner::FailHeadIfStuck() {
  if (!plan_.empty() || !view_.running.empty()) return;
  const WaitingLine line = Line(kAnyPriority);
  if (line.empty()) return;
  plan_.retire.push_back({line.Front().id(),
                          {.reason = FinishReason::kError,
                           .status = absl::InternalError("the request fits no step although nothing else runs")}});
}

bool StepPlanner::Preempted(SequenceId id) const {
  return std::find(batch_.preempted.begin(), batch_.preempted.end(), id) != batch_.preempted.end();
}

// Samples wait while the first one computes their prompt.
bool StepPlanner::WaitsForLeader(const Sequence& sequence) const {
  return sequence.follows() && computing_leaders_.contains(sequence.leader()) && !Ends(sequence.leader());
}

const Sequence* StepPlanner::FindRunning(SequenceId id) const {
  for (const auto& sequence : view_.running) {
    if (sequence->id() == id) return sequence.get();
  }
  return nullptr;
}

WaitingLine StepPlanner::Line(int64_t worse_than) const {
  WaitingLine line(&view_.fair_queue, now_, view_.limits.priority_ageing);
  for (const auto& sequence : view_.waiting) {
    if (sequence->request().priority >= worse_than || Ends(sequence->id()) || placed_.contains(sequence->id()) ||
        WaitsForLeader(*sequence)) {
      continue;
    }
    line.Add(sequence.get());
  }
  return line;
}

bool StepPlanner::SomebodyCanBegin() const {
  if (preempted_for_pages_ || batch_.seats == 0) return false;
  const WaitingLine line = Line(kAnyPriority);
  return !line.empty() && Fits(line.Front(), FindPrefix(line.Front(), view_.index));
}

// What the sequence holds once all that is known of it is computed: its prompt, and what it generated before. One that
// was preempted comes back only where it can go on for a while, else it would soon be in the way again.
int64_t StepPlanner::PagesNow(const Sequence& sequence) const {
  constexpr int64_t kPagesToGoOn = 4;
  const bool comes_back = sequence.statistics().preemptions > 0 && sequence.scheduled() == 0;
  const int64_t more_tokens = comes_back ? kPagesToGoOn * sequence.block_table().page_tokens() : 0;
  const int64_t tokens = sequence.num_expected_tokens() + more_tokens;
  // One that decodes has its prompt's chunks behind it.
  const bool decodes = sequence.scheduled() > 0 && !sequence.prefilling() && sequence.num_runnable() <= 1;
  const int64_t chunk_tokens = (decodes ? 1 : view_.limits.max_num_batched_tokens) * view_.limits.max_steps_in_flight;
  return std::min(sequence.max_pages(), sequence.request().policy->MaxPages(tokens, chunk_tokens));
}

// Pages that its next row copies before it writes: the page is shared, or will be by a fork of this plan.
int64_t StepPlanner::CopyPages(const Sequence& sequence) const {
  const BlockTable& table = sequence.block_table();
  if (sequence.scheduled() >= table.capacity_tokens()) return 0;
  const bool shared = view_.pool.reference_count(table.page_of(sequence.scheduled())) > 1;
  return shared || forked_.contains(sequence.id()) ? 1 : 0;
}

// Pages that running sequences still need for what is known of them.
int64_t StepPlanner::PromisedPages() const {
  int64_t promised = 0;
  for (const Sequence* sequence : batch_.ranked) {
    const auto taken = taken_pages_.find(sequence->id());
    const int64_t held =
        sequence->block_table().num_resident_pages() + (taken == taken_pages_.end() ? 0 : taken->second);
    promised += std::max<int64_t>(0, PagesNow(*sequence) - held);
  }
  return promised;
}

// One page a running sequence stays spare, so that an admission is not paid for by a preemption soon after.
bool StepPlanner::Fits(const Sequence& sequence, const PrefixMatch& match) const {
  const int64_t pages =
      std::max<int64_t>(0, PagesNow(sequence) - std::ssize(match.held)) + batch_.pages.NumIdle(match.held);
  if (batch_.num_running == 0) return pages <= batch_.pages.num_free();
  return pages <= batch_.pages.num_free() - PromisedPages() - batch_.num_running;
}

bool StepPlanner::MakeRoom(int64_t pages, const Sequence& sequence) {
  while (pages > batch_.pages.num_free()) {
    const Sequence* victim = nullptr;
    for (const Sequence* other : batch_.ranked) {
      if (Scheduler::RanksBefore(sequence, *other) && !taken_pages_.contains(other->id())) victim = other;
    }
    if (victim == nullptr) return false;
    preempted_for_pages_ = true;
    Preempt(*victim);
  }
  return true;
}

void StepPlanner::Preempt(const Sequence& victim) {
  batch_.preempted.push_back(victim.id());
  batch_.pages.LetGoOfAll(victim);
  ++batch_.seats;
  --batch_.num_running;
  std::erase(batch_.ranked, &victim);
}

int64_t StepPlanner::Admit(const Sequence& sequence, const PrefixMatch& match) {
  const int64_t page_tokens = sequence.block_table().page_tokens();
  const int64_t begin = match.pages * page_tokens;
  const int64_t end = begin < sequence.prompt_tokens() ? sequence.prompt_tokens() : sequence.num_tokens();
  const int64_t depth = DepthOf(sequence, begin), num_tokens = std::min(chunks_.TokensAt(depth), end - begin);
  const int64_t pages = CeilDiv(begin + num_tokens, page_tokens) - match.pages;
  if (pages + batch_.pages.NumIdle(match.held) > batch_.pages.num_free()) return 0;
  const bool asks_cache = sequence.chain().cacheable() && !sequence.request().prompt_logprobs;
  plan_.admit.push_back(
      {.id = sequence.id(), .cached_pages = match.pages, .queried_tokens = asks_cache ? sequence.prompt_tokens() : 0});
  placed_.insert(sequence.id());
  --batch_.seats;
  ++batch_.num_running;
  for (const PageId page : match.held) batch_.pages.Hold(page);
  // What it will still need counts as promised from now on.
  batch_.pages.Take(std::max(pages, PagesNow(sequence) - std::ssize(match.held)));
  chunks_.Take(num_tokens, depth);
  rows_ -= num_tokens;
  plan_.runs.push_back({.id = sequence.id(), .num_tokens = num_tokens});
  return num_tokens;
}

void StepPlanner::Run(const Sequence& sequence, int64_t num_tokens, int64_t pages) {
  plan_.runs.push_back({.id = sequence.id(), .num_tokens = num_tokens});
  taken_pages_[sequence.id()] += pages;
  batch_.pages.Take(pages);
  rows_ -= num_tokens;
}

}  // namespace farspan
