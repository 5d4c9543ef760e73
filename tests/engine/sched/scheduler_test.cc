// SPDX-License-Identifier: Apache-2.0
// The scheduler alone: plans are values, commits take and return pages.
#include "engine/sched/scheduler.h"

#include <gtest/gtest.h>

#include "engine/attention/registry.h"
#include "google/protobuf/text_format.h"
#include "tests/support/recording_output.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

constexpr int64_t kPageTokens = 4;
constexpr SteadyTime kStart = SteadyTime(std::chrono::hours(1));

struct RequestOptions {
  SteadyTime deadline = kNoDeadline;
  std::string attention = "dense { }";
  int priority = 0;
  std::string tenant;
  int num_samples = 1;
  bool use_prefix_cache = false;
  int salt = 1;  // equal salts, equal prompts
};

class SchedulerTest : public ::testing::Test {
 protected:
  explicit SchedulerTest(const SchedulerLimits& limits = {.max_num_seqs = 4, .max_num_batched_tokens = 10})
      : limits_(limits) {}

  SequenceId Add(int64_t prompt_tokens, int64_t max_tokens, const RequestOptions& options = {}) {
    v1::AttentionSpec spec;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(options.attention, &spec));
    ModelShape shape;
    shape.page_tokens = kPageTokens;
    Request request;
    request.prompt.assign(static_cast<size_t>(prompt_tokens), options.salt);
    request.stop.max_tokens = max_tokens;
    request.policy = *BuiltinPolicies().Create(spec, shape);
    request.deadline = options.deadline;
    request.arrival = kStart;
    request.priority = options.priority;
    request.tenant = options.tenant;
    request.num_samples = options.num_samples;
    const int64_t pages = request.policy->MaxPages(prompt_tokens + max_tokens, limits_.max_num_batched_tokens);
    PromptKeys keys = options.use_prefix_cache ? MakePromptKeys(request, "model", shape) : PromptKeys{};
    const auto leader = static_cast<SequenceId>(handles_.size());
    auto group = std::make_shared<RequestGroup>(std::move(request),
                                                std::make_shared<RequestHandle>(std::make_shared<Doorbell>()),
                                                std::make_shared<RecordingOutput>());
    for (int sample = 0; sample < options.num_samples; ++sample) {
      handles_.push_back(const_cast<RequestHandle*>(&group->handle()));
      scheduler_.Add(std::make_unique<Sequence>(static_cast<SequenceId>(handles_.size() - 1), group, sample, leader,
                                                pages, kPageTokens, PageChain(keys, prompt_tokens, kPageTokens)));
    }
    groups_.push_back(group);
    return leader;
  }

  // Plans and commits one step, then pretends that it ran; every sequence that may draws token 7.
  StepPlan Step(SteadyTime now = kStart) {
    StepPlan plan = scheduler_.Plan(now);
    Committed committed = scheduler_.Commit(plan, now);
    num_copies_ += static_cast<int64_t>(committed.copies.size());
    for (const auto& sequence : committed.retired) {
      sequence->group().EndSample(sequence->sample(), *sequence->outcome(), sequence->phase(), sequence->statistics());
    }
    for (const StepPlan::Run& run : plan.runs) {
      Sequence& sequence = scheduler_.sequence(run.id);
      const TokenRange queries = {sequence.computed(), sequence.computed() + run.num_tokens};
      sequence.CompleteStep(
          run.num_tokens,
          sequence.request().policy->Plan({.queries = queries, .prompt_tokens = sequence.prompt_tokens()}).drop);
      if (sequence.computed() == sequence.num_tokens()) sequence.AppendToken(7, now);
    }
    return plan;
  }

  static std::vector<std::pair<int, int64_t>> Runs(const StepPlan& plan) {
    std::vector<std::pair<int, int64_t>> runs;
    for (const StepPlan::Run& run : plan.runs) runs.emplace_back(static_cast<int>(run.id), run.num_tokens);
    return runs;
  }

  using RunList = std::vector<std::pair<int, int64_t>>;
  const SchedulerLimits limits_;
  PagePool pool_{20};
  PrefixIndex index_{&pool_};
  std::vector<std::shared_ptr<RequestGroup>> groups_;
  std::vector<RequestHandle*> handles_;  // by sequence
  int64_t num_copies_ = 0;
  Scheduler scheduler_{limits_, &pool_, &index_};
};

TEST_F(SchedulerTest, PlanningChangesNothingAndRepeats) {
  Add(15, 3);
  const StepPlan first = scheduler_.Plan(kStart);
  EXPECT_EQ(Runs(scheduler_.Plan(kStart)), Runs(first));
  EXPECT_EQ(pool_.num_used(), 0);
  EXPECT_EQ(scheduler_.num_waiting(), 1);
}

