// The real quad-runner against a server that the test plays: the fence, the lease, and resuming.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "checkpoint/fence.h"
#include "runner/fake_server.h"
#include "runner/session_fixture.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

TEST_F(Ranks, ANewerFenceKillsTheRankEvenWithoutAServer) {
  FakeServer server(socket());
  json::object with_fence =
      order(fmt::format("bash -c 'exec -a {} sleep 1000' & echo up; wait", marker_));
  const fs::path job = root_ / "hot/17";
  with_fence["checkpoint"] = {{"job_dir", job.string()}, {"fence_wait_ms", 0}};
  server.order = with_fence;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() > 0; }));
  EXPECT_TRUE(fs::exists(job / "e1"));
  ASSERT_TRUE(server.until([&] {
    const auto fence = checkpoint::read_fence(job);
    return fence.ok() && fence.value().has_value();
  }));
  server.answer = 503;
  server.drop();
  ASSERT_TRUE(checkpoint::raise_fence(job, Epoch(2), WallTime{1}).ok());
  EXPECT_TRUE(server.until([&] { return runner.ended(); }, 10));
  EXPECT_EQ(marked(), 0U);
}

TEST_F(Ranks, WhatAnotherJobOfTheSameNumberLeftIsMovedAside) {
  const fs::path job = root_ / "hot/17";
  fs::create_directories(job / "e1");
  std::ofstream(job / "e1/step-000700.pt") << "theirs";
  ASSERT_TRUE(checkpoint::raise_fence(job, Epoch(3), WallTime{1}).ok());
  FakeServer server(socket());
  json::object first = order("ls $QUAD_CHECKPOINT_DIR; echo [$QUAD_RESUME_FROM]; sleep 2");
  first["checkpoint"] = {{"job_dir", job.string()}, {"fence_wait_ms", 0}};
  server.order = first;
  const RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(server.output, "[]\n");
  std::string aside;
  for (const auto& entry : fs::directory_iterator(job)) {
    if (entry.path().filename().string().starts_with("others-")) {
      aside = entry.path();
    }
  }
  EXPECT_TRUE(fs::exists(fs::path(aside) / "e1/step-000700.pt"));
  EXPECT_EQ(checkpoint::read_fence(job).value()->epoch, Epoch(1));
}

TEST_F(Ranks, AStrictRankLivesByItsLeaseAndEndsWithIt) {
  FakeServer server(socket());
  json::object strict =
      order(fmt::format("bash -c 'exec -a {} sleep 1000' & echo up; wait", marker_));
  // Rank 1 does not make the fence, and nobody else does: only the server renews the lease.
  strict["checkpoint"] = {{"job_dir", (root_ / "hot/17").string()}, {"lease_ms", 4000}};
  server.order = strict;
  server.renew_lease = true;
  RunnerProcess::Options options;
  options.rank = 1;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  const auto began = std::chrono::steady_clock::now();
  ASSERT_TRUE(server.until(
      [&] { return std::chrono::steady_clock::now() - began > std::chrono::seconds(6); }));
  EXPECT_FALSE(server.exited());
  EXPECT_GT(marked(), 0U);
  server.renew_lease = false;
  ASSERT_TRUE(server.until([&] { return server.exited(); }, 10));
  EXPECT_EQ(marked(), 0U);
  EXPECT_TRUE(get_bool(*server.find("exited"), "by_quad"));
  EXPECT_NE(get_string(*server.find("exited"), "detail").find("could be reached for 4 s"),
            std::string::npos);
}

TEST_F(Ranks, WhatStoodStillBeyondItsLeaseStartsNothingAnyMore) {
  FakeServer server(socket());
  json::object strict = order("echo never");
  strict["checkpoint"] = {{"job_dir", (root_ / "hot/17").string()}, {"lease_ms", 3000}};
  server.order = strict;
  server.send_go = false;
  server.renew_lease = true;
  RunnerProcess::Options options;
  options.rank = 1;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.has_phase("ready"); }));
  runner.signal(SIGSTOP);
  server.send(server.go);
  server.until([] { return false; }, 4.5);
  runner.signal(SIGCONT);
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(get_string(*server.find("exited"), "how"), "never_ran");
  EXPECT_EQ(server.output, "");
}

