// The power switch of pretend nodes: fail, return, freeze, thaw.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <map>

#include "engine/local/test_bench.h"

namespace quad::engine::test {
namespace {

class LocalPower : public Bench {
 protected:
  const NodeId first_{"local-1"};
  const NodeId second_{"local-2"};

  Status act(const std::string& verb) { return engine_->node_action(first_, verb); }
  std::optional<NodeDown> down() {
    return seen_.wait_for<NodeDown>([&](const NodeDown& one) { return one.node == first_; });
  }
  std::optional<NodeBack> back() {
    return seen_.wait_for<NodeBack>([&](const NodeBack& one) { return one.node == first_; });
  }
  std::size_t told_of_first() {
    return seen_.count<NodeSeen>([&](const NodeSeen& one) { return one.node == first_; }) +
           seen_.count<NodeDown>([&](const NodeDown& one) { return one.node == first_; }) +
           seen_.count<NodeBack>([&](const NodeBack& one) { return one.node == first_; }) +
           seen_.count<RunnerEnded>([](const RunnerEnded&) { return true; });
  }
};

TEST_F(LocalPower, FailEndsEverythingOnTheNodeBeforeItIsCalledDown) {
  begin();
  const auto family = start_family(key(1));
  engine_->start(order(key(2), "wait", 2));
  const Said other = hear();
  ASSERT_TRUE(act("fail").ok());
  const auto told = down();
  ASSERT_TRUE(told);
  EXPECT_EQ(told->reason, "powered off");
  for (const auto& [word, pid] : family) {
    EXPECT_FALSE(lives(pid)) << word;
  }
  EXPECT_TRUE(lives(other.pid));
  EXPECT_EQ(seen_.count<RunnerEnded>([](const RunnerEnded&) { return true; }), 0U)
      << "a node without power does not tell how its ranks ended";
  seen_.clear();
  let_beats_pass(2);
  EXPECT_EQ(told_of_first(), 0U);
}

TEST_F(LocalPower, NothingStartsOnAFailedNodeUntilItReturns) {
  begin();
  ASSERT_TRUE(act("fail").ok());
  ASSERT_TRUE(act("fail").ok());
  engine_->start(order(key(1), "wait"));
  const auto failed =
      seen_.wait_for<StartFailed>([&](const StartFailed& one) { return one.key == key(1); });
  ASSERT_TRUE(failed);
  EXPECT_EQ(failed->reason, "local-1 is powered off");
  ASSERT_TRUE(act("return").ok());
  ASSERT_TRUE(back());
  EXPECT_EQ(seen_.count<NodeDown>([](const NodeDown&) { return true; }), 1U);
  engine_->start(order(key(2), "wait"));
  EXPECT_EQ(hear().key, "2-1-0");
  EXPECT_TRUE(seen_.wait_for<NodeSeen>([&](const NodeSeen& one) { return one.node == first_; }));
}

TEST_F(LocalPower, AFailedNodeStaysFailedOverARestart) {
  begin();
  start_family(key(1));
  ASSERT_TRUE(act("fail").ok());
  ASSERT_TRUE(down());
  const auto existing = begin();
  EXPECT_EQ(seen_.count<NodeDown>([&](const NodeDown& one) { return one.node == first_; }), 1U);
  ASSERT_EQ(existing.size(), 1U);
  EXPECT_FALSE(existing[0].alive);
  ASSERT_TRUE(existing[0].result);
  EXPECT_EQ(existing[0].result->how, job::RankEnd::How::kNodeLost);
  ASSERT_TRUE(act("return").ok());
  EXPECT_TRUE(back());
}

TEST_F(LocalPower, AServerKilledInTheMiddleOfAFailIsFinishedByTheNext) {
  begin();
  const auto family = start_family(key(1));
  engine_->end();
  ASSERT_TRUE(write_file_atomically(data_ / "nodes/local-1/state", "failed\n").ok());
  begin();
  ASSERT_TRUE(down());
  for (const auto& [word, pid] : family) {
    EXPECT_FALSE(lives(pid)) << word;
  }
}

TEST_F(LocalPower, FreezeStopsEveryProcessAndTheEngineSaysNothing) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(act("freeze").ok());
  engine_->start(order(key(2), "wait", 2));
  const Said other = hear();  // orders are carried out in turn: the freeze is done
  for (const auto& [word, pid] : family) {
    EXPECT_TRUE(stands_still(pid)) << word;
  }
  EXPECT_FALSE(stands_still(other.pid));
  seen_.clear();
  ::kill(family.at("up"), SIGKILL);
  let_beats_pass(2);
  EXPECT_EQ(told_of_first(), 0U);
  ASSERT_TRUE(act("thaw").ok());
  ASSERT_TRUE(back());
  EXPECT_TRUE(seen_.ended(key(1))) << "what happened meanwhile is told after the thaw";
  EXPECT_FALSE(lives(family.at("stray")));
}

TEST_F(LocalPower, ThawLetsEverythingGoOn) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(act("freeze").ok());
  ASSERT_TRUE(act("freeze").ok());
  ASSERT_TRUE(act("thaw").ok());
  ASSERT_TRUE(back());
  expect_going_on(family);
  for (const auto& [word, pid] : family) {
    EXPECT_TRUE(lives(pid)) << word;
  }
}

