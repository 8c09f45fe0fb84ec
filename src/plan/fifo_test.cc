#include <gtest/gtest.h>

#include <algorithm>

#include "plan/scheduler.h"

namespace quad::plan {
namespace {

constexpr std::int64_t kGiB = 1LL << 30;

pool::Pool nodes(int count, int gpus, const std::string& model = "H100") {
  pool::Pool pool;
  for (int i = 1; i <= count; ++i) {
    pool.put_node({NodeId("n" + std::to_string(i)),
                   "127.0.0.1",
                   {64'000, 512 * kGiB, gpus},
                   gpus > 0 ? model : "",
                   true});
  }
  return pool;
}

job::Job waiting(std::int64_t id, int ranks, int gpus, int priority = 0,
                 const std::string& model = "H100", const std::string& owner = "ana") {
  auto request = std::make_shared<job::Request>();
  request->owner = owner;
  request->ranks = ranks;
  request->priority = priority;
  request->shapes = {{{4'000, 16 * kGiB, gpus}, gpus > 0 ? model : ""}};
  job::Job job;
  job.id = JobId(id);
  job.request = request;
  return job;
}

std::vector<std::int64_t> ids(const std::vector<Start>& starts) {
  std::vector<std::int64_t> out;
  for (const Start& start : starts) {
    out.push_back(start.job.value());
  }
  return out;
}

TEST(Fifo, StartsByPriorityThenByAge) {
  auto pool = nodes(1, 8);
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 1, 4));
  fifo->enqueue(waiting(2, 1, 4));
  fifo->enqueue(waiting(3, 1, 4, 10));
  EXPECT_EQ(ids(fifo->decide(pool, "")), (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(fifo->waiting(), 1U);
  EXPECT_EQ(pool.check(), "");
}

// As `waiting`, of another user.
job::Job of(const std::string& owner, std::int64_t id, int ranks, int gpus, int priority = 0) {
  return waiting(id, ranks, gpus, priority, "H100", owner);
}

TEST(Fifo, UsersOfOnePriorityTakeTurns) {
  auto pool = nodes(1, 8);
  auto fifo = make_fifo();
  for (int id = 1; id <= 6; ++id) {
    fifo->enqueue(of("ana", id, 1, 1));
  }
  fifo->enqueue(of("bo", 7, 1, 1));
  fifo->enqueue(of("bo", 8, 1, 1));
  fifo->enqueue(of("cy", 9, 1, 1, 5));
  EXPECT_EQ(ids(fifo->decide(pool, "")), (std::vector<std::int64_t>{9, 1, 7, 2, 8, 3, 4, 5}));
}

TEST(Fifo, ThousandsOfGangsOfOneUserHoldUpAnotherForOneOfThem) {
  auto pool = nodes(2, 8);
  auto fifo = make_fifo();
  for (int id = 1; id <= 1000; ++id) {
    fifo->enqueue(of("ana", id, 2, 8));
  }
  ASSERT_EQ(ids(fifo->decide(pool, "")), std::vector<std::int64_t>{1});
  fifo->enqueue(of("bo", 2000, 1, 1));
  EXPECT_TRUE(fifo->decide(pool, "").empty());
  EXPECT_EQ(fifo->queue()->why(JobId(2000))->position, 1) << "it is bo's turn";
  EXPECT_EQ(fifo->queue()->why(JobId(2))->position, 2);
  for (const int rank : {0, 1}) {
    pool.release(RankKey{JobId(1), Epoch(1), Rank(rank)});
  }
  EXPECT_EQ(ids(fifo->decide(pool, "")), std::vector<std::int64_t>{2000});
  fifo->enqueue(of("bo", 2001, 1, 1));
  EXPECT_EQ(fifo->queue()->why(JobId(2))->position, 1) << "and then ana's again";
  EXPECT_EQ(fifo->queue()->why(JobId(2001))->position, 2);
}

TEST(Fifo, WhatLostItsPlaceGoesBeforeEverybodysTurn) {
  auto pool = nodes(1, 8);
  auto fifo = make_fifo();
  fifo->enqueue(of("ana", 1, 1, 8));
  ASSERT_EQ(fifo->decide(pool, "").size(), 1U);
  fifo->enqueue(of("bo", 2, 1, 8));
  job::Job again = of("ana", 1, 1, 8);
  again.attempts.emplace_back();
  again.attempts.back().epoch = Epoch(1);
  fifo->enqueue(again);
  pool.release(RankKey{JobId(1), Epoch(1), Rank(0)});
  EXPECT_EQ(ids(fifo->decide(pool, "")), std::vector<std::int64_t>{1});
}

TEST(Fifo, ACopyOfTheTurnsGivesTheSameOrder) {
  auto pool = nodes(1, 2);
  auto fifo = make_fifo();
  for (const int id : {1, 2, 3}) {
    fifo->enqueue(of("ana", id, 1, 1));
  }
  ASSERT_EQ(ids(fifo->decide(pool, "")), (std::vector<std::int64_t>{1, 2}));
  fifo->enqueue(of("bo", 4, 1, 1));
  const auto first = fifo->queue();
  auto copy = make_fifo(first->turns);
  for (const int id : {3, 4}) {
    copy->enqueue(of(id == 3 ? "ana" : "bo", id, 1, 1));
  }
  EXPECT_EQ(copy->queue()->order, first->order);
  EXPECT_EQ(first->order.front(), JobId(4));
}

TEST(Fifo, StartsAGangWhollyOrNotAtAll) {
  auto pool = nodes(2, 8);
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 3, 8));
  EXPECT_TRUE(fifo->decide(pool, "").empty());
  EXPECT_EQ(pool.find(NodeId("n1"))->free.gpus, 8);
  const auto why = fifo->queue()->why(JobId(1));
  ASSERT_TRUE(why);
  EXPECT_TRUE(why->impossible);
}

TEST(Fifo, KeepsAGangWithinOneEngine) {
  auto pool = nodes(2, 8);
  for (const char* name : {"west:n1", "west:n2"}) {
    auto spec = pool.find(NodeId("n1"))->spec;
    spec.id = NodeId(name);
    spec.engine = "west";
    pool.put_node(spec);
  }
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 1, 8));
  ASSERT_EQ(fifo->decide(pool, "").size(), 1U);
  fifo->enqueue(waiting(2, 2, 8));
  const auto starts = fifo->decide(pool, "");
  ASSERT_EQ(starts.size(), 1U) << "two are free in the one engine, and one in the other";
  EXPECT_EQ(starts[0].holdings[0].node, NodeId("west:n1"));
  EXPECT_EQ(starts[0].holdings[1].node, NodeId("west:n2"));
  fifo->enqueue(waiting(3, 3, 8));
  EXPECT_TRUE(fifo->decide(pool, "").empty());
  EXPECT_TRUE(fifo->queue()->why(JobId(3))->impossible) << "no engine has three nodes";
}

TEST(Fifo, StartsAJobOnlyInTheEngineThatItNames) {
  auto pool = nodes(1, 8);
  auto fifo = make_fifo();
  job::Job job = waiting(1, 1, 1);
  auto request = std::make_shared<job::Request>(*job.request);
  request->shapes[0].engine = "west";
  job.request = request;
  fifo->enqueue(job);
  EXPECT_TRUE(fifo->decide(pool, "").empty());
  auto spec = pool.find(NodeId("n1"))->spec;
  spec.id = NodeId("west:n1");
  spec.engine = "west";
  pool.put_node(spec);
  EXPECT_EQ(ids(fifo->decide(pool, "")), (std::vector<std::int64_t>{1}));
}

TEST(Fifo, SpreadsRanksOverNodes) {
  auto pool = nodes(3, 8);
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 2, 1));
  const auto starts = fifo->decide(pool, "");
  ASSERT_EQ(starts.size(), 1U);
  EXPECT_EQ(starts[0].holdings[0].node, NodeId("n1"));
  EXPECT_EQ(starts[0].holdings[1].node, NodeId("n2"));
}

