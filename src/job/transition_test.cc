#include "job/transition.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace quad::job {
namespace {

using How = RankEnd::How;

/// A job under test: happenings go in, and what came out of the last one is kept.
class Life {
 public:
  explicit Life(int ranks = 1) : ranks_(ranks) {
    request_.name = "train";
    request_.owner = "ana";
    request_.ranks = ranks;
    request_.shapes = {{{1000, 1 << 30, 1}, "H100"}};
  }

  Request& request() { return request_; }

  Life& begin() {
    Step step;
    job = submit(JobId(1), std::make_shared<Request>(request_), now(), step);
    return *this;
  }

  Life& happen(const Happening& happening) {
    clock_ += 1000;
    last = apply(job, happening, now());
    EXPECT_EQ(check(job), "");
    return *this;
  }

  Life& place(const std::string& first = "n1") {
    std::vector<pool::Holding> holdings;
    for (int i = 0; i < ranks_; ++i) {
      holdings.push_back(
          {NodeId(i == 0 ? first : "n" + std::to_string(i + 1)), {1000, 1 << 30, 1}, {0}});
    }
    return happen(Placed{holdings, 0});
  }

  Life& run() {
    place();
    const Epoch epoch = job.epoch();
    for (int i = 0; i < ranks_; ++i) {
      happen(RankHello{epoch, Rank(i), "nonce" + std::to_string(i), "127.0.0.1", 4000});
    }
    for (int i = 0; i < ranks_; ++i) {
      happen(RankReady{epoch, Rank(i)});
    }
    return *this;
  }

  Life& end(int rank, How how, int code, bool by_quad = false, bool confirmed = true) {
    RankEnd ended;
    ended.how = how;
    ended.code = code;
    ended.by_quad = by_quad;
    ended.confirmed = confirmed;
    return happen(RankEnded{job.epoch(), Rank(rank), ended});
  }

  template <typename Effect>
  [[nodiscard]] long count() const {
    return std::count_if(last.effects.begin(), last.effects.end(),
                         [](const auto& effect) { return std::holds_alternative<Effect>(effect); });
  }

  Job job;
  Step last;

 private:
  [[nodiscard]] WallTime now() const { return WallTime{clock_}; }
  int ranks_;
  Request request_;
  std::int64_t clock_ = 1'000'000;
};

TEST(Transition, AOneRankJobGoesFromSubmitToSucceeded) {
  Life life;
  life.begin().place();
  EXPECT_EQ(life.job.status, Status::kStarting);
  EXPECT_EQ(life.count<StartRank>(), 1);
  life.happen(RankHello{Epoch(1), Rank(0), "a", "127.0.0.1", 1});
  EXPECT_EQ(life.count<SendOrder>(), 1);
  life.happen(RankReady{Epoch(1), Rank(0)});
  EXPECT_EQ(life.count<SendGo>(), 1);
  EXPECT_EQ(life.job.status, Status::kRunning);
  life.end(0, How::kExited, 0);
  EXPECT_EQ(life.job.status, Status::kSucceeded);
  EXPECT_EQ(life.count<ReleaseRank>(), 1);
}

TEST(Transition, NoRankIsOrderedBeforeEveryRankSaidHello) {
  Life life(2);
  life.begin().place().happen(RankHello{Epoch(1), Rank(1), "b", "127.0.0.2", 1});
  EXPECT_EQ(life.count<SendOrder>(), 0);
  life.happen(RankHello{Epoch(1), Rank(0), "a", "127.0.0.1", 1});
  EXPECT_EQ(life.count<SendOrder>(), 2);
}

TEST(Transition, TheFirstNonZeroExitEndsTheOthersAndFailsTheJob) {
  Life life(2);
  life.begin().run().end(1, How::kExited, 3);
  EXPECT_EQ(life.count<StopRank>(), 1);
  EXPECT_EQ(life.job.status, Status::kRunning);
  life.end(0, How::kSignaled, 9, true);
  EXPECT_EQ(life.job.status, Status::kFailed);
  EXPECT_EQ(life.job.cause, Cause::kUser);
  EXPECT_EQ(life.job.exit_code, 3);
}

TEST(Transition, ALostNodeOutranksTheBrokenConnectionThatItCausedElsewhere) {
  Life life(2);
  life.begin().run().end(0, How::kExited, 1);
  life.happen(NodeLost{NodeId("n2"), true, "powered off"});
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.job.attempts.back().verdict, Verdict::kHardware);
  EXPECT_EQ(life.job.avoid_nodes, std::vector<NodeId>{NodeId("n2")});
}

