#include "server/work_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <mutex>
#include <stdexcept>

namespace quad::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

void ignore(const std::exception_ptr& /*failure*/) {}

/// Keeps the threads of a pool busy until it is opened.
class Gate {
 public:
  bool wait() {
    opened_.wait();
    return false;
  }
  void open() { promise_.set_value(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> opened_ = promise_.get_future().share();
};

TEST(WorkPool, CallersTakeTurnsHoweverMuchOneBrings) {
  Gate gate;
  std::mutex mutex;
  std::vector<std::string> order;
  std::promise<void> ended;
  WorkPool pool({.threads = 1});
  ASSERT_TRUE(pool.add(
                      "gate", [&] { return gate.wait(); }, ignore)
                  .ok());
  const auto piece = [&](std::string name) {
    return [&, name = std::move(name)] {
      const std::lock_guard lock(mutex);
      order.push_back(name);
      return false;
    };
  };
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(pool.add("alice", piece("alice"), ignore).ok());
  }
  ASSERT_TRUE(pool.add("bob", piece("bob"), ignore).ok());
  ASSERT_TRUE(pool.add("carol", piece("carol"), ignore).ok());
  ASSERT_TRUE(pool.add("bob", piece("bob"), ignore).ok());
  ASSERT_TRUE(pool.add(
                      "alice", [] { return false; }, [&](auto) { ended.set_value(); })
                  .ok());
  gate.open();
  ended.get_future().wait();
  EXPECT_THAT(order, ElementsAre("alice", "bob", "carol", "alice", "bob", "alice", "alice"));
}

TEST(WorkPool, LongWorkGivesTheOthersATurnAfterEachPiece) {
  std::promise<void> short_done;
  std::promise<void> long_done;
  std::atomic<bool> seen = false;
  WorkPool pool({.threads = 1});
  auto answered = short_done.get_future().share();
  std::promise<void> begun;
  // It goes on until the other one was answered, which it would never be if it had to wait.
  ASSERT_TRUE(pool.add(
                      "alice",
                      [&, first = true]() mutable {
                        if (std::exchange(first, false)) {
                          begun.set_value();
                        }
                        return answered.wait_for(std::chrono::seconds(0)) !=
                               std::future_status::ready;
                      },
                      [&](auto) { long_done.set_value(); })
                  .ok());
  begun.get_future().wait();
  ASSERT_TRUE(pool.add(
                      "bob",
                      [&] {
                        seen = true;
                        return false;
                      },
                      [&](auto) { short_done.set_value(); })
                  .ok());
  long_done.get_future().wait();
  EXPECT_TRUE(seen);
}

TEST(WorkPool, OneCallerNeverHasAllThreads) {
  Gate gate;
  std::promise<void> answered;
  WorkPool pool({.threads = 2});
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(pool.add(
                        "alice", [&] { return gate.wait(); }, ignore)
                    .ok());
  }
  ASSERT_TRUE(pool.add(
                      "bob", [] { return false; }, [&](auto) { answered.set_value(); })
                  .ok());
  answered.get_future().wait();  // though alice's wait
  gate.open();
}

TEST(WorkPool, RefusesWhatIsTooMuchOfOneAndOfAll) {
  Gate gate;
  WorkPool pool({.threads = 1, .most_of_caller = 2, .most = 3});
  const auto add = [&](const std::string& caller) {
    return pool.add(
        caller, [&] { return gate.wait(); }, ignore);
  };
  ASSERT_TRUE(add("alice").ok());
  ASSERT_TRUE(add("alice").ok());
  const Status third = add("alice");
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code, ErrorCode::kExhausted);
  EXPECT_THAT(third.error().message, HasSubstr("alice has 2 requests under way already"));
  ASSERT_TRUE(add("bob").ok());
  const Status fourth = add("carol");
  ASSERT_FALSE(fourth.ok());
  EXPECT_EQ(fourth.error().code, ErrorCode::kUnavailable);
  gate.open();
}

TEST(WorkPool, WhatNobodyWantsAnyMoreIsDropped) {
  Gate gate;
  std::promise<void> dropped;
  std::atomic<int> done = 0;
  WorkPool pool({.threads = 1});
  ASSERT_TRUE(pool.add(
                      "gate", [&] { return gate.wait(); }, ignore)
                  .ok());
  std::stop_source gone;
  ASSERT_TRUE(pool.add(
                      "alice",
                      [&] {
                        ++done;
                        return true;
                      },
                      [&](auto) { dropped.set_value(); }, gone.get_token())
                  .ok());
  gone.request_stop();
  gate.open();
  dropped.get_future().wait();
  EXPECT_EQ(done, 0);
}

TEST(WorkPool, AnExceptionEndsItsWorkAndNothingElse) {
  WorkPool pool({.threads = 1});
  std::promise<std::exception_ptr> ended;
  ASSERT_TRUE(pool.add(
                      "alice", []() -> bool { throw std::runtime_error("no memory"); },
                      [&](const std::exception_ptr& failure) { ended.set_value(failure); })
                  .ok());
  EXPECT_THROW(std::rethrow_exception(ended.get_future().get()), std::runtime_error);
  std::promise<void> next;
  ASSERT_TRUE(pool.add(
                      "alice", [] { return false; }, [&](auto) { next.set_value(); })
                  .ok());
  next.get_future().wait();
}

TEST(WorkPool, ItsEndDropsWhatWaits) {
  std::atomic<int> done = 0;
  {
    Gate gate;
    std::promise<void> begun;
    WorkPool pool({.threads = 1});
    ASSERT_TRUE(pool.add(
                        "gate",
                        [&] {
                          begun.set_value();
                          return gate.wait();
                        },
                        ignore)
                    .ok());
    begun.get_future().wait();
    for (int i = 0; i < 10; ++i) {
      ASSERT_TRUE(pool.add(
                          "alice",
                          [&] {
                            ++done;
                            return true;
                          },
                          ignore)
                      .ok());
    }
    gate.open();
  }
  SUCCEED() << done;
}

}  // namespace
}  // namespace quad::server
