#include "engine/kubernetes/client/pace.h"

#include <gtest/gtest.h>

namespace quad::kubernetes {
namespace {

TEST(RateLimit, LetsABurstThroughAndThenTheRate) {
  RateLimit limit(10, 3);
  const MonoTime start{1'000};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(limit.take(start), Millis(0));
  }
  EXPECT_EQ(limit.take(start), Millis(100));
  EXPECT_EQ(limit.take(start), Millis(200)) << "behind the one that waits already";
  EXPECT_EQ(limit.take(start + Millis(300)), Millis(0));
  EXPECT_EQ(limit.take(start + Millis(60'000)), Millis(0));
  EXPECT_EQ(limit.take(start + Millis(60'000)), Millis(0));
  EXPECT_EQ(limit.take(start + Millis(60'000)), Millis(0));
  EXPECT_EQ(limit.take(start + Millis(60'000)), Millis(100)) << "saves up no more than a burst";
}

TEST(RateLimit, AThreadWithAnOlderClockEarnsNothing) {
  RateLimit limit(10, 1);
  EXPECT_EQ(limit.take(MonoTime{5'000}), Millis(0));
  EXPECT_EQ(limit.take(MonoTime{4'000}), Millis(100));
  EXPECT_EQ(limit.take(MonoTime{5'000}), Millis(200));
}

TEST(RateLimit, WithoutARateNothingWaits) {
  RateLimit limit(0, 0);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(limit.take(MonoTime{0}), Millis(0));
  }
}

TEST(Backoff, DoublesToItsBoundWithAtMostHalfTakenOff) {
  Backoff backoff(Millis(100), Millis(1'000), 7);
  for (const int full : {100, 200, 400, 800, 1'000, 1'000}) {
    const auto pause = backoff.next().count();
    EXPECT_LE(pause, full);
    EXPECT_GE(pause, full / 2);
  }
  backoff.reset();
  EXPECT_LE(backoff.next(), Millis(100));
}

TEST(Backoff, TwoSeedsDoNotComeBackTogether) {
  Backoff one(Millis(10'000), Millis(10'000), 1);
  Backoff other(Millis(10'000), Millis(10'000), 2);
  EXPECT_NE(one.next(), other.next());
}

}  // namespace
}  // namespace quad::kubernetes
