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
constexpr int kMaxBlocked = 16;

const char* PhaseName(RequestPhase phase) {
  switch (phase) {
    case RequestPhase::kQueued:
      return "queue";
    case RequestPhase::kPrefill:
      return "prefill";
    case RequestPhase::kDecode:
      return "decode";
  }
  return "";
}

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
  return leader.in_flight() == 0 && leader.computed() >= leader.prompt_tokens() &&
         (leader.block_table().dropped_tokens() == 0 || leader.computed() == leader.prompt_tokens());
}

// Of the logical pages in `range`, those that are not dropped.
std::vector<PageId> HeldPages(const BlockTable& table, TokenRange range) {
  std::vector<PageId> held;
  for (int64_t i = range.begin; i < range.end; ++i) {
    if (const PageRef& page = table.pages()[static_cast<size_t>(i)]) held.push_back(page.page());
  }
  return held;
}

}  // namespace

StepPlanner::StepPlanner(const SchedulerView& view, SteadyTime now)
    : view_(view),
      now_(now),
      seats_(view.limits.max_num_seqs - static_cast<int64_t>(view.running.size())),
      rows_(view.limits.max_num_batched_tokens),
      pages_(view.pool.num_free() + view.pool.num_cached()),
      num_running_(static_cast<int64_t>(view.running.size())) {}

StepPlan StepPlanner::Plan() {
  PlanEnds();
  PlanPriorityPreemptions();
  PlanForks();
  PlanDecodeRows();
  PlanChunks();
  PlanAdmissions();
  FailHeadIfStuck();
  return std::move(plan_);
}

void StepPlanner::PlanEnds() {
  for (const auto& sequence : view_.running) {
    const BlockTable& table = sequence->block_table();
    for (const PageId page : HeldPages(table, table.PagesInside(sequence->pending_drop()))) LetGo(page);
    if (std::optional<Outcome> outcome = OutcomeAt(*sequence, now_)) {
      plan_.retire.push_back({sequence->id(), *std::move(outcome)});
      leaving_.insert(sequence->id());
      ++seats_;
      --num_running_;
    } else {
      ranked_.push_back(sequence.get());
    }
  }
  std::sort(ranked_.begin(), ranked_.end(),
            [](const Sequence* a, const Sequence* b) { return Scheduler::RanksBefore(*a, *b); });
  for (const auto& sequence : view_.waiting) {
    if (std::optional<Outcome> outcome = OutcomeAt(*sequence, now_)) {
      plan_.retire.push_back({sequence->id(), *std::move(outcome)});
      leaving_.insert(sequence->id());
    }
  }
  // Pages that a fork of this plan shares with its retiring leader do not come back.
  absl::flat_hash_set<SequenceId> may_be_forked;
  for (const auto& sequence : view_.waiting) {
    if (sequence->follows() && !Leaves(sequence->id())) may_be_forked.insert(sequence->leader());
  }
  for (const auto& sequence : view_.running) {
    if (Leaves(sequence->id()) && !may_be_forked.contains(sequence->id())) LetGoOfAll(*sequence);
  }
}

// A better priority may take the place of a worse one, where that is enough to begin.
void StepPlanner::PlanPriorityPreemptions() {
  const auto beats_last = [this](const std::unique_ptr<Sequence>& waiting) {
    return waiting->request().priority < ranked_.back()->request().priority;
  };
  if (ranked_.empty() || std::none_of(view_.waiting.begin(), view_.waiting.end(), beats_last)) return;
  const std::vector<Candidate> candidates = Candidates();
  if (candidates.empty()) return;
  const Sequence& best = *candidates[BestOf(candidates)].sequence;
  if (ranked_.back()->request().priority <= best.request().priority) return;
  const PrefixMatch match = FindPrefix(best, view_.index);
  const auto fits = [&]() { return seats_ > 0 && Fits(best, match); };
  const StepPlanner before = *this;
  while (!fits() && !ranked_.empty() && ranked_.back()->request().priority > best.request().priority) {
    Preempt(*ranked_.back());
  }
  if (fits()) return;
  plan_ = before.plan_;
  seats_ = before.seats_;
  pages_ = before.pages_;
  num_running_ = before.num_running_;
  holder_changes_ = before.holder_changes_;
  ranked_ = before.ranked_;
  leaving_ = before.leaving_;
}

