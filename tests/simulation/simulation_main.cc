// SPDX-License-Identifier: Apache-2.0
// Runs simulations, one a seed, and names the seed of the first that breaks an invariant.
#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/log.h"
#include "tests/simulation/simulation.h"

namespace farspan {
namespace {

struct Arguments {
  int64_t first_seed = 1;
  int64_t min_seeds = 1000;
  int64_t min_steps = 1'000'000;
  int64_t steps_per_seed = 800;
};

constexpr char kUsage[] =
    "usage: sched_simulation [--seed N] [--first-seed N] [--min-seeds N] [--min-steps N] [--steps-per-seed N]\n"
    "Runs until both least numbers are reached, each seed in the same way on every machine; --seed runs that one "
    "alone.\n"
    "Ends with 0 if every invariant held, 1 if one was broken, 2 if a check of the engine failed, 64 for wrong "
    "flags.\n";

int64_t current_seed = 0;

// A check of the engine's own ends the process: the seed must be known then too.
void SayWhichSeed(int) {
  char text[128];
  const int size =
      std::snprintf(text, sizeof(text), "a check of the engine failed\nreplay: sched_simulation --seed %lld\n",
                    static_cast<long long>(current_seed));
  if (write(STDERR_FILENO, text, static_cast<size_t>(size)) < 0) std::_Exit(2);
  std::_Exit(2);
}

bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(argv[i + 1], &value) || value < 1) return false;
    const std::string name = argv[i];
    if (name == "--seed") {
      *arguments = {.first_seed = value, .min_seeds = 1, .min_steps = 1};
    } else if (name == "--first-seed") {
      arguments->first_seed = value;
    } else if (name == "--min-seeds") {
      arguments->min_seeds = value;
    } else if (name == "--min-steps") {
      arguments->min_steps = value;
    } else if (name == "--steps-per-seed") {
      arguments->steps_per_seed = value;
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

bool RunSeed(int64_t seed, const Arguments& arguments, SimulationCounts* counts, int64_t* num_steps) {
  current_seed = seed;
  Choices choices(static_cast<uint64_t>(seed));
  Simulation simulation(&choices, counts);
  const Verdict& verdict = simulation.Run(arguments.steps_per_seed);
  *num_steps += simulation.num_steps();
  if (verdict.ok()) return true;
  std::printf("seed %lld, step %lld: %s: %s\nreplay: sched_simulation --seed %lld --steps-per-seed %lld\n",
              static_cast<long long>(seed), static_cast<long long>(simulation.num_steps()), verdict.invariant().c_str(),
              verdict.detail().c_str(), static_cast<long long>(seed), static_cast<long long>(arguments.steps_per_seed));
  std::fflush(stdout);
  // What is broken may not bear being taken down.
  std::_Exit(1);
}

// A simulation that never went there proves nothing of it.
bool WentEverywhere(const SimulationCounts& counts) {
  bool everywhere = true;
  for (const char* what : {"accepted", "ended: cancelled", "ended: deadline", "ended: error", "ended: lack of memory",
                           "ended: length", "ended: queue timeout", "ended: several samples", "ended: stop",
                           "overrun rows", "overtaken", "preemptions", "prefix hits", "refused: RESOURCE_EXHAUSTED"}) {
    if (const auto count = counts.find(what); count != counts.end() && count->second > 0) continue;
    std::printf("never: %s\n", what);
    everywhere = false;
  }
  return everywhere;
}

int RunAll(const Arguments& arguments) {
  SimulationCounts counts;
  int64_t num_steps = 0;
  int64_t seed = arguments.first_seed;
  for (; seed - arguments.first_seed < arguments.min_seeds || num_steps < arguments.min_steps; ++seed) {
    if (!RunSeed(seed, arguments, &counts, &num_steps)) return 1;
  }
  std::printf("%lld seeds, %lld steps, every invariant held\n", static_cast<long long>(seed - arguments.first_seed),
              static_cast<long long>(num_steps));
  for (const auto& [what, count] : counts) std::printf("  %s: %lld\n", what.c_str(), static_cast<long long>(count));
  return arguments.min_seeds == 1 || WentEverywhere(counts) ? 0 : 1;
}

}  // namespace
}  // namespace farspan

int main(int argc, char** argv) {
  farspan::Arguments arguments;
  if (!farspan::Parse(argc, argv, &arguments)) {
    std::fputs(farspan::kUsage, stderr);
    return 64;
  }
  std::signal(SIGABRT, farspan::SayWhichSeed);
  // A planted fault is logged as an error each time.
  farspan::Log().set_level(spdlog::level::off);
  return farspan::RunAll(arguments);
}