TEST(Transition, AnAttemptAfterAPresumedDeathWaitsBehindTheFence) {
  Life life;
  life.begin().run().happen(NodeLost{NodeId("n1"), false, "silent"});
  EXPECT_EQ(life.count<ReleaseRank>(), 0) << "a zombie may still use what it holds";
  life.place("n2");
  EXPECT_EQ(life.job.live()->fence_wait, kFenceGrace);
  // The zombie comes back: it is dismissed, and once it is dead its room is free.
  life.happen(RankHello{Epoch(1), Rank(0), "nonce0", "127.0.0.1", 1});
  EXPECT_EQ(life.count<DismissRunner>(), 1);
  RankEnd gone;
  gone.how = How::kGone;
  life.happen(RankEnded{Epoch(1), Rank(0), gone});
  EXPECT_EQ(life.count<ReleaseRank>(), 1);
  EXPECT_EQ(life.job.status, Status::kRecovering);
}

/// A strict job of two ranks whose first attempt is out of sight, placed again, with both runners
/// connected.
Life strict_after_a_presumed_loss() {
  Life life(2);
  life.request().recovery.strict_fence = true;
  life.begin().run();
  life.happen(NodeLost{NodeId("n1"), false, "silent"})
      .happen(NodeLost{NodeId("n2"), false, "silent"});
  life.place("n3").happen(RankHello{Epoch(2), Rank(1), "d", "127.0.0.1", 1});
  return life.happen(RankHello{Epoch(2), Rank(0), "c", "127.0.0.1", 1});
}

TEST(Transition, AStrictJobWaitsForTheLeaseAndOrdersOnlyItsHeadMeanwhile) {
  Life life = strict_after_a_presumed_loss();
  EXPECT_EQ(life.job.live()->fence_wait, kStrictLease + kFenceGrace);
  EXPECT_NE(life.job.message.find(
                "rank 0 of attempt 1 on n1, rank 1 of attempt 1 on n2 are dead for certain"),
            std::string::npos)
      << life.job.message;
  EXPECT_EQ(life.count<SendOrder>(), 1);
  life.happen(RankHello{Epoch(2), Rank(1), "d", "127.0.0.1", 1});
  EXPECT_EQ(life.count<SendOrder>(), 0) << "a reconnect gives no order sooner";
  life.happen(ResumeChosen{Epoch(2), {}});
  EXPECT_EQ(life.count<SendOrder>(), 1);
}

TEST(Transition, TheWaitBehindTheFenceEndsWithTheLastOfTheOldRanks) {
  Life life = strict_after_a_presumed_loss();
  life.happen(RankEnded{Epoch(1), Rank(1), {}});
  EXPECT_EQ(life.count<EndFenceWait>() + life.count<SendOrder>(), 0);
  life.happen(RankEnded{Epoch(1), Rank(0), {}});
  EXPECT_EQ(life.count<EndFenceWait>(), 1);
  EXPECT_EQ(life.count<SendOrder>(), 1) << "the other rank";
  EXPECT_EQ(life.job.live()->fence_wait, Millis(0));
  life.happen(RankHello{Epoch(2), Rank(0), "c", "127.0.0.1", 1});
  EXPECT_EQ(life.count<EndFenceWait>(), 1) << "it may have been lost with the connection";
}

