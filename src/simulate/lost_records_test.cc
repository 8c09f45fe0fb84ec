// What the real control core makes of records that were taken back, and of what exists beyond them.

#include <gmock/gmock.h>

#include "simulate/core_fixture.h"
#include "store/identity.h"

namespace quad::simulate {
namespace {

/// A store that also tells what lost records leave behind.
class TakenBackStore final : public store::Store {
 public:
  explicit TakenBackStore(store::Store& inner) : inner_(inner) {}

  Result<store::Loaded> load() override {
    auto loaded = inner_.load();
    if (loaded.ok()) {
      loaded->taken_back = true;
      loaded->strangers = strangers;
      loaded->last_job = last_job;
      loaded->lost_attempts = lost_attempts;
    }
    return loaded;
  }
  Status commit(const store::Batch& batch) override {
    for (const auto& setting : batch.settings) {
      settings.push_back(setting);
    }
    return inner_.commit(batch);
  }
  [[nodiscard]] Status room() const override { return inner_.room(); }
  Result<std::vector<job::Event>> events(const store::EventFilter& filter) const override {
    return inner_.events(filter);
  }
  Result<std::string> body(JobId job) const override { return inner_.body(job); }
  Status backup(const std::filesystem::path& to) const override { return inner_.backup(to); }
  Result<std::vector<std::string>> check() const override { return inner_.check(); }

  JobId last_job;
  bool strangers = false;
  std::vector<std::pair<JobId, Epoch>> lost_attempts;
  std::vector<std::pair<std::string, std::string>> settings;  ///< that were committed

 private:
  store::Store& inner_;
};

class LostRecords : public CoreTest {
 protected:
  TakenBackStore taken_back_{*store_};
  const RankKey running_{JobId(1), Epoch(1), Rank(0)};

  /// A job that runs, in the records that are to be taken back.
  void SetUp() override {
    ASSERT_TRUE(core_.load({}, now_).ok());
    add_nodes({"n1"});
    submit(1, Millis(1'000));
    hello(running_);
    report(running_, job::RankReady{running_.epoch, running_.rank});
    ASSERT_EQ(core_.snapshot()->find(JobId(1))->status, job::Status::kRunning);
    engine_.started.clear();
  }

  /// The next server, on these records.
  std::unique_ptr<control::Core> restart(const std::vector<engine::Existing>& existing) {
    auto core = std::make_unique<control::Core>(
        control::Options(), taken_back_, engine_, plan::make_fifo(), runner_orders(),
        [](const auto& /*snapshot*/, const auto& /*events*/) {});
    engine::Inventory inventory;
    inventory.engine = "noting";
    inventory.existing = existing;
    EXPECT_TRUE(core->load({inventory}, now_).ok());
    EXPECT_EQ(core->check(), "");
    core->step(found("n1"), now_);
    EXPECT_EQ(core->check(), "");
    return core;
  }
  static std::vector<control::Message> found(const std::string& name) {
    pool::NodeSpec node;
    node.id = NodeId(name);
    node.address = "127.0.0.1";
    node.capacity = {8'000, 8'000'000'000, 0};
    std::vector<control::Message> messages;
    messages.emplace_back(engine::Observation(engine::NodeFound{std::move(node)}));
    return messages;
  }
  std::vector<JobId> submit_to(control::Core& core) {
    job::Request request;
    request.name = "new";
    request.owner = "ben";
    request.ranks = 1;
    request.shapes = {{{1'000, 1'000'000, 0}, ""}};
    request.body = "{}";
    std::vector<JobId> ids;
    std::vector<control::Message> messages;
    messages.emplace_back(
        control::SubmitJobs{{{std::move(request), "", {}}},
                            [&](const Result<std::vector<JobId>>& given) { ids = given.value(); }});
    core.step(std::move(messages), now_);
    return ids;
  }
  [[nodiscard]] engine::Existing alive(std::int64_t job, std::int32_t epoch) const {
    return {RankKey{JobId(job), Epoch(epoch), Rank(0)}, true, std::nullopt, NodeId("n1")};
  }
};

TEST_F(LostRecords, ANumberThatWasLostIsNotGivenOutAgain) {
  taken_back_.last_job = JobId(700);
  const auto core = restart({alive(1, 1)});
  EXPECT_EQ(submit_to(*core), std::vector<JobId>{JobId(701)});
  EXPECT_EQ(core->snapshot()->last_job(), 701);
  EXPECT_EQ(core->snapshot()->find(JobId(700)), nullptr);
  EXPECT_EQ(core->snapshot()->find(JobId(300)), nullptr);
  EXPECT_NE(core->snapshot()->find(JobId(1)), nullptr);
  // What ran before runs on: it is the same job.
  EXPECT_EQ(core->snapshot()->find(JobId(1))->status, job::Status::kRunning);
  EXPECT_THAT(taken_back_.settings,
              testing::Contains(std::make_pair(std::string(store::kTakenBackSetting), "")));
}

TEST_F(LostRecords, WhatRunsUnderALostNumberIsKilledAndTheNumberNotGivenOutAgain) {
  const auto core = restart({alive(1, 1), alive(30, 2)});
  EXPECT_THAT(engine_.killed, testing::ElementsAre(RankKey{JobId(30), Epoch(2), Rank(0)}));
  EXPECT_EQ(submit_to(*core), std::vector<JobId>{JobId(31)});
  EXPECT_THAT(taken_back_.settings,
              testing::Contains(std::make_pair(std::string("records/gap/2"), std::string("30"))));
}

TEST_F(LostRecords, AJobGoesOnAfterTheAttemptsThatWereLost) {
  taken_back_.lost_attempts = {{JobId(1), Epoch(4)}};
  const auto core = restart({});
  const auto job = core->snapshot()->find(JobId(1));
  EXPECT_EQ(job->epoch(), Epoch(5));
  EXPECT_THAT(engine_.started, testing::ElementsAre(RankKey{JobId(1), Epoch(5), Rank(0)}));
  EXPECT_EQ(job->status, job::Status::kRecovering);
}

TEST_F(LostRecords, AnAttemptThatExistsBeyondTheRecordsIsNotGivenOutAgain) {
  const auto core = restart({alive(1, 3)});
  EXPECT_EQ(core->snapshot()->find(JobId(1))->epoch(), Epoch(4));
}

TEST_F(LostRecords, WhatOthersRunUnderTheSameNumberIsNotTakenForTheJob) {
  taken_back_.strangers = true;
  const auto core = restart({alive(1, 1)});
  const auto job = core->snapshot()->find(JobId(1));
  EXPECT_EQ(job->epoch(), Epoch(2));
  EXPECT_NE(job->status, job::Status::kRunning);
  EXPECT_THAT(engine_.started, testing::ElementsAre(RankKey{JobId(1), Epoch(2), Rank(0)}));
}

}  // namespace
}  // namespace quad::simulate