TEST(Fifo, SmallJobsDoNotStarveALargeGang) {
  auto pool = nodes(2, 8);
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 1, 1));
  ASSERT_EQ(fifo->decide(pool, "").size(), 1U);
  fifo->enqueue(waiting(2, 2, 8));
  fifo->enqueue(waiting(3, 1, 1));
  EXPECT_TRUE(fifo->decide(pool, "").empty());
  EXPECT_EQ(fifo->queue()->why(JobId(3))->code, "behind_others");
  EXPECT_EQ(fifo->queue()->why(JobId(2))->position, 1);
  pool.release(RankKey{JobId(1), Epoch(1), Rank(0)});
  EXPECT_EQ(ids(fifo->decide(pool, "")), std::vector<std::int64_t>{2});
}

TEST(Fifo, NodesThatAWaitingJobCannotUseStayOpen) {
  auto pool = nodes(1, 8);
  pool.put_node({NodeId("cpu"), "127.0.0.1", {64'000, 512 * kGiB, 0}, "", true});
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 1, 8));
  fifo->enqueue(waiting(2, 1, 8));
  fifo->enqueue(waiting(3, 1, 0));
  EXPECT_EQ(ids(fifo->decide(pool, "")), (std::vector<std::int64_t>{1, 3}));
}

TEST(Fifo, AvoidsANodeThatFailedTheJobWhileOthersCouldHoldIt) {
  auto pool = nodes(2, 8);
  auto fifo = make_fifo();
  job::Job job = waiting(1, 1, 1);
  job.avoid_nodes = {NodeId("n1")};
  fifo->enqueue(job);
  auto starts = fifo->decide(pool, "");
  ASSERT_EQ(starts.size(), 1U);
  EXPECT_EQ(starts[0].holdings[0].node, NodeId("n2"));
  job::Job both = waiting(2, 2, 8);
  both.avoid_nodes = {NodeId("n1")};
  pool.release(RankKey{JobId(1), Epoch(1), Rank(0)});
  fifo->enqueue(both);
  EXPECT_EQ(fifo->decide(pool, "").size(), 1U);
}

TEST(Fifo, StartsNothingWhileFrozenOrOnUnhealthyNodes) {
  auto pool = nodes(1, 8);
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 1, 1));
  EXPECT_TRUE(fifo->decide(pool, "cut off").empty());
  EXPECT_EQ(fifo->queue()->why(JobId(1))->code, "breaker");
  pool.set_health(NodeId("n1"), pool::NodeHealth::kSuspect, "silent");
  EXPECT_TRUE(fifo->decide(pool, "").empty());
  pool.set_health(NodeId("n1"), pool::NodeHealth::kReady, "");
  EXPECT_EQ(fifo->decide(pool, "").size(), 1U);
}

