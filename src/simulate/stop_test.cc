// When the engine ends ranks that do not stop by themselves: the real control core, with an engine
// that only notes its orders.

#include <gtest/gtest.h>

#include "simulate/core_fixture.h"

namespace quad::simulate {
namespace {

class Stopping : public CoreTest {
 protected:
  static constexpr Millis kGrace{30'000};
  const RankKey head_{JobId(1), Epoch(1), Rank(0)};
  const RankKey other_{JobId(1), Epoch(1), Rank(1)};

  void cancel() {
    std::vector<control::Message> messages;
    messages.emplace_back(control::CancelJob{head_.job, "ana", [](const Status& /*status*/) {}});
    step(std::move(messages));
  }
  /// Lets time pass, with both channels of the node alive; returns when the head was killed, if it
  /// was.
  std::optional<MonoTime> pass(Millis time) {
    for (const MonoTime end = now_.mono + time; now_.mono < end;) {
      now_.mono = now_.mono + Millis(100);
      now_.wall = now_.wall + Millis(100);
      core_.live().connected(head_, now_);
      std::vector<control::Message> messages;
      for (const char* name : {"n1", "n2"}) {
        messages.emplace_back(engine::Observation(engine::NodeSeen{NodeId(name)}));
      }
      step(std::move(messages));
      if (!engine_.killed.empty()) {
        return now_.mono;
      }
    }
    return std::nullopt;
  }

  /// A job of two ranks, of which one has failed and the other has been told to stop.
  void SetUp() override {
    ASSERT_TRUE(core_.load({}, now_).ok());
    add_nodes({"n1", "n2"});
    submit(2, kGrace);
    ASSERT_EQ(engine_.started.size(), 2U);
    hello(head_);
    hello(other_);
    job::RankEnd end;
    end.code = 3;
    report(other_, job::RankEnded{other_.epoch, other_.rank, end});
    ASSERT_EQ(told_, std::vector<Millis>{Millis(0)});
  }
};

// Once one rank has failed, the others are given no grace, and the engine's patience with their
// runners is short.
constexpr Millis kSoon{5'000};

TEST_F(Stopping, ARankThatDoesNotEndIsKilledSoon) {
  const MonoTime began = now_.mono;
  const auto killed = pass(Millis(60'000));
  ASSERT_TRUE(killed);
  EXPECT_EQ(engine_.killed, std::vector<RankKey>{head_});
  EXPECT_GT((*killed - began).count(), 1'000);
  EXPECT_LE((*killed - began).count(), kSoon.count());
}

TEST_F(Stopping, ACancelMeanwhileGivesItNoMoreTime) {
  const MonoTime began = now_.mono;
  ASSERT_FALSE(pass(Millis(1'000)));
  cancel();
  ASSERT_EQ(told_.size(), 2U);
  EXPECT_EQ(told_[1], kGrace);
  const auto killed = pass(Millis(60'000));
  ASSERT_TRUE(killed);
  EXPECT_LE((*killed - began).count(), kSoon.count());
}

TEST_F(Stopping, ARunnerThatComesBackAgainAndAgainGetsNoMoreTime) {
  const MonoTime began = now_.mono;
  std::optional<MonoTime> killed;
  while (!killed && now_.mono - began < Millis(60'000)) {
    hello(head_);
    killed = pass(Millis(500));
  }
  ASSERT_TRUE(killed);
  EXPECT_LE((*killed - began).count(), kSoon.count());
}

}  // namespace
}  // namespace quad::simulate
