#include "runner/lease.h"

#include <gtest/gtest.h>

namespace quad::runner {
namespace {

TEST(Lease, RunsFromWhenItWasAskedForNotFromTheAnswer) {
  Lease lease;
  lease.set_length(Millis(100));
  lease.renew(MonoTime{1000}, MonoTime{1090});
  EXPECT_FALSE(lease.has_run_out(MonoTime{1099}));
  EXPECT_TRUE(lease.has_run_out(MonoTime{1100}));
}

TEST(Lease, AnOlderAnswerThatComesLateTakesNothingBack) {
  Lease lease;
  lease.set_length(Millis(100));
  lease.renew(MonoTime{1000}, MonoTime{1000});
  lease.renew(MonoTime{900}, MonoTime{1010});
  EXPECT_EQ(lease.ends_at(), MonoTime{1100});
}

TEST(Lease, NobodyAsksInTheFuture) {
  Lease lease;
  lease.set_length(Millis(100));
  lease.renew(MonoTime{5000}, MonoTime{1000});
  EXPECT_TRUE(lease.has_run_out(MonoTime{1000}));
}

TEST(Lease, WithoutALengthThereIsNone) {
  const Lease lease;
  EXPECT_FALSE(lease.exists());
  EXPECT_FALSE(lease.has_run_out(MonoTime{1'000'000}));
}

}  // namespace
}  // namespace quad::runner
