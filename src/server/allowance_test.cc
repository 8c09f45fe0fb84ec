#include "server/allowance.h"

#include <gtest/gtest.h>

namespace quad::server {
namespace {

MonoTime at(std::int64_t millis) {
  return MonoTime{} + Millis(millis);
}

TEST(Allowance, UsualRequestsCostNothingHoweverManyThereAre) {
  Allowance allowance;
  for (int i = 0; i < 1'000'000; ++i) {
    allowance.charge("alice", 200, at(0));
  }
  EXPECT_TRUE(allowance.has("alice", at(0)));
}

TEST(Allowance, WhoHoldsUpTheThreadLosesItForAWhileAndNobodyElseDoes) {
  Allowance allowance;
  for (int i = 0; i < 10; ++i) {
    allowance.charge("alice", 4'000, at(0));
  }
  EXPECT_FALSE(allowance.has("alice", at(0)));
  EXPECT_FALSE(allowance.has("alice", at(100)));
  EXPECT_TRUE(allowance.has("bob", at(0)));
  EXPECT_TRUE(allowance.has("alice", at(2'000)));
}

TEST(Allowance, TakesNoMoreThanItsShareOfTheThreadInTheLongRun) {
  Allowance allowance;
  std::int64_t used = 0;
  for (int millis = 0; millis < 100'000; ++millis) {
    if (allowance.has("alice", at(millis))) {
      allowance.charge("alice", 5'000, at(millis));
      used += 5'000;
    }
  }
  EXPECT_LT(used, 100'000'000 / 30) << "microseconds, of 100 s";
}

}  // namespace
}  // namespace quad::server