TEST_F(SchedulerTest, PromptIsComputedInChunksOfTheBudget) {
  Add(25, 3);
  EXPECT_EQ(Runs(Step()), (RunList{{0, 10}}));
  EXPECT_EQ(Runs(Step()), (RunList{{0, 10}}));
  EXPECT_EQ(Runs(Step()), (RunList{{0, 5}}));
  EXPECT_EQ(Runs(Step()), (RunList{{0, 1}})) << "a decode row follows";
}

TEST_F(SchedulerTest, DecodesRideAlongWithALongPromptInEveryStep) {
  Add(2, 9);
  Step();
  Add(40, 2);
  for (int step = 0; step < 4; ++step) EXPECT_EQ(Runs(Step()), (RunList{{0, 1}, {1, 9}}));
}

TEST_F(SchedulerTest, AdmissionAsksForThePagesOfWhatIsKnownNotOfWhatMayCome) {
  Add(4, 76);  // 1 page now, all 20 in the end
  Add(4, 76);
  EXPECT_EQ(Runs(Step()), (RunList{{0, 4}, {1, 4}}));
}

TEST_F(SchedulerTest, AWindowIsAdmittedWhereDenseMustWait) {
  Add(48, 4);  // 12 pages of its own in the end
  Step();
  Add(40, 4);                                                               // 10 pages
  Add(40, 4, {.attention = "window { sink_tokens: 2 window_tokens: 4 }"});  // 5 pages at most
  for (int step = 0; step < 5; ++step) Step();
  EXPECT_EQ(scheduler_.num_running(), 2);
  ASSERT_EQ(scheduler_.num_waiting(), 1);
  EXPECT_EQ(static_cast<int>(scheduler_.waiting()[0]->id()), 1);
  EXPECT_EQ(scheduler_.waiting()[0]->times_overtaken(), 1);
}

TEST_F(SchedulerTest, PagesOfARetiredRequestCountAtOnce) {
  Add(40, 36);
  Add(40, 40);
  for (int step = 0; step < 5; ++step) Step();
  EXPECT_EQ(scheduler_.num_waiting(), 1);
  handles_[0]->Cancel();
  const StepPlan plan = Step();
  ASSERT_EQ(plan.retire.size(), 1u);
  EXPECT_EQ(Runs(plan), (RunList{{1, 10}}));
}

TEST_F(SchedulerTest, EverySeatIsCounted) {
  for (int i = 0; i < 6; ++i) Add(1, 3);
  EXPECT_EQ(Step().runs.size(), 4u);
  EXPECT_EQ(Step().runs.size(), 4u);
  EXPECT_EQ(scheduler_.num_waiting(), 2);
}

TEST_F(SchedulerTest, WaitingRequestsExpireWithoutEverRunning) {
  Add(72, 4);  // all pages but one
  Add(40, 4, {.deadline = kStart + std::chrono::seconds(1)});
  Step();
  EXPECT_EQ(scheduler_.NextDeadline(), kStart + std::chrono::seconds(1));
  const StepPlan plan = Step(kStart + std::chrono::seconds(1));
  ASSERT_EQ(plan.retire.size(), 1u);
  EXPECT_EQ(plan.retire[0].outcome.reason, FinishReason::kDeadline);
  EXPECT_EQ(scheduler_.num_waiting(), 0);
}

TEST_F(SchedulerTest, WindowHoldsNoMorePagesThanItsReservation) {
  const SequenceId id = Add(60, 15, {.attention = "window { sink_tokens: 2 window_tokens: 8 }"});
  const int64_t reserved = 1 + 5 + 1;  // sinks; 7 tokens before the chunk and its 10; a range starts inside a page
  int64_t most = 0;
  for (int step = 0; step < 20; ++step) {
    Step();
    most = std::max(most, pool_.num_used());
  }
  EXPECT_EQ(scheduler_.sequence(id).max_pages(), reserved);
  EXPECT_LE(most, reserved);
  EXPECT_GE(scheduler_.sequence(id).num_tokens(), 70);
  EXPECT_LE(pool_.num_used(), 1 + 3);
}