TEST_F(Ranks, AnOrderThatCameWhileTheRunnerStoodStillBeyondItsLeaseStartsNothing) {
  FakeServer server(socket());
  json::object strict = order("echo never", "echo never");
  strict["checkpoint"] = {{"job_dir", (root_ / "hot/17").string()}, {"lease_ms", 3000}};
  RunnerProcess::Options options;
  options.rank = 1;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(
      server.until([&] { return !server.hellos.empty() && !server.hellos.back().empty(); }));
  runner.signal(SIGSTOP);
  server.send(strict);
  server.until([] { return false; }, 4.0);
  runner.signal(SIGCONT);
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(get_string(*server.find("exited"), "how"), "never_ran");
  EXPECT_EQ(server.output, "");
}

TEST_F(Ranks, WhatItsWorkersFoundWhileTheRunnerStoodStillBeyondItsLeaseStartsNothing) {
  FakeServer server(socket());
  const std::string nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  server.blobs[nothing] = "";  // an archive of nothing, and its hash
  server.blob_refusals = 1'000'000;
  json::object strict = order("true");
  strict["checkpoint"] = {{"job_dir", (root_ / "hot/17").string()}, {"lease_ms", 3000}};
  strict["workdir"] = {{"blob", nothing}};
  server.order = strict;
  // Not a word of the server's may wait in the socket.
  server.acknowledge_output = server.acknowledge_messages = false;
  RunnerProcess::Options options;
  options.rank = 1;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.has_phase("setting_up"); }));
  runner.signal(SIGSTOP);
  server.blob_refusals = 0;  // its worker, which does not stand still, has its answer now
  server.until([] { return false; }, 4.5);
  runner.signal(SIGCONT);
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(get_string(*server.find("exited"), "how"), "never_ran");
  EXPECT_FALSE(server.has_phase("ready"));
}

TEST_F(Ranks, AFenceThatWasReadWhileTheRunnerStoodStillRenewsItsLease) {
  FakeServer server(socket());
  json::object strict = order("echo up; until test -e ~/enough; do sleep 0.05; done");
  const fs::path job = root_ / "hot/17";
  strict["checkpoint"] = {{"job_dir", job.string()}, {"lease_ms", 5000}};
  server.order = strict;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] {
    const auto fence = checkpoint::read_fence(job);
    return server.output == "up\n" && fence.ok() && fence.value().has_value();
  }));
  runner.signal(SIGSTOP);
  server.until([] { return false; }, 6.5);
  runner.signal(SIGCONT);
  std::ofstream(folder() / "home/enough") << "x";
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 0);
  EXPECT_FALSE(get_bool(*server.find("exited"), "by_quad"));
}

TEST_F(Ranks, AnOlderEpochThatIsWrittenOverTheFenceIsCorrected) {
  FakeServer server(socket());
  const fs::path job = root_ / "hot/17";
  ASSERT_TRUE(checkpoint::raise_fence(job, Epoch(1), WallTime{1}).ok());
  const auto older = read_file(checkpoint::fence_path(job));
  ASSERT_TRUE(older.ok());
  json::object later = order("echo up; sleep 1000");
  later["checkpoint"] = {{"job_dir", job.string()}, {"fence_wait_ms", 0}};
  server.order = later;
  RunnerProcess::Options options;
  options.epoch = 2;
  RunnerProcess runner(folder(), socket(), options);
  const auto stands_at = [&](int epoch) {
    const auto fence = checkpoint::read_fence(job);
    return fence.ok() && fence.value().has_value() && fence.value()->epoch == Epoch(epoch);
  };
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && stands_at(2); }));
  {
    // In place, as a stalled rank 0 of the first attempt would when it wakes in mid-write.
    std::fstream file(checkpoint::fence_path(job), std::ios::in | std::ios::out);
    file << older.value();
  }
  EXPECT_TRUE(server.until([&] { return stands_at(2); }));
  EXPECT_FALSE(runner.ended());
}

TEST_F(Ranks, TheWaitBehindTheFenceCanBeEnded) {
  FakeServer server(socket());
  const fs::path job = root_ / "hot/17";
  json::object later = order("true");
  later["checkpoint"] = {{"job_dir", job.string()}, {"fence_wait_ms", 600'000}};
  server.order = later;
  RunnerProcess::Options options;
  options.epoch = 2;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] {
    const auto fence = checkpoint::read_fence(job);
    return fence.ok() && fence.value().has_value();
  }));
  server.until([] { return false; }, 0.3);
  EXPECT_EQ(server.find("resumed"), nullptr);
  server.send({{"type", "end_fence_wait"}});
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_NE(server.find("resumed"), nullptr);
}

