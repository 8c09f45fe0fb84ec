// simulate/core_fixture.h
//
// For tests of single rules of the control core: the real core, with an engine that only notes its
// orders, and time that passes when the test says so.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "control/core.h"
#include "plan/scheduler.h"
#include "simulate/memory_store.h"

namespace quad::simulate {

class NotingEngine final : public engine::Engine {
 public:
  Result<std::vector<engine::Inventory>> begin(engine::Sink /*sink*/) override {
    return std::vector<engine::Inventory>();
  }
  [[nodiscard]] std::string engine_of(const NodeId& /*node*/) const override { return "noting"; }
  void start(const engine::StartOrder& order) override { started.push_back(order.key); }
  void kill(const RankKey& key, const NodeId& /*node*/, Millis /*grace*/) override {
    killed.push_back(key);
  }
  void forget(const RankKey& /*key*/, const NodeId& /*node*/) override {}
  Status node_action(const NodeId& /*node*/, const std::string& /*verb*/) override { return {}; }
  void end() override {}

  std::vector<RankKey> started, killed;
};

class CoreTest : public testing::Test {
 protected:
  std::unique_ptr<store::Store> store_ = make_memory_store([] { return Status(); });
  NotingEngine engine_;
  Now now_{WallTime{1'795'454'200'000}, MonoTime{1'000'000}};
  std::vector<Millis> told_;  ///< the grace of each order to stop
  control::RunnerOrders runner_orders() {
    return {.order = [](const RankKey& /*key*/, const auto& /*job*/) {},
            .go = [](const RankKey& /*key*/, const auto& /*job*/) {},
            .end_fence_wait = [](const RankKey& /*key*/) {},
            .stop = [this](const RankKey& /*key*/, Millis grace,
                           const std::string& /*reason*/) { told_.push_back(grace); },
            .leave = [](const RankKey& /*key*/, const std::string& /*nonce*/,
                        const std::string& /*reason*/) {},
            .bye = [](const RankKey& /*key*/) {}};
  }
  control::Core core_{{},
                      *store_,
                      engine_,
                      plan::make_fifo(),
                      runner_orders(),
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
  void observe(engine::Observation observation) {
    std::vector<control::Message> messages;
    messages.emplace_back(std::move(observation));
    step(std::move(messages));
  }
  void add_nodes(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      pool::NodeSpec node;
      node.id = NodeId(name);
      node.address = "127.0.0.1";
      node.capacity = {8'000, 8'000'000'000, 0};
      observe(engine::NodeFound{std::move(node)});
    }
  }
  void submit(std::int32_t ranks, Millis stop_grace) {
    job::Request request;
    request.name = "gang";
    request.owner = "ana";
    request.ranks = ranks;
    request.shapes = {{{5'000, 1'000'000'000, 0}, ""}};
    request.stop_grace = stop_grace;
    request.body = "{}";
    std::vector<control::Message> messages;
    messages.emplace_back(
        control::SubmitJobs{{{std::move(request), ""}}, [](const auto& /*ids*/) {}});
    step(std::move(messages));
  }
};

}  // namespace quad::simulate
