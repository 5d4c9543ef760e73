// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/load_pacer.h"

#include <gtest/gtest.h>

namespace farspan::loadgen {
namespace {

using Indices = std::vector<size_t>;

RunTime Ms(int64_t ms) { return std::chrono::milliseconds(ms); }

TEST(LoadPacerTest, SendsWhatIsDueWhetherOrNotAnswersCame) {
  LoadPacer pacer({.due = {Ms(0), Ms(10), Ms(10), Ms(30)}});
  LoadPacer::Step step = pacer.Next(Ms(0));
  EXPECT_EQ(step.send, Indices({0}));
  EXPECT_EQ(step.wake, Ms(10));
  EXPECT_TRUE(pacer.Next(Ms(9)).send.empty());
  step = pacer.Next(Ms(12));
  EXPECT_EQ(step.send, Indices({1, 2}));
  EXPECT_EQ(step.wake, Ms(30));
  step = pacer.Next(Ms(30));
  EXPECT_EQ(step.send, Indices({3}));
  EXPECT_EQ(step.wake, std::nullopt);
  EXPECT_EQ(pacer.num_running(), 4u);
  EXPECT_FALSE(pacer.finished());
  for (size_t i = 0; i < 4; ++i) pacer.Ended(i);
  EXPECT_TRUE(pacer.finished());
}

TEST(LoadPacerTest, ALateSenderCatchesUpAtOnce) {
  LoadPacer pacer({.due = {Ms(0), Ms(1), Ms(2)}});
  EXPECT_EQ(pacer.Next(Ms(50)).send, Indices({0, 1, 2}));
}

TEST(LoadPacerTest, TheBoundHoldsRequestsBackUntilOneEnds) {
  LoadPacer pacer({.due = {Ms(0), Ms(0), Ms(0)}, .max_concurrency = 2});
  LoadPacer::Step step = pacer.Next(Ms(0));
  EXPECT_EQ(step.send, Indices({0, 1}));
  EXPECT_EQ(step.wake, std::nullopt);
  EXPECT_TRUE(pacer.Next(Ms(100)).send.empty());
  pacer.Ended(1);
  EXPECT_EQ(pacer.Next(Ms(100)).send, Indices({2}));
}

TEST(LoadPacerTest, CancelsRunningCallsOnceAtTheirTime) {
  LoadPacer pacer({.due = {Ms(0), Ms(0), Ms(0)}, .cancel_after = {Ms(20), std::nullopt, Ms(5)}});
  LoadPacer::Step step = pacer.Next(Ms(0));
  EXPECT_TRUE(step.cancel.empty());
  EXPECT_EQ(step.wake, Ms(5));
  step = pacer.Next(Ms(6));
  EXPECT_EQ(step.cancel, Indices({2}));
  EXPECT_EQ(step.wake, Ms(20));
  pacer.Ended(0);
  step = pacer.Next(Ms(25));
  EXPECT_TRUE(step.cancel.empty()) << "a call that has ended is not cancelled";
  EXPECT_EQ(step.wake, std::nullopt);
}

TEST(LoadPacerTest, CancellationCountsFromTheSending) {
  LoadPacer pacer({.due = {Ms(0)}, .cancel_after = {Ms(20)}});
  EXPECT_EQ(pacer.Next(Ms(100)).wake, Ms(120));
}

TEST(LoadPacerTest, StopSendsNoMoreAndWaitsForTheRest) {
  LoadPacer pacer({.due = {Ms(0), Ms(10)}});
  pacer.Next(Ms(0));
  pacer.Stop();
  const LoadPacer::Step step = pacer.Next(Ms(10));
  EXPECT_TRUE(step.send.empty());
  EXPECT_EQ(step.wake, std::nullopt);
  EXPECT_FALSE(pacer.finished());
  pacer.Ended(0);
  EXPECT_TRUE(pacer.finished());
  EXPECT_EQ(pacer.num_sent(), 1u);
}

}  // namespace
}  // namespace farspan::loadgen