void StepPlanner::PlanForks() {
  for (const auto& sequence : view_.waiting) {
    if (!sequence->follows() || Leaves(sequence->id())) continue;
    const Sequence* leader = FindRunning(sequence->leader());
    if (leader == nullptr || !CanBeForked(*leader)) continue;
    const bool preempted = Leaves(leader->id()) && !leader->outcome() &&
                           std::find(plan_.preempt.begin(), plan_.preempt.end(), leader->id()) != plan_.preempt.end();
    // The prompt's last token is computed once more, in a copy of the page that holds it. What the leader is about to
    // drop stays with the fork for that step.
    const std::vector<PageId> shared =
        HeldPages(leader->block_table(),
                  {.begin = 0, .end = CeilDiv(leader->prompt_tokens(), leader->block_table().page_tokens())});
    const int64_t pages = 1 + IdlePages(shared);
    if (preempted || seats_ == 0 || rows_ <= num_running_ || pages_ < num_running_ + pages + 1) continue;
    plan_.forks.push_back({.id = sequence->id(), .leader = leader->id()});
    forked_.insert(leader->id());
    leaving_.insert(sequence->id());
    --seats_;
    --rows_;
    for (const PageId page : shared) Hold(page);
    --pages_;
    ++num_running_;
  }
}

void StepPlanner::PlanDecodeRows() {
  for (const Sequence* sequence : std::vector<const Sequence*>(ranked_)) {
    if (Leaves(sequence->id()) || sequence->prefilling() || sequence->num_runnable() != 1 || rows_ == 0) continue;
    const int64_t pages = sequence->block_table().PagesMissing(sequence->computed() + 1) + CopyPages(*sequence);
    if (MakeRoom(pages, *sequence)) Run(*sequence, 1, pages);
  }
  const auto decode_rows = static_cast<int64_t>(plan_.runs.size());
  chunk_rows_ = rows_;
  if (decode_rows > 0 && view_.limits.max_inter_token_latency > SteadyDuration::zero()) {
    chunk_rows_ =
        std::min(rows_, view_.step_cost.PrefillTokensWithin(view_.limits.max_inter_token_latency, decode_rows));
  }
}

void StepPlanner::PlanChunks() {
  for (const Sequence* sequence : std::vector<const Sequence*>(ranked_)) {
    const bool decodes = !sequence->prefilling() && sequence->num_runnable() == 1;
    if (Leaves(sequence->id()) || decodes || sequence->num_runnable() == 0 || chunk_rows_ == 0) continue;
    const BlockTable& table = sequence->block_table();
    const int64_t copies = CopyPages(*sequence);
    const int64_t least = copies + table.PagesMissing(sequence->computed() + 1);
    if (!MakeRoom(least, *sequence)) continue;
    const int64_t most_tokens =
        table.capacity_tokens() + (pages_ - copies) * table.page_tokens() - sequence->computed();
    const int64_t num_tokens = std::min({chunk_rows_, sequence->num_runnable(), most_tokens});
    chunk_rows_ -= num_tokens;
    Run(*sequence, num_tokens, copies + table.PagesMissing(sequence->computed() + num_tokens));
  }
  for (const StepPlan::Fork& fork : plan_.forks) plan_.runs.push_back({.id = fork.id, .num_tokens = 1});
}