TEST_F(SchedulerTest, TheLastInRankMakesRoomAndComesBackWithItsTokens) {
  Add(20, 30);
  Add(20, 30);  // 20 pages hold 80 tokens; together they come to 100
  StepPlan plan;
  while (plan.preempt.empty()) plan = Step();
  ASSERT_EQ(plan.preempt.size(), 1u);
  EXPECT_EQ(static_cast<int>(plan.preempt[0]), 1);
  EXPECT_TRUE(plan.admit.empty()) << "nothing is admitted by the plan that preempts";
  const int64_t generated = scheduler_.waiting()[0]->num_generated();
  EXPECT_GT(generated, 10);
  EXPECT_EQ(scheduler_.waiting()[0]->computed(), 0);
  handles_[0]->Cancel();
  EXPECT_EQ(Runs(Step()), (RunList{{1, 10}}));
  EXPECT_EQ(Runs(Step()), (RunList{{1, 10}}));
  EXPECT_EQ(Runs(Step()), (RunList{{1, 10}})) << "generated tokens follow as decode rows";
  EXPECT_EQ(scheduler_.sequence(SequenceId{1}).num_generated(), generated) << "none is drawn anew";
}

TEST_F(SchedulerTest, AWorsePriorityIsPreemptedBeforeALaterArrival) {
  Add(20, 30, {.priority = 1});
  Add(20, 30);
  StepPlan plan;
  while (plan.preempt.empty()) plan = Step();
  EXPECT_EQ(static_cast<int>(plan.preempt[0]), 0);
}

TEST_F(SchedulerTest, ForksShareEveryPageAndCopyTheOneTheyWrite) {
  Add(10, 8, {.num_samples = 3});
  EXPECT_EQ(Runs(Step()), (RunList{{0, 10}}));
  EXPECT_EQ(scheduler_.num_waiting(), 2) << "samples wait for the prompt";
  EXPECT_EQ(pool_.num_used(), 3);
  const StepPlan plan = Step();
  EXPECT_EQ(plan.forks.size(), 2u);
  EXPECT_EQ(Runs(plan), (RunList{{0, 1}, {1, 1}, {2, 1}}));
  EXPECT_EQ(num_copies_, 2) << "the last one to write has the page alone";
  EXPECT_EQ(pool_.num_used(), 2 + 3);
}

TEST_F(SchedulerTest, EqualPromptsComputedAtOnceEndUpInOneSetOfPages) {
  Add(9, 20, {.use_prefix_cache = true});
  Add(9, 20, {.use_prefix_cache = true});
  for (int step = 0; step < 4; ++step) Step();
  EXPECT_EQ(pool_.num_used(), 2 + 1 + 1) << "two full pages shared, each its own last one";
}

TEST_F(SchedulerTest, NoMoreThanSomePassARequestThatDoesNotFit) {
  Add(52, 28);
  for (int step = 0; step < 6; ++step) Step();
  Add(40, 4);  // needs 10 of the 7 pages left
  std::vector<SequenceId> small;
  for (int i = 0; i < 2 * Scheduler::kMaxOvertaken; ++i) small.push_back(Add(2, 1));
  int64_t passed = 0;
  for (int step = 0; step < 20; ++step) {
    passed += static_cast<int64_t>(Step().admit.size());
    for (const auto& sequence : scheduler_.running()) {
      if (sequence->id() != SequenceId{0} && sequence->num_generated() > 0) {
        sequence->SetOutcome({.reason = FinishReason::kLength});
      }
    }
  }
  EXPECT_EQ(passed, Scheduler::kMaxOvertaken);
}

class TimedSchedulerTest : public SchedulerTest {
 protected:
  TimedSchedulerTest()
      : SchedulerTest({.max_num_seqs = 4,
                       .max_num_batched_tokens = 60,
                       .max_inter_token_latency = std::chrono::milliseconds(30)}) {}
};

TEST_F(TimedSchedulerTest, APromptTakesNoMoreOfAStepThanDecodesCanWaitFor) {
  Add(4, 9);
  Step();
  for (int i = 0; i < 20; ++i) scheduler_.ObserveStep(std::chrono::milliseconds(5), {.decode_rows = 1});
  for (int i = 0; i < 20; ++i)
    scheduler_.ObserveStep(std::chrono::milliseconds(65), {.decode_rows = 1, .prefill_tokens = 60});
  Add(60, 2);
  const StepPlan plan = Step();
  ASSERT_EQ(plan.runs.size(), 2u);
  EXPECT_NEAR(static_cast<double>(plan.runs[1].num_tokens), 25, 1) << "5 ms for the decode row, 25 for the prompt";
  handles_[0]->Cancel();
  EXPECT_GT(Step().runs[0].num_tokens, 30) << "nobody waits any more";
}

TEST_F(SchedulerTest, EndingAllRetiresEverythingAndReturnsEveryPage) {
  for (int i = 0; i < 3; ++i) Add(20, 5);
  Step();
  scheduler_.EndAll({.reason = FinishReason::kError, .status = absl::UnavailableError("gone")});
  const StepPlan plan = Step();
  EXPECT_EQ(plan.retire.size(), 3u);
  EXPECT_TRUE(plan.runs.empty());
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(pool_.num_used(), 0);
}

}  // namespace
}  // namespace farspan
