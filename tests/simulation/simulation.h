// SPDX-License-Identifier: Apache-2.0
// A whole engine over the hash model in virtual time: requests, cancels, deadlines, faults and too few pages as they
// come, every invariant after every step, and each answer compared with what the request gets alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/simulation/choices.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/simulated_device.h"
#include "tests/simulation/simulated_request.h"
#include "tests/simulation/verdict.h"
#include "tests/support/fake_clock.h"

namespace farspan {

// What simulations went through, summed: proof that they went there.
using SimulationCounts = std::map<std::string, int64_t>;

class Simulation {
 public:
  // Both outlive this.
  Simulation(Choices* choices, SimulationCounts* counts);
  ~Simulation();

  // Requests come for `num_steps` steps, then what is left runs to its end. What it found.
  const Verdict& Run(int64_t num_steps);
  int64_t num_steps() const { return num_steps_; }

 private:
  using Live = std::vector<std::shared_ptr<SimulatedRequest>>;

  void ActOutside();
  void Submit();
  void CheckRefusal(const Request& request, const absl::Status& status);
  void CancelOne();
  void RunDown();
  void RunUntilIdle();
  void Sleep();
  bool Step();
  void CheckStep(bool did_something);
  void CheckOrder(const SimulatedRequest& started);
  void CheckPromptness(const SimulatedRequest& request, SteadyTime step_start);
  void Collect(SteadyTime step_start);
  void CheckHoldings(bool did_something);

  Choices* const choices_;
  SimulationCounts* const counts_;
  Verdict verdict_;
  Scenario scenario_;
  FakeClock clock_;
  StepRecorder recorder_;
  HashModel* model_ = nullptr;
  std::unique_ptr<Engine> engine_;
  Live live_;  // accepted and not finished, in order of submission
  std::map<std::string, SimulatedRequest*> by_id_;
  int64_t num_submitted_ = 0;
  int64_t num_steps_ = 0;
  int64_t num_memory_faults_ = 0;    // steps that find no memory
  int64_t num_memory_failures_ = 0;  // requests that ended for it
  bool asleep_ = false;
};

}  // namespace farspan