TEST(Fifo, NodesWithoutADeviceAreLeftOutAndThatIsSaid) {
  auto pool = nodes(2, 8);
  pool::NodeSpec wired = pool.find(NodeId("n2"))->spec;
  wired.capacity.devices = {{"rdma/hca", 1}};
  pool.put_node(wired);
  auto fifo = make_fifo();
  const auto with_rdma = [](std::int64_t id, int ranks) {
    job::Job job = waiting(id, ranks, 1);
    auto request = std::make_shared<job::Request>(*job.request);
    request->shapes[0].per_rank.devices = {{"rdma/hca", 1}};
    job.request = request;
    return job;
  };
  fifo->enqueue(with_rdma(1, 1));
  fifo->enqueue(with_rdma(2, 1));
  const auto starts = fifo->decide(pool, "");
  ASSERT_EQ(ids(starts), std::vector<std::int64_t>{1}) << "there is one such device";
  EXPECT_EQ(starts[0].holdings[0].node, NodeId("n2"));
  const auto why = fifo->queue()->why(JobId(2));
  ASSERT_TRUE(why);
  EXPECT_NE(why->message.find("1 rdma/hca"), std::string::npos) << why->message;
  const auto step = std::find_if(why->funnel.begin(), why->funnel.end(), [](const auto& one) {
    return one.condition == "with 1 rdma/hca";
  });
  ASSERT_NE(step, why->funnel.end());
  EXPECT_EQ(step->nodes, 1);
  EXPECT_EQ(pool.check(), "");
}

TEST(Fifo, ANodeForGpusIsNoPlaceForOthers) {
  auto pool = nodes(1, 8);
  pool::NodeSpec tainted = pool.find(NodeId("n1"))->spec;
  tainted.only_gpus = true;
  pool.put_node(tainted);
  auto fifo = make_fifo();
  fifo->enqueue(waiting(1, 1, 0));
  fifo->enqueue(waiting(2, 1, 1));
  EXPECT_EQ(ids(fifo->decide(pool, "")), std::vector<std::int64_t>{2});
}

/// A node that is only for those who name its engine.
pool::NodeSpec cluster_node(const std::string& name, int gpus) {
  pool::NodeSpec spec;
  spec.id = NodeId(name);
  spec.capacity = {4'000, 16 * kGiB, gpus};
  spec.gpu_model = "H100";
  spec.engine = "cluster dev";
  spec.by_name = true;
  return spec;
}

job::Job on_cluster(std::int64_t id, int gpus) {
  job::Job job = waiting(id, 1, gpus);
  auto request = std::make_shared<job::Request>(*job.request);
  request->shapes = {{{500, 0, gpus}, "H100", "cluster dev"}};
  job.request = request;
  return job;
}

TEST(Fifo, KeepsClustersAndMachinesApart) {
  pool::Pool pool = nodes(1, 8);
  pool.put_node(cluster_node("dev:0@1.1", 8));
  auto fifo = make_fifo();
  fifo->enqueue(waiting(2, 1, 8));
  fifo->enqueue(waiting(3, 1, 8));
  fifo->enqueue(on_cluster(4, 4));
  fifo->enqueue(on_cluster(5, 4));
  fifo->enqueue(on_cluster(6, 4));
  const auto starts = fifo->decide(pool, "");
  EXPECT_EQ(ids(starts), (std::vector<std::int64_t>{2, 4, 5}));
  EXPECT_EQ(starts[0].holdings[0].node.value(), "n1");
  EXPECT_EQ(starts[1].holdings[0].node.value(), "dev:0@1.1");
  const auto why = fifo->queue()->why(JobId(3));
  EXPECT_EQ(why->funnel.front().nodes, 1) << "the cluster's node is none for it";
  EXPECT_NE(fifo->queue()->why(JobId(6))->message.find("No node has that free now"),
            std::string::npos);
}

TEST(Fifo, WaitsForAClusterThatIsNotUpYet) {
  pool::Pool pool = nodes(2, 8);
  auto fifo = make_fifo();
  fifo->enqueue(on_cluster(2, 4));
  fifo->enqueue(waiting(3, 2, 8));
  EXPECT_EQ(ids(fifo->decide(pool, "")), (std::vector<std::int64_t>{3}));
  const auto why = fifo->queue()->why(JobId(2));
  EXPECT_EQ(why->code, "engine_has_no_nodes");
  EXPECT_EQ(why->message, "It waits for cluster dev, which has no nodes yet.");
  EXPECT_FALSE(why->impossible);
}

}  // namespace
}  // namespace quad::plan
