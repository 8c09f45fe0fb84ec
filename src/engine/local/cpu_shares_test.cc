#include "engine/local/cpu_shares.h"

#include <gtest/gtest.h>
#include <sched.h>

namespace quad::engine {
namespace {

using Cpus = std::vector<int>;

RankKey rank(std::int64_t job) {
  return {JobId(job), Epoch(1), Rank(0)};
}

TEST(CpuShares, RanksThatFitTogetherShareNoCpu) {
  CpuShares shares({0, 1, 2, 3, 8, 9});
  EXPECT_EQ(shares.take(rank(1), 2'000), (Cpus{0, 1}));
  EXPECT_EQ(shares.take(rank(2), 3'000), (Cpus{2, 3, 8}));
  EXPECT_EQ(shares.take(rank(3), 1'000), (Cpus{9}));
  EXPECT_EQ(shares.take(rank(2), 3'000), (Cpus{2, 3, 8})) << "the same when asked again";
}

TEST(CpuShares, WhatIsGivenBackIsTakenFirst) {
  CpuShares shares({0, 1, 2, 3});
  shares.take(rank(1), 2'000);
  shares.take(rank(2), 2'000);
  shares.give_back(rank(1));
  shares.give_back(rank(1));
  EXPECT_EQ(shares.take(rank(3), 1'000), (Cpus{0}));
  EXPECT_EQ(shares.take(rank(4), 2'000), (Cpus{0, 1}))
      << "the free one, and the lowest of the others";
}

TEST(CpuShares, PartsOfACpuAreRoundedUp) {
  CpuShares shares({0, 1, 2});
  EXPECT_EQ(shares.take(rank(1), 500), (Cpus{0}));
  EXPECT_EQ(shares.take(rank(2), 1'500), (Cpus{1, 2}));
}

TEST(CpuShares, WhoAsksForAllOrForNothingIsNotBound) {
  CpuShares shares({0, 1});
  EXPECT_EQ(shares.take(rank(1), 2'000), Cpus());
  EXPECT_EQ(shares.take(rank(2), 8'000), Cpus());
  EXPECT_EQ(shares.take(rank(3), 0), Cpus());
  EXPECT_EQ(CpuShares({}).take(rank(1), 1'000), Cpus());
}

TEST(CpuShares, WhatAnEarlierServerGaveIsKept) {
  CpuShares shares({0, 1, 2, 3});
  shares.restore(rank(1), {0, 7});  // 7 is no longer ours
  EXPECT_EQ(shares.take(rank(2), 2'000), (Cpus{1, 2}));
  shares.give_back(rank(1));
  EXPECT_EQ(shares.take(rank(3), 2'000), (Cpus{0, 3}));
}

TEST(CpuShares, KnowsTheCpusOfThisProcess) {
  cpu_set_t set;
  ASSERT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  EXPECT_EQ(usable_cpus().size(), static_cast<std::size_t>(CPU_COUNT(&set)));
}

}  // namespace
}  // namespace quad::engine
