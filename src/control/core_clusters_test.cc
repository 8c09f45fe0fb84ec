// Clusters, driven step by step: a holder's runners and those of its tasks say what the test says,
// and the clock stands where the test puts it.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>

#include "control/core.h"
#include "engine/clusters.h"

namespace quad::control {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

/// Keeps what was committed, so that another server can begin with it.
class Records final : public store::Store {
 public:
  Result<store::Loaded> load() override {
    store::Loaded loaded;
    for (const auto& [id, job] : jobs_) {
      loaded.jobs.push_back(job);
    }
    loaded.last_revision = last_;
    loaded.settings.assign(settings_.begin(), settings_.end());
    return loaded;
  }
  Status commit(const store::Batch& batch) override {
    for (const auto& one : batch.new_jobs) {
      jobs_[one.job->id.value()] = *one.job;
    }
    for (const job::Job* job : batch.changed_jobs) {
      jobs_[job->id.value()] = *job;
    }
    for (const auto& [key, value] : batch.settings) {
      if (value.empty()) {
        settings_.erase(key);
      } else {
        settings_[key] = value;
      }
    }
    for (const job::Event& event : batch.events) {
      last_ = event.revision;
      messages.push_back(event.kind + ": " + event.message);
    }
    return {};
  }
  [[nodiscard]] Status room() const override { return {}; }
  Result<std::vector<job::Event>> events(const store::EventFilter& /*filter*/) const override {
    return std::vector<job::Event>();
  }
  Result<std::string> body(JobId /*job*/) const override { return std::string("{}"); }
  Status backup(const std::filesystem::path& /*to*/) const override { return {}; }
  Result<std::vector<std::string>> check() const override { return std::vector<std::string>(); }

  std::vector<std::string> messages;

 private:
  std::map<std::int64_t, job::Job> jobs_;
  std::map<std::string, std::string> settings_;
  Revision last_;
};

class Machines final : public engine::Engine {
 public:
  explicit Machines(std::vector<std::string>& told) : told_(told) {}
  Result<std::vector<engine::Inventory>> begin(engine::Sink /*sink*/) override {
    return std::vector<engine::Inventory>();
  }
  [[nodiscard]] std::string engine_of(const NodeId& /*node*/) const override { return "local"; }
  void start(const engine::StartOrder& order) override {
    told_.push_back("start " + to_string(order.key));
  }
  void kill(const RankKey& key, const NodeId& /*node*/, Millis /*grace*/) override {
    told_.push_back("kill " + to_string(key));
  }
  void forget(const RankKey& /*key*/, const NodeId& /*node*/) override {}
  Status node_action(const NodeId& /*node*/, const std::string& /*verb*/) override { return {}; }
  void end() override {}

 private:
  std::vector<std::string>& told_;
};

RankKey key(std::int64_t job, std::int32_t epoch, std::int32_t rank = 0) {
  return {JobId(job), Epoch(epoch), Rank(rank)};
}

class CoreClusters : public ::testing::Test {
 protected:
  void SetUp() override {
    begin({});
    find_nodes();
  }

