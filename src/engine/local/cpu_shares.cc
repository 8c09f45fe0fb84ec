#include "engine/local/cpu_shares.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>

namespace quad::engine {

std::vector<int> usable_cpus() {
  // The kernel refuses a set that is too small for the machine, and does not say which size would
  // do.
  for (int size = CPU_SETSIZE; size <= (1 << 20); size *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<std::size_t>(size));
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(size));
    std::vector<int> cpus;
    const bool known = ::sched_getaffinity(0, bytes, set) == 0;
    const bool too_small = !known && errno == EINVAL;
    for (int cpu = 0; known && cpu < size; ++cpu) {
      if (CPU_ISSET_S(static_cast<std::size_t>(cpu), bytes, set)) {
        cpus.push_back(cpu);
      }
    }
    CPU_FREE(set);
    if (!too_small) {
      return cpus;
    }
  }
  return {};
}

CpuShares::CpuShares(const std::vector<int>& cpus) {
  for (const int cpu : cpus) {
    holders_[cpu] = 0;
  }
}

std::vector<int> CpuShares::take(const RankKey& key, std::int64_t cpu_milli) {
  if (const auto known = held_.find(key); known != held_.end()) {
    return known->second;
  }
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>((cpu_milli + 999) / 1000, 0));
  if (count == 0 || count >= holders_.size()) {
    return {};
  }
  std::vector<int> cpus;
  for (const auto& [cpu, holders] : holders_) {
    cpus.push_back(cpu);
  }
  std::stable_sort(cpus.begin(), cpus.end(),
                   [&](int a, int b) { return holders_.at(a) < holders_.at(b); });
  cpus.resize(count);
  std::sort(cpus.begin(), cpus.end());
  restore(key, cpus);
  return cpus;
}

void CpuShares::restore(const RankKey& key, const std::vector<int>& cpus) {
  give_back(key);
  for (const int cpu : cpus) {
    // One that this server may not use itself counts for nobody else either.
    if (const auto known = holders_.find(cpu); known != holders_.end()) {
      ++known->second;
    }
  }
  held_[key] = cpus;
}

void CpuShares::give_back(const RankKey& key) {
  const auto held = held_.find(key);
  if (held == held_.end()) {
    return;
  }
  for (const int cpu : held->second) {
    if (const auto known = holders_.find(cpu); known != holders_.end()) {
      --known->second;
    }
  }
  held_.erase(held);
}

}  // namespace quad::engine
