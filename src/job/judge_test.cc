#include "job/judge.h"

#include <gtest/gtest.h>

#include <csignal>
#include <vector>

namespace quad::job {
namespace {

using How = RankEnd::How;

RankEnd ended(How how, std::int32_t code = 0) {
  RankEnd end;
  end.how = how;
  end.code = code;
  return end;
}

/// An attempt whose ranks ended like this, one millisecond after the other.
Attempt attempt_of(const std::vector<RankEnd>& ends) {
  Attempt attempt;
  for (const RankEnd& end : ends) {
    RankRecord rank;
    rank.holding.node = NodeId("n");
    rank.end = end;
    rank.end->at = WallTime{static_cast<std::int64_t>(attempt.ranks.size())};
    attempt.ranks.push_back(rank);
  }
  return attempt;
}

TEST(Judge, ALostNodeOutranksWhatItsPeersDiedOfFirst) {
  const Judgement judged = judge(
      attempt_of({ended(How::kExited, 1), ended(How::kSignaled, SIGABRT), ended(How::kNodeLost)}));
  EXPECT_EQ(judged.verdict, Verdict::kHardware);
  EXPECT_EQ(judged.cause, Cause::kHardware);
}

TEST(Judge, AVanishedRunnerOutranksASignalAndThatAnExitCode) {
  EXPECT_NE(
      judge(attempt_of({ended(How::kExited, 1), ended(How::kSignaled, SIGKILL), ended(How::kGone)}))
          .reason.find("vanished"),
      std::string::npos);
  const Judgement judged =
      judge(attempt_of({ended(How::kExited, 1), ended(How::kSignaled, SIGKILL)}));
  EXPECT_EQ(judged.verdict, Verdict::kPlatform);
  EXPECT_EQ(judged.exit_code, 128 + SIGKILL);
}

TEST(Judge, WhoeverEndedARankIsBelievedAndHasAVerdictOfItsOwn) {
  for (const auto& [verdict, cause] : {std::pair(Verdict::kPreempted, Cause::kPreempted),
                                       {Verdict::kDrained, Cause::kPreempted},
                                       {Verdict::kEvicted, Cause::kPreempted},
                                       {Verdict::kDeleted, Cause::kInternal},
                                       {Verdict::kRefused, Cause::kInternal},
                                       {Verdict::kUser, Cause::kLimit}}) {
    RankEnd end = ended(How::kSignaled, SIGTERM);
    end.verdict = verdict;
    end.detail = "evicted from node n: it is being drained";
    const Judgement judged = judge(end, 0, "n");
    EXPECT_EQ(judged.verdict, verdict);
    EXPECT_EQ(judged.cause, cause) << to_string(verdict);
    EXPECT_NE(judged.reason.find(end.detail), std::string::npos);
  }
  RankEnd drained = ended(How::kGone);
  drained.verdict = Verdict::kDrained;
  EXPECT_EQ(judge(attempt_of({ended(How::kExited, 1), drained})).verdict, Verdict::kDrained)
      << "the peers of a rank that is taken away fail first";
}

TEST(Judge, OfEqualsTheEarliestDecides) {
  EXPECT_EQ(judge(attempt_of({ended(How::kExited, 3), ended(How::kExited, 4)})).exit_code, 3);
}

TEST(Judge, AFaultOfItsOwnIsTheUsers) {
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) {
    EXPECT_EQ(judge(ended(How::kSignaled, signal), 0, "n").verdict, Verdict::kUser) << signal;
  }
  EXPECT_EQ(judge(ended(How::kExited, 128 + SIGTERM), 0, "n").verdict, Verdict::kPlatform);
  EXPECT_EQ(judge(ended(How::kExited, 128 + SIGSEGV), 0, "n").verdict, Verdict::kUser);
}

TEST(Judge, MemoryIsTheUsersLimitAndSaysSo) {
  RankEnd end = ended(How::kSignaled, SIGKILL);
  end.out_of_memory = true;
  end.detail = "memory 64.0 of 64 GiB";
  const Judgement judged = judge(end, 2, "n");
  EXPECT_EQ(judged.cause, Cause::kLimit);
  EXPECT_EQ(judged.reason, "rank 2 on n was killed for memory (memory 64.0 of 64 GiB)");
}

TEST(Judge, WhatQuadEndedSaysNothing) {
  RankEnd stopped = ended(How::kSignaled, SIGKILL);
  stopped.by_quad = true;
  EXPECT_EQ(judge(attempt_of({stopped, stopped})).weight, 0);
  EXPECT_EQ(judge(attempt_of({stopped, ended(How::kExited, 5)})).exit_code, 5);
  EXPECT_EQ(judge(attempt_of({ended(How::kExited), ended(How::kExited)})).verdict,
            Verdict::kSuccess);
  EXPECT_EQ(judge(attempt_of({ended(How::kExited), ended(How::kExited)})).weight, 1);
}

TEST(Judge, ASetupThatFailsIsTheSetups) {
  RankEnd end = ended(How::kExited, 9);
  end.in_setup = true;
  EXPECT_EQ(judge(end, 1, "n").cause, Cause::kSetup);
}

}  // namespace
}  // namespace quad::job
