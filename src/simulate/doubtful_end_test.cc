// Ends that the engine tells of without being certain: the job goes on elsewhere, behind the fence,
// and what the rank held stays held until its end is certain.

#include <gtest/gtest.h>

#include "simulate/core_fixture.h"

namespace quad::simulate {
namespace {

class DoubtfulEnd : public CoreTest {
 protected:
  const RankKey rank_{JobId(1), Epoch(1), Rank(0)};

  void SetUp() override {
    ASSERT_TRUE(core_.load({}, now_).ok());
    add_nodes({"n1", "n2"});
    submit(1, Millis(1'000));
    ASSERT_EQ(engine_.started, std::vector<RankKey>{rank_});
    hello(rank_);
  }
  [[nodiscard]] bool holds() const {
    return core_.snapshot()->pool.find(NodeId("n1"))->holdings.contains(rank_);
  }
  [[nodiscard]] Millis fence_wait() const {
    return core_.snapshot()->find(JobId(1))->attempts.back().fence_wait;
  }
  void expect_recovery_behind_the_fence() {
    ASSERT_EQ(engine_.started.size(), 2U);
    EXPECT_EQ(engine_.started[1].epoch, Epoch(2));
    EXPECT_EQ(fence_wait(), job::kFenceGrace);
    EXPECT_TRUE(holds());
  }
  void expect_certainty() {
    EXPECT_EQ(fence_wait(), Millis(0));
    EXPECT_FALSE(holds());
    EXPECT_EQ(core_.check(), "");
  }
};

TEST_F(DoubtfulEnd, OfAPodThatWasDeletedBehindItsNodesBack) {
  job::RankEnd end;
  end.how = job::RankEnd::How::kGone;
  end.confirmed = false;
  observe(engine::RunnerEnded{rank_, end, ""});
  expect_recovery_behind_the_fence();
  observe(engine::RunnerEnded{rank_, std::nullopt, ""});
  expect_certainty();
}

TEST_F(DoubtfulEnd, OfANodeThatWasRemovedFromTheCluster) {
  observe(engine::NodeDown{NodeId("n1"), "it was removed from the cluster", false});
  expect_recovery_behind_the_fence();
  observe(engine::NodeDown{NodeId("n1"), "it was removed from the cluster", true});
  expect_certainty();
}

TEST_F(DoubtfulEnd, OnANodeThatIsThereNoMoreKeepsTheNodeInTheListUntilItIsCertain) {
  observe(engine::NodeDown{NodeId("n1"), "it was removed from the cluster", false, true});
  expect_recovery_behind_the_fence();
  observe(engine::NodeDown{NodeId("n1"), "it was removed from the cluster", true, true});
  step({});
  now_.mono = now_.mono + Millis(250);
  step({});
  EXPECT_EQ(core_.snapshot()->pool.find(NodeId("n1")), nullptr);
  EXPECT_EQ(fence_wait(), Millis(0));
  EXPECT_EQ(core_.check(), "");
  observe(engine::NodeBack{NodeId("n1")});
  add_nodes({"n1"});
  EXPECT_EQ(core_.snapshot()->pool.find(NodeId("n1"))->health, pool::NodeHealth::kReady);
}

TEST_F(DoubtfulEnd, OnANodeThatThisServerHasNeverSeen) {
  core_.step({}, now_);
  control::Core next({}, *store_, engine_, plan::make_fifo(), runner_orders(), {});
  ASSERT_TRUE(next.load({}, now_).ok());
  std::vector<control::Message> messages;
  engine::Inventory inventory;
  inventory.engine = "noting";
  inventory.complete = false;
  messages.emplace_back(engine::Observation(inventory));
  messages.emplace_back(engine::Observation(
      engine::NodeDown{NodeId("n1"), "it was removed from the cluster", true, true}));
  engine_.killed.clear();
  next.step(std::move(messages), now_);
  EXPECT_EQ(engine_.killed, std::vector<RankKey>{rank_}) << "to be told once it is certain";
  const auto job = next.snapshot()->find(JobId(1));
  ASSERT_TRUE(job->attempts[0].ranks[0].end.has_value());
  EXPECT_TRUE(job->attempts[0].ranks[0].end->confirmed);
}

TEST_F(DoubtfulEnd, IsNoneWhereNothingRan) {
  observe(engine::NodeDown{NodeId("n2"), "it was removed from the cluster", false, true});
  EXPECT_EQ(core_.snapshot()->pool.find(NodeId("n2")), nullptr);
  EXPECT_EQ(engine_.started.size(), 1U);
  observe(engine::NodeDown{NodeId("n2"), "it was removed from the cluster", true, true});
  observe(engine::NodeSeen{NodeId("n2")});
  EXPECT_EQ(core_.check(), "");
}

}  // namespace
}  // namespace quad::simulate
