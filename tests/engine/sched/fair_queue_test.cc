// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/fair_queue.h"

#include <gtest/gtest.h>

namespace farspan {
namespace {

TEST(FairQueueTest, ANewTenantStartsLevelWithTheLeastServed) {
  FairQueue queue;
  queue.Enter("a");
  queue.Charge("a", 100);
  queue.Enter("b");
  EXPECT_EQ(queue.served_tokens("b"), 100);
  queue.Charge("b", 50);
  queue.Enter("c");
  EXPECT_EQ(queue.served_tokens("c"), 100);
}

TEST(FairQueueTest, IdlingSavesUpNoCreditAndNoMemory) {
  FairQueue queue;
  queue.Enter("a");
  queue.Enter("b");
  queue.Enter("b");
  queue.Leave("b");
  EXPECT_EQ(queue.num_tenants(), 2);
  queue.Leave("b");
  EXPECT_EQ(queue.num_tenants(), 1);
  queue.Charge("a", 1000);
  queue.Enter("b");
  EXPECT_EQ(queue.served_tokens("b"), 1000);
}

}  // namespace
}  // namespace farspan