TEST_F(Ranks, ACheckpointThatWasWrittenJustBeforeTheEndIsToldBeforeIt) {
  FakeServer server(socket());
  json::object quick = order(
      "mkdir $QUAD_CHECKPOINT_DIR/checkpoint-7 && cd $QUAD_CHECKPOINT_DIR/checkpoint-7 && "
      "echo w > weights && echo x > DONE");
  const fs::path job = root_ / "hot/17";
  quick["checkpoint"] = {{"job_dir", job.string()}, {"marker", "DONE"}};
  server.order = quick;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  ASSERT_NE(server.find("checkpoint"), nullptr);
  EXPECT_EQ(get_string(*server.find("checkpoint"), "path"), (job / "e1/checkpoint-7").string());
  EXPECT_EQ(get_int(*server.find("checkpoint"), "step"), 7);
  EXPECT_LT(get_int(*server.find("checkpoint"), "seq"), get_int(*server.find("exited"), "seq"));
}

TEST_F(Ranks, ADeletedCheckpointIsToldAsGone) {
  FakeServer server(socket());
  json::object rotating = order(
      "cd $QUAD_CHECKPOINT_DIR; mkdir save-1 && echo x > save-1/DONE; "
      "until test -e ~/enough; do sleep 0.05; done; rm -r save-1");
  const fs::path job = root_ / "hot/17";
  rotating["checkpoint"] = {{"job_dir", job.string()}, {"marker", "DONE"}};
  server.order = rotating;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.find("checkpoint") != nullptr; }));
  std::ofstream(folder() / "home/enough") << "x";
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  const json::object* gone = server.find("checkpoints_gone");
  ASSERT_NE(gone, nullptr);
  EXPECT_EQ(to_text(gone->at("paths")), to_text(json::array{(job / "e1/save-1").string()}));
}

TEST_F(Ranks, TheLastRunnerOfAJobRemovesTheFoldersInWhichNothingWasWritten) {
  for (const bool over : {false, true}) {
    for (const bool wrote : {false, true}) {
      FakeServer server(socket());
      const fs::path job = root_ / fmt::format("hot/{}{}", over, wrote);
      json::object quick = order(wrote ? "echo x > $QUAD_CHECKPOINT_DIR/mine" : "true");
      quick["checkpoint"] = {{"job_dir", job.string()}};
      server.order = quick;
      server.say_bye = false;
      RunnerProcess runner(root_ / fmt::format("rank{}{}", over, wrote), socket(), {});
      ASSERT_TRUE(server.until([&] { return server.exited(); }));
      EXPECT_TRUE(fs::exists(job / "e1")) << "other ranks may still write there";
      server.send({{"type", "bye"}, {"job_is_over", over}});
      ASSERT_TRUE(server.until([&] { return runner.ended(); }));
      EXPECT_EQ(fs::exists(job / "e1"), wrote || !over);
      EXPECT_EQ(fs::exists(job), wrote || !over);
    }
  }
}

TEST_F(Ranks, ALaterAttemptResumesFromTheNewestWholeCheckpoint) {
  FakeServer server(socket());
  const fs::path job = root_ / "hot/17";
  for (const int step : {10, 20}) {
    const fs::path place = job / fmt::format("e1/checkpoint-{}", step);
    fs::create_directories(place);
    std::ofstream(place / "DONE") << "x";
    std::ofstream(place / "weights") << std::string(1000, 'w');
  }
  fs::remove(job / "e1/checkpoint-20/DONE");
  ASSERT_TRUE(checkpoint::raise_fence(job, Epoch(1), WallTime{1}).ok());
  json::object later = order("echo from $QUAD_RESUME_FROM");
  later["checkpoint"] = {{"job_dir", job.string()}, {"fence_wait_ms", 10}, {"marker", "DONE"}};
  server.order = later;
  server.send_go = false;
  RunnerProcess::Options options;
  options.epoch = 2;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.has_phase("ready"); }));
  const json::object* resumed = server.find("resumed");
  ASSERT_NE(resumed, nullptr);
  const std::string path(get_string(*resumed, "path"));
  EXPECT_EQ(path, (job / "e2/checkpoint-10").string());
  EXPECT_EQ(get_int(*resumed, "step"), 10);
  EXPECT_NE(get_string(*resumed, "note").find("Passed over e1/checkpoint-20: "), std::string::npos)
      << get_string(*resumed, "note");
  json::object go = server.go;
  go["resume_from"] = path;
  server.send(go);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "from " + path + "\n");
  EXPECT_EQ(checkpoint::read_fence(job).value()->epoch, Epoch(2));
}

}  // namespace
}  // namespace quad::runner::testing
