// engine/local/cpu_shares.h
//
// Which of this machine's CPUs each rank runs on. A rank gets as many as it asked for, rounded up,
// from those that the fewest others have: ranks of one real node, which together never ask for more
// than there are, do not share any, and a program that counts its CPUs starts as many threads as
// are good for it. This needs no permission. Pretend nodes may promise more than the machine has;
// their ranks then share.
//
// Pure but for usable_cpus(). Owned by the engine's thread; each call is O(CPUs of the machine).

#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "base/ids.h"

namespace quad::engine {

/// The CPUs that this process may run on, by the kernel's numbers.
std::vector<int> usable_cpus();

class CpuShares {
 public:
  explicit CpuShares(const std::vector<int>& cpus);

  /// The CPUs for this rank, in order; empty: all of them. The same again until give_back().
  std::vector<int> take(const RankKey& key, std::int64_t cpu_milli);
  /// What a rank holds that an earlier server had started.
  void restore(const RankKey& key, const std::vector<int>& cpus);
  void give_back(const RankKey& key);

 private:
  std::map<int, int> holders_;  ///< of each CPU
  std::unordered_map<RankKey, std::vector<int>> held_;
};

}  // namespace quad::engine