TEST_F(LocalPower, FreezeCatchesARankThatForksAllTheTime) {
  begin();
  engine_->start(order(key(1), "spawn"));
  const Said said = hear();
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(act("freeze").ok());
    engine_->start(order(key(10 + round), "wait", 2));
    hear();
    const auto found =
        find_members({{{*find_process(said.pid).value()}, said.key, folder(key(1)).string()}});
    ASSERT_TRUE(found.ok()) << found.error().message;
    for (const std::vector<Process>& members : *found) {
      EXPECT_FALSE(members.empty());
      for (const Process& process : members) {
        EXPECT_TRUE(process.stopped()) << process.pid << ' ' << process.state;
      }
    }
    ASSERT_TRUE(act("thaw").ok());
    ASSERT_TRUE(back());
    seen_.clear();
  }
  kill(key(1));
  EXPECT_TRUE(seen_.ended(key(1)));
}

TEST_F(LocalPower, OrdersToAFrozenNodeWaitForItsThaw) {
  begin();
  engine_->start(order(key(1), "wait"));
  const Said said = hear();
  ASSERT_TRUE(act("freeze").ok());
  kill(key(1));
  engine_->start(order(key(2), "wait"));
  engine_->start(order(key(3), "wait"));
  kill(key(3));
  EXPECT_TRUE(
      seen_.wait_for<StartFailed>([&](const StartFailed& one) { return one.key == key(3); }));
  EXPECT_TRUE(lives(said.pid));
  ASSERT_TRUE(act("thaw").ok());
  EXPECT_EQ(hear().key, "2-1-0");
  EXPECT_TRUE(seen_.ended(key(1)));
  EXPECT_FALSE(lives(said.pid));
}

TEST_F(LocalPower, AFrozenNodeStaysFrozenOverARestart) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(act("freeze").ok());
  const auto existing = begin();
  ASSERT_EQ(existing.size(), 1U);
  EXPECT_TRUE(existing[0].alive);
  for (const auto& [word, pid] : family) {
    EXPECT_TRUE(stands_still(pid)) << word;
  }
  let_beats_pass(2);
  EXPECT_EQ(told_of_first(), 0U);
  ASSERT_TRUE(act("thaw").ok());
  EXPECT_TRUE(back());
}

TEST_F(LocalPower, AServerKilledInTheMiddleOfAThawIsFinishedByTheNext) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(act("freeze").ok());
  engine_->end();
  ASSERT_TRUE(write_file_atomically(data_ / "nodes/local-1/state", "thawed\n").ok());
  begin();
  expect_going_on(family);
}

TEST_F(LocalPower, WhatSomebodyElseStoppedStaysStoppedOverARestart) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(act("freeze").ok());
  ASSERT_TRUE(act("thaw").ok());
  ASSERT_TRUE(back());
  for (int restart = 0; restart < 2; ++restart) {
    engine_->end();
    begin();
    if (restart == 0) {
      ::kill(family.begin()->second, SIGSTOP);
    }
  }
  let_beats_pass(2);
  EXPECT_TRUE(stands_still(family.begin()->second));
  ::kill(family.begin()->second, SIGCONT);
}

TEST_F(LocalPower, AFrozenNodeCanFail) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(act("freeze").ok());
  ASSERT_TRUE(act("fail").ok());
  ASSERT_TRUE(down());
  for (const auto& [word, pid] : family) {
    EXPECT_FALSE(lives(pid)) << word;
  }
  ASSERT_TRUE(act("return").ok());
  EXPECT_TRUE(back());
}

TEST_F(LocalPower, RefusesWhatMakesNoSenseInWordsThatHelp) {
  begin();
  EXPECT_EQ(engine_->node_action(NodeId("locl-1"), "fail").error().message,
            "There is no node 'locl-1'; did you mean 'local-1'?");
  EXPECT_EQ(act("reboot").error().message,
            "'reboot' cannot be done to a node; fail, return, freeze and thaw can");
  ASSERT_TRUE(act("fail").ok());
  EXPECT_EQ(act("thaw").error().message, "local-1 is powered off, not frozen; 'return' it");
  EXPECT_EQ(act("freeze").error().message,
            "local-1 is powered off and cannot be frozen; 'return' it first");
  ASSERT_TRUE(act("return").ok());
  ASSERT_TRUE(act("freeze").ok());
  EXPECT_EQ(act("return").error().message, "local-1 is frozen, not powered off; 'thaw' it");
  LocalEngineOptions real = options(1);
  real.nodes[0].spec.pretend = false;
  real.data_dir = data_ / "real";
  LocalEngine engine(real);
  ASSERT_TRUE(engine.begin([](const Observation&) {}).ok());
  EXPECT_EQ(engine.node_action(first_, "fail").error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace quad::engine::test
