// SPDX-License-Identifier: Apache-2.0
#include "server/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/math.h"

namespace farspan {
namespace {

int64_t ReadTopology(int cpu, const char* name, int64_t otherwise) {
  std::ifstream file(absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/", name));
  int64_t value = 0;
  return file >> value ? value : otherwise;
}

// Whole CPUs of the quota by cgroup v2, "max" being none.
int64_t QuotaCpus() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  int64_t period = 0;
  int64_t microseconds = 0;
  if (!(file >> quota >> period) || !absl::SimpleAtoi(quota, &microseconds) || period <= 0) {
    return std::numeric_limits<int64_t>::max();
  }
  return std::max<int64_t>(1, CeilDiv(microseconds, period));
}

}  // namespace

int64_t AvailableCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::pair<int64_t, int64_t>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    // Without topology each CPU counts as a core.
    cores.emplace(ReadTopology(cpu, "physical_package_id", -1), ReadTopology(cpu, "core_id", -1 - cpu));
  }
  return std::clamp<int64_t>(static_cast<int64_t>(cores.size()), 1, QuotaCpus());
}

}  // namespace farspan