TEST(Transition, ALongerLeaseThatOldRanksWereGivenIsWaitedFor) {
  Life life;
  life.request().recovery.strict_fence = true;
  life.begin().happen(Placed{{{NodeId("n1"), {1000, 1 << 30, 1}, {0}}}, 0, Millis(90'000)});
  life.happen(RankHello{Epoch(1), Rank(0), "nonce", "127.0.0.1", 4000});
  life.happen(NodeLost{NodeId("n1"), false, "silent"});
  life.happen(Placed{{{NodeId("n2"), {1000, 1 << 30, 1}, {0}}}, 0, Millis(3'000)});
  EXPECT_EQ(life.job.live()->fence_wait, Millis(95'000));
}

TEST(Transition, AnEndThatIsNotCertainIsFencedAndKeepsItsRoomUntilItIs) {
  Life life;
  life.begin().run().end(0, How::kGone, 0, false, false);
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.count<ReleaseRank>(), 0) << "it may still use its GPU";
  EXPECT_EQ(life.count<DismissRunner>(), 1) << "if it still hears";
  life.place("n2");
  EXPECT_EQ(life.job.live()->fence_wait, kFenceGrace);
  RankEnd certain;
  certain.how = How::kGone;
  life.happen(RankEnded{Epoch(1), Rank(0), certain});
  EXPECT_EQ(life.count<ReleaseRank>(), 1);
  EXPECT_EQ(life.count<EndFenceWait>(), 1);
  EXPECT_EQ(life.job.live()->fence_wait, Millis(0));
}

TEST(Transition, NobodyWaitsForARankThatNeverHadAnOrder) {
  Life life;
  life.begin().place().end(0, How::kGone, 0, false, false).place("n2");
  EXPECT_EQ(life.job.live()->fence_wait, Millis(0));
  life.happen(RankHello{Epoch(1), Rank(0), "late", "127.0.0.1", 4000});
  EXPECT_EQ(life.count<DismissRunner>(), 1);
}

TEST(Transition, OnlyTheAcceptedRunnerOfALiveRankIsInCharge) {
  Life life = strict_after_a_presumed_loss();
  const auto in_charge = [&](int epoch, int rank, std::string_view nonce) {
    return is_in_charge(life.job, RankKey{JobId(1), Epoch(epoch), Rank(rank)}, nonce);
  };
  EXPECT_TRUE(in_charge(2, 0, "c"));
  EXPECT_FALSE(in_charge(2, 0, "d"));
  EXPECT_FALSE(in_charge(2, 2, "c"));
  EXPECT_FALSE(in_charge(1, 0, "nonce0"));
  life.happen(NodeLost{NodeId("n3"), false, "silent"});
  EXPECT_FALSE(in_charge(2, 0, "c")) << "given up, though its attempt is still ending";
  EXPECT_TRUE(in_charge(2, 1, "d"));
}

TEST(Transition, AZombieKeepsItsRoomWhileTheOthersOfItsAttemptStillEnd) {
  Life life(2);
  life.begin().run().happen(NodeLost{NodeId("n1"), false, "silent"});
  life.happen(RankHello{Epoch(1), Rank(0), "nonce0", "127.0.0.1", 1});
  EXPECT_EQ(life.count<ReleaseRank>(), 0);
  EXPECT_EQ(life.count<DismissRunner>(), 1);
}

TEST(Transition, AnAttemptAfterCertainDeathsDoesNotWait) {
  Life life;
  life.begin().run().happen(NodeLost{NodeId("n1"), true, "powered off"}).place("n2");
  EXPECT_EQ(life.job.live()->fence_wait, Millis(0));
}

TEST(Transition, ASignalFromOutsideRecoversButASegmentationFaultIsTheUsers) {
  Life killed;
  killed.begin().run().end(0, How::kExited, 137);
  EXPECT_EQ(killed.job.status, Status::kRecovering);
  Life faulty;
  faulty.begin().run().end(0, How::kSignaled, SIGSEGV);
  EXPECT_EQ(faulty.job.status, Status::kFailed);
  EXPECT_EQ(faulty.job.exit_code, 139);
}

TEST(Transition, GivesUpAfterThreeRecoveriesWithoutANewCheckpoint) {
  Life life;
  life.begin();
  for (int i = 0; i < 3; ++i) {
    life.run().end(0, How::kGone, 0);
    EXPECT_EQ(life.job.status, Status::kRecovering);
  }
  life.run().end(0, How::kGone, 0);
  EXPECT_EQ(life.job.status, Status::kFailed);
}

TEST(Transition, ANewCheckpointRenewsTheRecoveries) {
  Life life;
  life.begin();
  for (int i = 0; i < 10; ++i) {
    life.run()
        .happen(CheckpointSeen{life.job.epoch(), "step-1.pt", i, 10, ""})
        .end(0, How::kGone, 0);
    EXPECT_EQ(life.job.status, Status::kRecovering);
  }
  EXPECT_EQ(life.job.recoveries, 10);
}

TEST(Transition, ACheckpointThatNobodySawInTimeCountsOnceItIsResumedFrom) {
  Life life;
  life.begin();
  for (int step = 0; step < 10; ++step) {
    life.place().happen(RankHello{life.job.epoch(), Rank(0), "a", "127.0.0.1", 1});
    life.happen(
        ResumeChosen{life.job.epoch(), {step == 0 ? "" : "there", step == 0 ? -1 : step * 10, ""}});
    life.end(0, How::kGone, 0);
    ASSERT_EQ(life.job.status, Status::kRecovering) << step;
  }
  for (int same = 0; same < 3; ++same) {
    life.place().happen(RankHello{life.job.epoch(), Rank(0), "a", "127.0.0.1", 1});
    life.happen(ResumeChosen{life.job.epoch(), {"there", 90, ""}});
    life.end(0, How::kGone, 0);
  }
  EXPECT_EQ(life.job.status, Status::kFailed);
}

TEST(Transition, AnAttemptThatDiedBeforeItResumedIsNotCreditedWithWhatWasThereBefore) {
  Life life;
  life.begin().place().happen(RankHello{Epoch(1), Rank(0), "a", "127.0.0.1", 1});
  life.happen(CheckpointSeen{Epoch(1), "there", 10, 1, ""}).end(0, How::kGone, 0);
  for (int round = 0; round < 3 && life.job.status == Status::kRecovering; ++round) {
    life.place().end(0, How::kGone, 0);
    if (life.job.status == Status::kRecovering) {
      life.place().happen(RankHello{life.job.epoch(), Rank(0), "a", "127.0.0.1", 1});
      life.happen(ResumeChosen{life.job.epoch(), {"there", 10, ""}}).end(0, How::kGone, 0);
    }
  }
  EXPECT_EQ(life.job.status, Status::kFailed);
  EXPECT_EQ(life.job.attempts.size(), 4U) << "the first, and three that brought nothing new";
}

TEST(Transition, AStopThatNobodyAskedForIsNoSuccess) {
  Life life(2);
  life.begin().run();
  life.end(0, How::kExited, 0);
  life.end(1, How::kSignaled, 15, true);
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.job.attempts[0].verdict, Verdict::kPlatform);
}

TEST(Transition, ARankThatIsGivenUpIsToldSoOnWhateverConnectionItStillHas) {
  Life life;
  life.begin().run().happen(NodeLost{NodeId("n1"), false, "silent"});
  EXPECT_EQ(life.count<DismissRunner>(), 1);
  EXPECT_EQ(life.count<ReleaseRank>(), 0);
}

TEST(Transition, AReconnectInTheGraceOfACancelLeavesItTheGrace) {
  Life life;
  life.request().stop_grace = Millis(300'000);
  life.begin().run().happen(CancelAsked{"ana"});
  life.happen(RankHello{Epoch(1), Rank(0), "nonce0", "127.0.0.1", 4000});
  ASSERT_EQ(life.count<StopRank>(), 1);
  EXPECT_EQ(std::get<StopRank>(life.last.effects.front()).grace, Millis(300'000));
}

const RankTaken kDrain{
    Epoch(1), Rank(0), {Verdict::kDrained, "evicted from node n0: it is being drained"}};

TEST(Transition, ARankThatIsTakenAwayEndsByTheWordOfWhoTookIt) {
  Life life(2);
  life.begin().run().happen(kDrain);
  EXPECT_EQ(life.job.status, Status::kRunning) << "it has not ended yet";
  life.happen(kDrain);
  EXPECT_FALSE(life.last.changed) << "said again it is no news";
  // Its peer fails first; its own runner only knows that it was told to stop.
  life.end(1, How::kExited, 1).end(0, How::kSignaled, 15, true);
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.job.attempts[0].verdict, Verdict::kDrained);
  EXPECT_NE(life.job.message.find("it is being drained"), std::string::npos) << life.job.message;
  EXPECT_EQ(life.job.avoid_nodes, std::vector<NodeId>{NodeId("n1")});
}

TEST(Transition, TheWordOfWhoTookARankMayComeAfterItsEnd) {
  Life life;
  life.begin().run().end(0, How::kSignaled, 15, true);
  EXPECT_EQ(life.job.attempts[0].verdict, Verdict::kPlatform);
  life.happen(kDrain);
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.job.attempts[0].verdict, Verdict::kDrained);
  EXPECT_EQ(life.job.attempts[0].ranks[0].end->verdict, Verdict::kDrained);
  EXPECT_EQ(check(life.job), "");
}

TEST(Transition, AnEndOfItsOwnNeedsNobodysWord) {
  Life life;
  life.begin().run().happen(kDrain).end(0, How::kExited, 0);
  EXPECT_EQ(life.job.status, Status::kSucceeded);
}

TEST(Transition, UserErrorsRestartOnlyAsAllowed) {
  Life life;
  life.request().recovery.max_restarts_on_errors = 1;
  life.request().recovery.recover_on_exit_codes = {42};
  life.begin().run().end(0, How::kExited, 42);
  EXPECT_EQ(life.job.status, Status::kRecovering);
  life.run().end(0, How::kExited, 1);
  EXPECT_EQ(life.job.status, Status::kRecovering);
  life.run().end(0, How::kExited, 1);
  EXPECT_EQ(life.job.status, Status::kFailed);
  EXPECT_EQ(life.job.recoveries, 0);
}

TEST(Transition, CancellingIsTwoStepsWhenItRunsAndOneWhenItWaits) {
  Life waiting;
  waiting.begin().happen(CancelAsked{"ana"});
  EXPECT_EQ(waiting.job.status, Status::kCancelled);
  Life running(2);
  running.begin().run().happen(CancelAsked{"ana"});
  EXPECT_EQ(running.job.status, Status::kCancelling);
  EXPECT_EQ(running.count<StopRank>(), 2);
  running.end(0, How::kSignaled, 15, true).end(1, How::kExited, 0);
  EXPECT_EQ(running.job.status, Status::kCancelled);
  running.happen(CancelAsked{"ben"}).happen(RankEnded{Epoch(1), Rank(0), {}});
  EXPECT_EQ(running.job.status, Status::kCancelled);
}

TEST(Transition, ASecondRunnerOfTheSameRankIsToldToLeave) {
  Life life;
  life.begin().run().happen(RankHello{Epoch(1), Rank(0), "other", "127.0.0.1", 1});
  EXPECT_EQ(life.count<DismissRunner>(), 1);
  EXPECT_FALSE(life.last.changed);
}

TEST(Transition, AReconnectIsToldAgainWhatItMayHaveMissed) {
  Life life;
  life.begin().run().happen(RankHello{Epoch(1), Rank(0), "nonce0", "127.0.0.1", 1});
  EXPECT_EQ(life.count<SendOrder>(), 1);
  EXPECT_EQ(life.count<SendGo>(), 1);
  EXPECT_FALSE(life.last.changed);
}

TEST(Transition, MemoryIsALimitAndNotRecovered) {
  Life life;
  RankEnd end;
  end.how = How::kExited;
  end.code = 137;
  end.out_of_memory = true;
  end.detail = "memory 64.0 of 64 GiB";
  life.begin().run().happen(RankEnded{Epoch(1), Rank(0), end});
  EXPECT_EQ(life.job.status, Status::kFailed);
  EXPECT_EQ(life.job.cause, Cause::kLimit);
  EXPECT_NE(life.job.message.find("64.0 of 64 GiB"), std::string::npos);
}

TEST(Transition, AFailedSetupSaysSo) {
  Life life(2);
  life.begin().place();
  for (int i = 0; i < 2; ++i) {
    life.happen(RankHello{Epoch(1), Rank(i), "n", "127.0.0.1", 1});
  }
  RankEnd end;
  end.code = 5;
  end.in_setup = true;
  life.happen(RankEnded{Epoch(1), Rank(1), end}).end(0, How::kNeverRan, 0, true);
  EXPECT_EQ(life.job.status, Status::kFailed);
  EXPECT_EQ(life.job.cause, Cause::kSetup);
  EXPECT_EQ(skypilot_status(life.job), "FAILED_SETUP");
}

TEST(LostAttempts, AreOverAndTheNextOneFollowsThem) {
  Life life(2);
  life.begin().run();
  life.happen(AttemptsLost{Epoch(4)});
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.job.live(), nullptr);
  EXPECT_EQ(life.job.epoch(), Epoch(4));
  EXPECT_EQ(life.count<ReleaseRank>(), 2);
  EXPECT_EQ(life.last.events.back().message,
            "Attempts 2 to 4 are not in the records any more, which were taken back.");
  life.place();
  EXPECT_EQ(life.job.epoch(), Epoch(5));
  EXPECT_EQ(life.job.live()->fence_wait, Millis(0));
}

TEST(LostAttempts, OfAJobThatWaitedAreToldToo) {
  Life life;
  life.begin().happen(AttemptsLost{Epoch(1)});
  EXPECT_EQ(life.job.status, Status::kRecovering);
  EXPECT_EQ(life.last.events.back().message,
            "Attempt 1 is not in the records any more, which were taken back.");
  life.place();
  EXPECT_EQ(life.job.epoch(), Epoch(2));
}

TEST(LostAttempts, AreNoFailuresOfTheJob) {
  Life life;
  life.begin();
  for (int i = 0; i < 3; ++i) {
    life.run().end(0, How::kNodeLost, 0);
  }
  life.run().happen(AttemptsLost{Epoch(9)});
  EXPECT_EQ(life.job.status, Status::kRecovering);
}

TEST(LostAttempts, ChangeNothingOfAJobThatIsOver) {
  Life life;
  life.begin().run().end(0, How::kExited, 0);
  life.happen(AttemptsLost{Epoch(3)});
  EXPECT_EQ(life.job.status, Status::kSucceeded);
  EXPECT_EQ(life.job.epoch(), Epoch(1));
}

}  // namespace
}  // namespace quad::job