  void find_nodes() {
    for (const char* name : {"n1", "n2", "n3"}) {
      pool::NodeSpec spec;
      spec.id = NodeId(name);
      spec.capacity = {8'000, 1LL << 35, 8};
      spec.gpu_model = "H100";
      step(engine::Observation(engine::NodeFound{spec}));
    }
  }

  /// A server on the records as they are.
  void begin(const std::vector<engine::Inventory>& inventories) {
    engine::Holders holders;
    holders.start = [this](const RankKey& holder, const engine::StartOrder& order) {
      told_.push_back(fmt::format("{} start {}", to_string(holder), to_string(order.key)));
    };
    holders.kill = [this](const RankKey& holder, const RankKey& task) {
      told_.push_back(fmt::format("{} kill {}", to_string(holder), to_string(task)));
    };
    holders.forget = [](const RankKey& /*holder*/, const RankKey& /*task*/) {};
    engine_ = engine::with_clusters(std::make_unique<Machines>(told_), holders);
    RunnerOrders orders;
    orders.order = [](const RankKey&, const std::shared_ptr<const job::Job>&) {};
    orders.go = [](const RankKey&, const std::shared_ptr<const job::Job>&) {};
    orders.end_fence_wait = [](const RankKey&) {};
    orders.stop = [this](const RankKey& rank, Millis, const std::string&) {
      told_.push_back("stop " + to_string(rank));
    };
    orders.leave = [](const RankKey&, const std::string&, const std::string&) {};
    orders.bye = [this](const RankKey& rank) { told_.push_back("bye " + to_string(rank)); };
    core_ = std::make_unique<Core>(Options(), store_, *engine_, plan::make_fifo(), orders, nullptr);
    ASSERT_TRUE(core_->load(inventories, now_).ok());
  }

  template <typename... Messages>
  void step(Messages... messages) {
    std::vector<Message> all;
    (all.push_back(Message(std::move(messages))), ...);
    core_->step(std::move(all), now_);
    ASSERT_EQ(core_->check(), "");
  }
  /// Second by second, as a server that sleeps for longer holds that against nobody.
  void pass(int seconds) {
    for (int second = 0; second < seconds; ++second) {
      now_.mono = now_.mono + Millis(1000);
      now_.wall = now_.wall + Millis(1000);
      step(engine::Observation(engine::NodeSeen{NodeId("n1")}),
           engine::Observation(engine::NodeSeen{NodeId("n2")}),
           engine::Observation(engine::NodeSeen{NodeId("n3")}));
    }
  }

  static job::Request holder(std::int32_t ranks, std::int32_t gpus) {
    job::Request request;
    request.name = "dev";
    request.owner = "ana";
    request.kind = job::Kind::kHolder;
    request.cluster = "dev";
    request.ranks = ranks;
    request.recovery.max_without_progress = 1000;
    request.shapes = {{{4'000, 1LL << 30, gpus}, gpus > 0 ? "H100" : "", ""}};
    return request;
  }
  static job::Request task(std::int32_t ranks, std::int32_t gpus) {
    job::Request request = holder(ranks, gpus);
    request.kind = job::Kind::kBatch;
    request.recovery = {};
    request.shapes = {{{500, 0, gpus}, gpus > 0 ? "H100" : "", "cluster dev"}};
    return request;
  }
  Result<std::vector<JobId>> submit(job::Request request, ClusterUse use) {
    Result<std::vector<JobId>> answer = error(ErrorCode::kInternal, "not answered");
    SubmitJobs message;
    message.submissions.push_back({std::move(request), "", std::move(use)});
    message.done = [&](Result<std::vector<JobId>> done) { answer = std::move(done); };
    step(std::move(message));
    return answer;
  }
  Result<std::vector<JobId>> launch(std::int32_t ranks, std::int32_t gpus,
                                    std::optional<Autostop> autostop = std::nullopt) {
    return submit(task(ranks, gpus), {"dev", false, false, holder(ranks, gpus), autostop});
  }
  Result<std::vector<JobId>> exec(std::int32_t ranks, std::int32_t gpus) {
    return submit(task(ranks, gpus), {"dev", true, false, std::nullopt, std::nullopt});
  }
  Status change(ChangeCluster::Verb verb, std::optional<job::Request> again = std::nullopt,
                const std::string& by = "ana") {
    Status answer = error(ErrorCode::kInternal, "not answered");
    ChangeCluster message;
    message.name = "dev";
    message.verb = verb;
    message.by = by;
    message.holder = std::move(again);
    message.done = [&](Status done) { answer = std::move(done); };
    step(std::move(message));
    return answer;
  }

  void report(const RankKey& rank, job::Happening happening) {
    step(RunnerReport{rank, "nonce " + to_string(rank), std::move(happening), nullptr});
  }
  /// All ranks of an attempt come up.
  void come_up(std::int64_t id, std::int32_t epoch, std::int32_t ranks = 1) {
    for (std::int32_t r = 0; r < ranks; ++r) {
      report(key(id, epoch, r),
             job::RankHello{Epoch(epoch), Rank(r), "nonce " + to_string(key(id, epoch, r)),
                            "10.0.0.1", 4000, 99});
    }
    for (std::int32_t r = 0; r < ranks; ++r) {
      report(key(id, epoch, r), job::RankReady{Epoch(epoch), Rank(r)});
    }
  }
  void end(const RankKey& rank, job::RankEnd ended) {
    report(rank, job::RankEnded{rank.epoch, rank.rank, std::move(ended)});
  }
  static job::RankEnd stopped() {
    job::RankEnd ended;
    ended.how = job::RankEnd::How::kSignaled;
    ended.code = 15;
    ended.by_quad = true;
    return ended;
  }

  [[nodiscard]] std::shared_ptr<const job::Job> job(std::int64_t id) const {
    return core_->snapshot()->find(JobId(id));
  }
  [[nodiscard]] std::string status() const {
    const auto snapshot = core_->snapshot();
    const auto found = snapshot->clusters->find("dev");
    return found == snapshot->clusters->end()
               ? "GONE"
               : std::string(status_of(found->second, snapshot->find(found->second.holder).get()));
  }
  [[nodiscard]] std::int64_t free_gpus() const {
    std::int64_t free = 0;
    for (const auto& [id, node] : core_->snapshot()->pool.nodes()) {
      free += node.spec.by_name ? 0 : node.free.gpus;
    }
    return free;
  }
  [[nodiscard]] std::size_t nodes() const { return core_->snapshot()->pool.nodes().size(); }

  Records store_;
  std::vector<std::string> told_;
  Now now_{WallTime{1'000'000}, MonoTime{1'000}};
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<Core> core_;
};

TEST_F(CoreClusters, TasksStartOnTheHoldersNodesOnceTheyAreUp) {
  ASSERT_TRUE(launch(2, 4).ok());
  EXPECT_EQ(status(), "INIT");
  EXPECT_THAT(told_, Contains("start 1-1-0"));
  EXPECT_EQ(job(2)->status, job::Status::kPending);
  come_up(1, 1, 2);
  EXPECT_EQ(status(), "UP");
  EXPECT_THAT(told_, Contains("1-1-0 start 2-1-0"));
  EXPECT_THAT(told_, Contains("1-1-1 start 2-1-1"));
  EXPECT_EQ(job(2)->live()->ranks[1].holding.node.value(), "dev:1@1.1");
  come_up(2, 1, 2);
  EXPECT_EQ(job(2)->status, job::Status::kRunning);
}

TEST_F(CoreClusters, GpusAreCountedOnItAndAQueueFormsThere) {
  ASSERT_TRUE(launch(1, 4).ok());
  come_up(1, 1);
  come_up(2, 1);
  ASSERT_TRUE(exec(1, 2).ok());
  EXPECT_EQ(job(3)->status, job::Status::kPending) << "the first task has all four";
  end(key(2, 1), job::RankEnd());
  EXPECT_EQ(job(2)->status, job::Status::kSucceeded);
  EXPECT_THAT(told_, Contains("1-1-0 start 3-1-0"));
}

TEST_F(CoreClusters, NothingNewStartsOnADrainedNodeOfIt) {
  ASSERT_TRUE(launch(1, 4).ok());
  come_up(1, 1);
  come_up(2, 1);
  const NodeId machine = job(1)->live()->ranks[0].holding.node;
  step(DrainNode{machine, true, "ada", [](const Status&) {}});
  EXPECT_EQ(job(2)->status, job::Status::kRunning) << "what runs there runs on";
  end(key(2, 1), job::RankEnd());
  ASSERT_TRUE(exec(1, 2).ok());
  EXPECT_EQ(job(3)->status, job::Status::kPending);
  EXPECT_EQ(core_->snapshot()->pool.find(NodeId("dev:0@1.1"))->spec.closed,
            machine.value() + " is drained by ada");
  step(DrainNode{machine, false, "ada", [](const Status&) {}});
  EXPECT_THAT(told_, Contains("1-1-0 start 3-1-0"));
}

TEST_F(CoreClusters, JobsThatDoNotNameItStayOffIt) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  job::Request other = task(1, 8);
  other.cluster.clear();
  other.shapes.front().engine.clear();
  for (int i = 0; i < 3; ++i) {
    SubmitJobs message;
    message.submissions.push_back({other, "", std::nullopt});
    message.done = [](const Result<std::vector<JobId>>&) {};
    step(std::move(message));
  }
  EXPECT_EQ(job(3)->live()->ranks[0].holding.node.value(), "n2");
  EXPECT_EQ(job(4)->live()->ranks[0].holding.node.value(), "n3");
  EXPECT_EQ(job(5)->status, job::Status::kPending);
}

TEST_F(CoreClusters, ANodeThatIsFoundWhileItsEngineGivesNoOrdersGetsNothing) {
  pool::NodeSpec late;
  late.id = NodeId("late");
  late.capacity = {64'000, 1LL << 36, 16};
  late.gpu_model = "H100";
  step(engine::Observation(engine::EngineAway{late.engine, "another server does", false}));
  step(engine::Observation(engine::NodeFound{late}));
  const auto snapshot = core_->snapshot();
  const pool::Node* node = snapshot->pool.find(late.id);
  EXPECT_EQ(node->health, pool::NodeHealth::kSuspect);
  EXPECT_EQ(node->reason, "its engine gives no orders: another server does");
  step(engine::Observation(engine::EngineAway{late.engine, "", false}));
  pass(1);
  EXPECT_EQ(core_->snapshot()->pool.find(late.id)->health, pool::NodeHealth::kReady);
}

TEST_F(CoreClusters, ANodeIsSuspectWhenItsRunnersFallSilentNotBeforeTheyHaveSpoken) {
  const auto health = [this] { return core_->snapshot()->pool.find(NodeId("n1"))->health; };
  ASSERT_TRUE(launch(1, 8).ok());
  ASSERT_THAT(told_, Contains("start 1-1-0"));
  pass(60);
  EXPECT_EQ(health(), pool::NodeHealth::kReady) << "its image may take long to fetch";
  come_up(1, 1);
  pass(10);
  EXPECT_EQ(health(), pool::NodeHealth::kSuspect);
}

TEST_F(CoreClusters, WhyANodeIsSuspectIsToldAsItIsNow) {
  const auto why = [this] { return core_->snapshot()->pool.find(NodeId("n1"))->reason; };
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  const std::string engine = core_->snapshot()->pool.find(NodeId("n1"))->spec.engine;
  step(engine::Observation(engine::EngineAway{engine, "another server does", false}));
  pass(10);
  EXPECT_EQ(why(), "its engine gives no orders: another server does");
  step(engine::Observation(engine::EngineAway{engine, "", false}));
  pass(1);
  EXPECT_THAT(why(), HasSubstr("its ranks' heartbeats have stopped"));
}

TEST_F(CoreClusters, AnEndThatNobodyExplainsWaitsForItsEnginesWord) {
  ASSERT_TRUE(launch(2, 8).ok());
  come_up(1, 1, 2);
  ASSERT_EQ(job(1)->status, job::Status::kRunning);
  end(key(1, 1), stopped());
  EXPECT_THAT(told_, Contains("stop 1-1-1")) << "its peers are stopped at once";
  EXPECT_THAT(told_, Contains("bye 1-1-0")) << "it may exit";
  end(key(1, 1, 1), stopped());
  EXPECT_EQ(job(1)->status, job::Status::kRunning);

  // A kubelet writes it when the container has ended.
  step(engine::Observation(
      engine::RankTaken{key(1, 1), job::Taken{job::Verdict::kUser, "used more disk than it may"}}));
  EXPECT_EQ(job(1)->status, job::Status::kFailed);
  EXPECT_EQ(job(1)->cause, job::Cause::kLimit);
  EXPECT_THAT(job(1)->message, HasSubstr("used more disk than it may"));
}

TEST_F(CoreClusters, AnEndThatIsNeverExplainedIsNobodysFault) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  end(key(1, 1), stopped());
  EXPECT_EQ(job(1)->status, job::Status::kRunning);
  step(engine::Observation(engine::RunnerEnded{key(1, 1), stopped(), ""}));
  EXPECT_EQ(job(1)->recoveries, 1) << "the runner is gone, and its engine had nothing to say";

  come_up(1, 2);
  end(key(1, 2), stopped());
  pass(9);
  EXPECT_EQ(job(1)->recoveries, 1);
  pass(2);
  EXPECT_EQ(job(1)->recoveries, 2) << "it has been waited for long enough";
}

TEST_F(CoreClusters, ALostNodeBringsTheClusterBackAndItsTaskOntoIt) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  come_up(2, 1);
  step(engine::Observation(engine::NodeDown{NodeId("n1"), "powered off"}));
  EXPECT_EQ(status(), "INIT");
  EXPECT_EQ(job(2)->status, job::Status::kRecovering);
  EXPECT_THAT(job(2)->message, HasSubstr("n1 was lost: powered off"));
  EXPECT_EQ(nodes(), 3U) << "the lost node of the cluster is gone";
  come_up(1, 2);
  EXPECT_EQ(job(2)->live()->ranks[0].holding.node.value(), "dev:0@1.2");
  come_up(2, 2);
  EXPECT_EQ(job(2)->status, job::Status::kRunning);
}

TEST_F(CoreClusters, WhatAGivenUpHolderStillRunsTakesNoRoomOnTheNewOne) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  come_up(2, 1);
  // Out of sight, but perhaps alive: the loss is presumed, for the cluster's node as well.
  for (int second = 0; second < 30; ++second) {
    now_.mono = now_.mono + Millis(1000);
    now_.wall = now_.wall + Millis(1000);
    step(engine::Observation(engine::NodeSeen{NodeId("n2")}),
         engine::Observation(engine::NodeSeen{NodeId("n3")}));
  }
  ASSERT_EQ(job(2)->status, job::Status::kRecovering);
  EXPECT_FALSE(job(2)->attempts[0].ranks[0].end->confirmed);
  EXPECT_EQ(free_gpus(), 8) << "n1 is still held, n2 is the cluster's again";
  come_up(1, 2);
  ASSERT_EQ(job(2)->attempts.size(), 2U);
  EXPECT_EQ(job(2)->attempts[1].ranks[0].holding.node.value(), "dev:0@1.2");
  EXPECT_GT(job(2)->attempts[1].fence_wait, Millis(0));
  // A server that is started now knows of both.
  begin({});
  EXPECT_EQ(core_->check(), "");
  step(engine::Observation(engine::RunnerEnded{key(1, 1), std::nullopt, "gone"}));
  EXPECT_TRUE(job(2)->attempts[0].ranks[0].end->confirmed);
}

TEST_F(CoreClusters, StopCancelsWhatRunsThereBeforeItGivesTheNodesBack) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  come_up(2, 1);
  ASSERT_TRUE(change(ChangeCluster::Verb::kStop).ok());
  EXPECT_EQ(status(), "STOPPING");
  EXPECT_THAT(told_, Contains("stop 2-1-0"));
  EXPECT_THAT(told_, ::testing::Not(Contains("stop 1-1-0")));
  EXPECT_EQ(exec(1, 1).error().code, ErrorCode::kExists);
  end(key(2, 1), stopped());
  EXPECT_EQ(job(2)->status, job::Status::kCancelled);
  EXPECT_THAT(told_, Contains("stop 1-1-0"));
  end(key(1, 1), stopped());
  EXPECT_EQ(status(), "STOPPED");
  EXPECT_EQ(free_gpus(), 24);
  EXPECT_EQ(nodes(), 3U);
  EXPECT_EQ(exec(1, 1).error().code, ErrorCode::kInvalid);
  // And up again, by launch as well as by start.
  ASSERT_TRUE(change(ChangeCluster::Verb::kStart, holder(1, 8)).ok());
  EXPECT_EQ(status(), "INIT");
  come_up(3, 1);
  EXPECT_EQ(status(), "UP");
  ASSERT_TRUE(change(ChangeCluster::Verb::kDown).ok());
  end(key(3, 1), stopped());
  EXPECT_EQ(status(), "GONE");
  EXPECT_THAT(store_.messages, Contains("cluster.down: Cluster dev is gone."));
}

TEST_F(CoreClusters, ADownGoesOnAfterTheServerWasKilled) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  come_up(2, 1);
  ASSERT_TRUE(change(ChangeCluster::Verb::kDown).ok());
  begin({});
  end(key(2, 1), stopped());
  end(key(1, 1), stopped());
  EXPECT_EQ(status(), "GONE");
}

TEST_F(CoreClusters, OnlyItsOwnerAndAdministratorsMayTouchIt) {
  ASSERT_TRUE(launch(1, 1).ok());
  job::Request other = task(1, 0);
  other.owner = "ben";
  const auto answer = submit(other, {"dev", true, false, std::nullopt, std::nullopt});
  EXPECT_EQ(answer.error().code, ErrorCode::kDenied);
  EXPECT_THAT(answer.error().message, HasSubstr("belongs to ana"));
  EXPECT_EQ(change(ChangeCluster::Verb::kDown, std::nullopt, "ben").error().code,
            ErrorCode::kDenied);
  EXPECT_TRUE(submit(other, {"dev", true, true, std::nullopt, std::nullopt}).ok());
}

TEST_F(CoreClusters, AHolderThatCannotLiveTakesItsTasksWithIt) {
  ASSERT_TRUE(launch(1, 8).ok());
  job::RankEnd bad;
  bad.how = job::RankEnd::How::kExited;
  bad.code = 1;
  bad.in_setup = true;
  report(key(1, 1), job::RankHello{Epoch(1), Rank(0), "nonce 1-1-0", "a", 1, 1});
  end(key(1, 1), bad);
  EXPECT_EQ(status(), "STOPPED");
  EXPECT_EQ(job(2)->status, job::Status::kFailed);
  EXPECT_THAT(job(2)->message, HasSubstr("Cluster dev is stopped: Failed"));
}

TEST_F(CoreClusters, AHolderReportCountsOnlyFromTheRunnerThatWasAccepted) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  come_up(2, 1);
  step(HolderReport{key(1, 1), "somebody else", std::vector<engine::Existing>(), nullptr});
  EXPECT_EQ(job(2)->status, job::Status::kRunning);
  // The right one, which has lost it.
  step(HolderReport{key(1, 1), "nonce 1-1-0", std::vector<engine::Existing>(), nullptr});
  EXPECT_EQ(job(2)->status, job::Status::kRecovering);
}

TEST_F(CoreClusters, AnOrderThatWasLostIsGivenAgain) {
  ASSERT_TRUE(launch(1, 8).ok());
  come_up(1, 1);
  told_.clear();
  step(HolderReport{key(1, 1), "nonce 1-1-0", std::vector<engine::Existing>(), nullptr});
  EXPECT_THAT(told_, Contains("1-1-0 start 2-1-0"));
}

TEST_F(CoreClusters, AutostopCountsFromTheEndOfTheLastTask) {
  ASSERT_TRUE(launch(1, 8, Autostop{Millis(60'000), true, Autostop::WaitFor::kJobsAndSsh}).ok());
  come_up(1, 1);
  come_up(2, 1);
  pass(300);
  EXPECT_EQ(status(), "UP") << "it is used";
  job::RankEnd good;
  end(key(2, 1), good);
  pass(58);
  EXPECT_EQ(status(), "UP");
  begin({});  // the time before counts on
  find_nodes();
  EXPECT_EQ(status(), "UP");
  pass(3);
  EXPECT_EQ(status(), "STOPPING");
  end(key(1, 1), stopped());
  EXPECT_EQ(status(), "GONE");
}

TEST_F(CoreClusters, AutostopWaitsForWhoeverHasAShellThere) {
  ASSERT_TRUE(launch(1, 8, Autostop{Millis(60'000), true, Autostop::WaitFor::kJobsAndSsh}).ok());
  come_up(1, 1);
  come_up(2, 1);
  step(SessionChange{JobId(1), +1});
  step(SessionChange{JobId(1), +1});
  end(key(2, 1), {});
  step(SessionChange{JobId(1), -1});
  pass(300);
  EXPECT_EQ(status(), "UP");
  step(SessionChange{JobId(1), -1});
  pass(58);
  EXPECT_EQ(status(), "UP");
  pass(3);
  EXPECT_EQ(status(), "STOPPING");
}

TEST_F(CoreClusters, AutostopThatWaitsForNothingEndsWhatRuns) {
  ASSERT_TRUE(launch(1, 8, Autostop{Millis(60'000), false, Autostop::WaitFor::kNone}).ok());
  come_up(1, 1);
  come_up(2, 1);
  pass(58);
  EXPECT_EQ(status(), "UP");
  pass(3);
  EXPECT_EQ(status(), "STOPPING");
  EXPECT_EQ(job(2)->status, job::Status::kCancelling);
}

TEST(ClusterName, IsNeverAJobsNumber) {
  for (const char* good : {"dev", "a", "Dev-1", "a.b_c9"}) {
    EXPECT_TRUE(check_cluster_name(good).ok()) << good;
  }
  for (const char* bad : {"", "1", "1a", "a-", "a b", "a/b", "a@b", "a:0", ".a"}) {
    EXPECT_FALSE(check_cluster_name(bad).ok()) << bad;
  }
  EXPECT_FALSE(check_cluster_name(std::string(61, 'a')).ok());
}

TEST(ClusterRecord, IsReadAsItWasWritten) {
  Cluster cluster;
  cluster.name = "dev";
  cluster.owner = "ana";
  cluster.holder = JobId(7);
  cluster.wanted = Cluster::Wanted::kStopped;
  cluster.wanted_by = "ben";
  cluster.reason = "Because.";
  cluster.settled = false;
  cluster.autostop = Autostop{Millis(120'000), true, Autostop::WaitFor::kJobs};
  cluster.launched_at = WallTime{5};
  cluster.used_at = WallTime{6};
  const auto read = cluster_from_json(to_json(cluster));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, cluster);
  EXPECT_FALSE(cluster_from_json({}).ok());
}

}  // namespace
}  // namespace quad::control