void StepPlanner::PlanAdmissions() {
  if (preempted_for_pages_ || seats_ == 0 || chunk_rows_ == 0) return;
  std::vector<Candidate> candidates = Candidates();
  std::vector<SequenceId> blocked;
  int passes_left = Scheduler::kMaxOvertaken;  // of those that are blocked
  while (!candidates.empty() && seats_ > 0 && chunk_rows_ > 0 && passes_left > 0) {
    const size_t best = BestOf(candidates);
    const Sequence& sequence = *candidates[best].sequence;
    candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(best));
    const PrefixMatch match = FindPrefix(sequence, view_.index);
    if (Fits(sequence, match) && Admit(sequence, match)) {
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
  const std::vector<Candidate> candidates = Candidates();
  if (candidates.empty()) return;
  const Sequence& head = *candidates[BestOf(candidates)].sequence;
  plan_.retire.push_back({head.id(),
                          {.reason = FinishReason::kError,
                           .status = absl::InternalError("the request fits no step although nothing else runs")}});
}

// Samples wait while the first one computes their prompt.
bool StepPlanner::WaitsForLeader(const Sequence& sequence) const {
  if (!sequence.follows()) return false;
  const auto computing = [&sequence](const std::unique_ptr<Sequence>& other) {
    return other->id() == sequence.leader() && other->prefilling();
  };
  if (std::any_of(view_.running.begin(), view_.running.end(), computing)) return !Leaves(sequence.leader());
  return std::any_of(view_.waiting.begin(), view_.waiting.end(), computing) && !Leaves(sequence.leader());
}

const Sequence* StepPlanner::FindRunning(SequenceId id) const {
  for (const auto& sequence : view_.running) {
    if (sequence->id() == id) return sequence.get();
  }
  return nullptr;
}

std::vector<StepPlanner::Candidate> StepPlanner::Candidates() const {
  std::vector<Candidate> candidates;
  for (const auto& sequence : view_.waiting) {
    if (Leaves(sequence->id()) || WaitsForLeader(*sequence)) continue;
    const Request& request = sequence->request();
    const SteadyDuration ageing = view_.limits.priority_ageing;
    const int64_t aged =
        ageing > SteadyDuration::zero() ? std::max(SteadyDuration::zero(), now_ - request.arrival) / ageing : 0;
    candidates.push_back({.sequence = sequence.get(), .priority = request.priority - aged});
  }
  return candidates;
}

size_t StepPlanner::BestOf(const std::vector<Candidate>& candidates) const {
  const auto before = [this](const Candidate& a, const Candidate& b) {
    if (a.priority != b.priority) return a.priority < b.priority;
    const int64_t served_a = ServedTokens(a.sequence->request().tenant);
    const int64_t served_b = ServedTokens(b.sequence->request().tenant);
    if (served_a != served_b) return served_a < served_b;
    return a.sequence->id() < b.sequence->id();
  };
  return static_cast<size_t>(std::min_element(candidates.begin(), candidates.end(), before) - candidates.begin());
}

int64_t StepPlanner::ServedTokens(const std::string& tenant) const {
  const auto given = given_tokens_.find(tenant);
  return view_.fair_queue.served_tokens(tenant) + (given == given_tokens_.end() ? 0 : given->second);
}

// What the sequence holds once all that is known of it is computed: its prompt, and what it generated before.
int64_t StepPlanner::PagesNow(const Sequence& sequence) const {
  return std::min(sequence.max_pages(),
                  sequence.request().policy->MaxPages(sequence.num_tokens(), view_.limits.max_num_batched_tokens));
}

// What holds the page once the plan, as far as it is made, has been carried out; the cache does not count.
int32_t StepPlanner::Holders(PageId page) const {
  const auto change = holder_changes_.find(page);
  return view_.pool.num_holders(page) + (change == holder_changes_.end() ? 0 : change->second);
}

void StepPlanner::Hold(PageId page) {
  if (Holders(page) == 0) --pages_;
  ++holder_changes_[page];
}

void StepPlanner::LetGo(PageId page) {
  --holder_changes_[page];
  if (Holders(page) == 0) ++pages_;
}

// Of a sequence that leaves; what it drops has been let go before.
void StepPlanner::LetGoOfAll(const Sequence& sequence) {
  const BlockTable& table = sequence.block_table();
  for (const PageId page : HeldPages(table, {.begin = 0, .end = std::ssize(table.pages())})) LetGo(page);
  for (const PageId page : HeldPages(table, table.PagesInside(sequence.pending_drop()))) Hold(page);
}

int64_t StepPlanner::IdlePages(const std::vector<PageId>& pages) const {
  return std::count_if(pages.begin(), pages.end(), [this](PageId page) { return Holders(page) == 0; });
}

// Pages that its next row copies before it writes: the page is shared, or will be by a fork of this plan.
int64_t StepPlanner::CopyPages(const Sequence& sequence) const {
  const BlockTable& table = sequence.block_table();
  if (sequence.computed() >= table.capacity_tokens()) return 0;
  const bool shared = view_.pool.reference_count(table.page_of(sequence.computed())) > 1;
  return shared || forked_.contains(sequence.id()) ? 1 : 0;
}

// Pages that running sequences still need for what is known of them.
int64_t StepPlanner::PromisedPages() const {
  int64_t promised = 0;
  for (const Sequence* sequence : ranked_) {
    const auto taken = taken_pages_.find(sequence->id());
    const int64_t held =
        sequence->block_table().num_resident_pages() + (taken == taken_pages_.end() ? 0 : taken->second);
    promised += std::max<int64_t>(0, PagesNow(*sequence) - held);
  }
  return promised;
}

// One page a running sequence stays spare, so that an admission is not paid for by a preemption soon after.
bool StepPlanner::Fits(const Sequence& sequence, const PrefixMatch& match) const {
  const int64_t pages = std::max<int64_t>(0, PagesNow(sequence) - std::ssize(match.held)) + IdlePages(match.held);
  if (num_running_ == 0) return pages <= pages_;
  return pages <= pages_ - PromisedPages() - num_running_;
}

bool StepPlanner::MakeRoom(int64_t pages, const Sequence& sequence) {
  while (pages > pages_) {
    const Sequence* victim = nullptr;
    for (const Sequence* other : ranked_) {
      if (Scheduler::RanksBefore(sequence, *other) && !taken_pages_.contains(other->id())) victim = other;
    }
    if (victim == nullptr) return false;
    preempted_for_pages_ = true;
    Preempt(*victim);
  }
  return true;
}

void StepPlanner::Preempt(const Sequence& victim) {
  const SequenceId id = victim.id();
  plan_.preempt.push_back(id);
  leaving_.insert(id);
  LetGoOfAll(victim);
  ++seats_;
  --num_running_;
  std::erase_if(ranked_, [id](const Sequence* sequence) { return sequence->id() == id; });
}

bool StepPlanner::Admit(const Sequence& sequence, const PrefixMatch& match) {
  const int64_t page_tokens = sequence.block_table().page_tokens();
  const int64_t begin = match.pages * page_tokens;
  const int64_t end = begin < sequence.prompt_tokens() ? sequence.prompt_tokens() : sequence.num_tokens();
  const int64_t num_tokens = std::min(chunk_rows_, end - begin);
  const int64_t pages = CeilDiv(begin + num_tokens, page_tokens) - match.pages;
  if (pages + IdlePages(match.held) > pages_) return false;
  const bool asks_cache = sequence.chain().cacheable() && !sequence.request().prompt_logprobs;
  plan_.admit.push_back(
      {.id = sequence.id(), .cached_pages = match.pages, .queried_tokens = asks_cache ? sequence.prompt_tokens() : 0});
  leaving_.insert(sequence.id());
  --seats_;
  ++num_running_;
  for (const PageId page : match.held) Hold(page);
  chunk_rows_ -= num_tokens;
  // What it will still need counts as promised from now on.
  pages_ -= std::max(pages, PagesNow(sequence) - std::ssize(match.held));
  rows_ -= num_tokens;
  given_tokens_[sequence.request().tenant] += num_tokens;
  plan_.runs.push_back({.id = sequence.id(), .num_tokens = num_tokens});
  return true;
}

void StepPlanner::Run(const Sequence& sequence, int64_t num_tokens, int64_t pages) {
  plan_.runs.push_back({.id = sequence.id(), .num_tokens = num_tokens});
  taken_pages_[sequence.id()] += pages;
  pages_ -= pages;
  rows_ -= num_tokens;
}

}  // namespace farspan
