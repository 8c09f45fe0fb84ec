// When the control core takes itself for the one that is cut off, and for how long.

#include <gtest/gtest.h>

#include "simulate/core_fixture.h"

namespace quad::simulate {
namespace {

class Breaker : public CoreTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(core_.load({}, now_).ok());
    add_nodes({"n1", "n2", "n3"});
    submit(2, Millis(1'000));
    ASSERT_EQ(engine_.started.size(), 2U);
    hello({JobId(1), Epoch(1), Rank(0)});
    hello({JobId(1), Epoch(1), Rank(1)});
  }
  /// Time in which only these nodes are heard of, and no rank is.
  void pass(Millis time, const std::vector<std::string>& alive) {
    for (const MonoTime end = now_.mono + time; now_.mono < end;) {
      now_.mono = now_.mono + Millis(500);
      now_.wall = now_.wall + Millis(500);
      std::vector<control::Message> messages;
      for (const std::string& name : alive) {
        messages.emplace_back(engine::Observation(engine::NodeSeen{NodeId(name)}));
      }
      step(std::move(messages));
    }
  }
  [[nodiscard]] std::string breaker() const { return core_.snapshot()->breaker; }
  [[nodiscard]] Epoch epoch() const { return core_.snapshot()->find(JobId(1))->epoch(); }
  [[nodiscard]] job::Status status() const { return core_.snapshot()->find(JobId(1))->status; }
};

constexpr Millis kHour{3'600'000};
const Millis kLostAfter = control::Options().node_lost_after;

TEST_F(Breaker, StaysOpenForAsLongAsTheNodesAreSilent) {
  pass(kHour, {"n3"});
  EXPECT_TRUE(breaker().starts_with("2 of 3 nodes fell silent")) << breaker();
  EXPECT_EQ(status(), job::Status::kStarting) << "nothing is given up";
}

TEST_F(Breaker, ClosesWhenTheNodesAreBack) {
  pass(kHour, {"n3"});
  pass(Millis(1'000), {"n1", "n2", "n3"});
  EXPECT_EQ(breaker(), "");
  EXPECT_EQ(epoch(), Epoch(1));
}

TEST_F(Breaker, ClosesWhenOneIsBackAndTheOtherIsThenJudgedByItself) {
  pass(kHour, {"n3"});
  pass(Millis(1'000), {"n1", "n3"});
  EXPECT_EQ(breaker(), "");
  EXPECT_EQ(core_.snapshot()->pool.find(NodeId("n2"))->health, pool::NodeHealth::kSuspect);
  pass(kLostAfter, {"n1", "n3"});
  EXPECT_EQ(core_.snapshot()->pool.find(NodeId("n2"))->health, pool::NodeHealth::kLost);
}

TEST_F(Breaker, NothingIsGivenUpWhenOneIsBackALittleLaterThanTheOther) {
  pass(kHour, {"n3"});
  pass(kLostAfter / 2, {"n1", "n3"});
  pass(kHour, {"n1", "n2", "n3"});
  EXPECT_EQ(epoch(), Epoch(1));
}

TEST_F(Breaker, ClosesWhenTheDeathOfANodeIsCertain) {
  pass(kHour, {"n3"});
  observe(engine::NodeDown{NodeId("n1"), "it was removed from the cluster"});
  pass(Millis(1'000), {"n3"});
  EXPECT_EQ(breaker(), "");
}

TEST_F(Breaker, IsNotOpenedByOneNodeAloneAndAnotherLongBefore) {
  pass(kHour, {"n2", "n3"});
  EXPECT_EQ(breaker(), "");
  pass(kHour, {"n3"});
  EXPECT_EQ(breaker(), "");
}

}  // namespace
}  // namespace quad::simulate
