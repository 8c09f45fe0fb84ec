// When the engine ends ranks that do not stop by themselves: the real control core, with an engine
// that only notes its orders.

#include <gtest/gtest.h>

#include "control/core.h"
#include "plan/scheduler.h"
#include "simulate/memory_store.h"

namespace quad::simulate {
namespace {

class NotingEngine final : public engine::Engine {
 public:
  Result<std::vector<engine::Inventory>> begin(engine::Sink /*sink*/) override {
    return std::vector<engine::Inventory>();
  }
  [[nodiscard]] std::string engine_of(const NodeId& /*node*/) const override { return "noting"; }
  void start(const engine::StartOrder& order) override { started.push_back(order.key); }
  void kill(const RankKey& key, const NodeId& /*node*/) override { killed.push_back(key); }
  void forget(const RankKey& /*key*/, const NodeId& /*node*/) override {}
  Status node_action(const NodeId& /*node*/, const std::string& /*verb*/) override { return {}; }
  void end() override {}

  std::vector<RankKey> started, killed;
};

class Stopping : public testing::Test {
 protected:
  static constexpr Millis kGrace{30'000};
  const RankKey head_{JobId(1), Epoch(1), Rank(0)};
  const RankKey other_{JobId(1), Epoch(1), Rank(1)};

  std::unique_ptr<store::Store> store_ = make_memory_store([] { return Status(); });
  NotingEngine engine_;
  Now now_{WallTime{1'795'454'200'000}, MonoTime{1'000'000}};
  std::vector<Millis> told_;  ///< the grace of each order to stop
  control::Core core_{{},
                      *store_,
                      engine_,
                      plan::make_fifo(),
                      {.order = [](const RankKey& /*key*/, const auto& /*job*/) {},
                       .go = [](const RankKey& /*key*/, const auto& /*job*/) {},
                       .end_fence_wait = [](const RankKey& /*key*/) {},
                       .stop = [this](const RankKey& /*key*/, Millis grace,
                                      const std::string& /*reason*/) { told_.push_back(grace); },
                       .leave = [](const RankKey& /*key*/, const std::string& /*nonce*/,
                                   const std::string& /*reason*/) {},
                       .bye = [](const RankKey& /*key*/) {}},
                      [](const auto& /*snapshot*/, const auto& /*events*/) {}};

  void step(std::vector<control::Message> messages) { core_.step(std::move(messages), now_); }
  void report(const RankKey& key, job::Happening happening) {
    std::vector<control::Message> messages;
    messages.emplace_back(control::RunnerReport{key, "nonce", std::move(happening), {}});
    step(std::move(messages));
  }
  void hello(const RankKey& key) {
    report(key, job::RankHello{key.epoch, key.rank, "nonce", "127.0.0.1", 4'000, 7});
  }
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
    std::vector<control::Message> messages;
    for (const char* name : {"n1", "n2"}) {
      pool::NodeSpec node;
      node.id = NodeId(name);
      node.address = "127.0.0.1";
      node.capacity = {8'000, 8'000'000'000, 0};
      messages.emplace_back(engine::Observation(engine::NodeFound{node}));
    }
    job::Request request;
    request.name = "two";
    request.owner = "ana";
    request.ranks = 2;
    request.shapes = {{{1'000, 1'000'000'000, 0}, ""}};
    request.stop_grace = kGrace;
    request.body = "{}";
    messages.emplace_back(
        control::SubmitJobs{{{std::move(request), ""}}, [](const auto& /*ids*/) {}});
    step(std::move(messages));
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
