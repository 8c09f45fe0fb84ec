// The real quad-runner against a server that the test plays, as root and as nobody, with namespaces
// and without.

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/text.h"
#include "checkpoint/fence.h"
#include "runner/fake_server.h"
#include "runner/process_table.h"
#include "runner/result_file.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

class Ranks : public ::testing::Test {
 protected:
  Ranks() : root_(fs::temp_directory_path() / ("quad-runner-" + random_hex(6))) {
    fs::create_directories(root_);
    fs::permissions(root_, fs::perms::all);
    marker_ = "marker-" + random_hex(8);
  }
  ~Ranks() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }

  fs::path socket() const { return root_ / "quad.sock"; }
  fs::path folder() const { return root_ / "17-1-0"; }

  json::object order(std::string_view run, std::string_view setup = "") const {
    return {{"type", "order"},
            {"num_ranks", 1},
            {"ips", {"127.0.0.1"}},
            {"task_id", "sky-managed-x_17-0"},
            {"user", "ana"},
            {"name", "train"},
            {"cluster_info", {{"cluster_name", "lab"}}},
            {"num_gpus", 0},
            {"setup", setup},
            {"run", run},
            {"envs", {json::array{"PLAIN", "it's"}}},
            {"secrets", {json::array{"SECRET", "s3cr3t-" + marker_}}},
            {"workdir", nullptr},
            {"mounts", json::array()},
            {"stop_grace_ms", 5000}};
  }

  // Processes anywhere on this machine whose arguments hold the test's marker.
  std::size_t marked() const {
    std::size_t count = 0;
    for (const ProcessFacts& process : all_processes()) {
      const auto text = read_file(fmt::format("/proc/{}/cmdline", process.pid));  // it may be gone
      const bool here = text.ok() && text.value().find(marker_) != std::string::npos;
      count += process.state != 'Z' && here ? 1 : 0;
    }
    return count;
  }

  fs::path root_;
  std::string marker_;
};

struct Way {
  bool as_nobody;
  bool namespaces;
};

class EachWay : public Ranks, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    if (GetParam().as_nobody && ::geteuid() != 0) {
      GTEST_SKIP() << "only root can become nobody";
    }
  }
  RunnerProcess::Options options() const {
    RunnerProcess::Options result;
    result.as_nobody = GetParam().as_nobody;
    result.namespaces = GetParam().namespaces;
    return result;
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, EachWay,
                         ::testing::Values(Way{false, true}, Way{false, false}, Way{true, true},
                                           Way{true, false}),
                         [](const auto& way) {
                           return std::string(way.param.as_nobody ? "Nobody" : "Self") +
                                  (way.param.namespaces ? "InNamespaces" : "UnderASubreaper");
                         });

TEST_P(EachWay, AOneLineJobRunsAndItsEndIsDurableBeforeItIsTold) {
  FakeServer server(socket());
  server.order = order("echo hello from rank $SKYPILOT_NODE_RANK; exit 3");
  server.say_bye = false;
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  const auto on_disk = read_result(folder());
  ASSERT_TRUE(on_disk.has_value());
  EXPECT_EQ(on_disk->code, 3);
  const json::object& exited = *server.find("exited");
  EXPECT_EQ(get_string(exited, "how"), "exited");
  EXPECT_EQ(get_int(exited, "code"), 3);
  EXPECT_FALSE(get_bool(exited, "by_quad"));
  EXPECT_FALSE(get_bool(exited, "in_setup"));
  EXPECT_EQ(server.output, "hello from rank 0\n");  // and no warning of bash's about terminals
  EXPECT_EQ(get_int(exited, "log_end"), static_cast<std::int64_t>(server.output.size()));
  EXPECT_FALSE(runner.ended());  // it stays until bye
  server.send({{"type", "bye"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(runner.wait(), 0);
  EXPECT_EQ(server.faults, std::vector<std::string>());
}

TEST_P(EachWay, ANormalEndTakesEverythingWithItThatTheJobLeftRunning) {
  FakeServer server(socket());
  server.order = order(
      fmt::format("for i in 1 2 3; do (setsid bash -c 'exec -a {0} sleep 1000' & ) ; done\n"
                  "nohup bash -c '(exec -a {0} sleep 1000) & disown; exit' > /dev/null\necho out",
                  marker_));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "out\n");
  EXPECT_EQ(marked(), 0U);
}

TEST_P(EachWay, KillingTheRunnerKillsADaemonisedGrandchild) {
  FakeServer server(socket());
  server.order = order(fmt::format(
      "setsid bash -c '(setsid bash -c \"exec -a {0} sleep 1000\" &) ; exit' ; echo up; sleep 1000",
      marker_));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() > 0; }));
  runner.signal(SIGKILL);
  EXPECT_TRUE(server.until([&] { return marked() == 0; }, 10));
}

TEST_P(EachWay, TheEndOfTheRanksFirstProcessIsTheEndOfTheRank) {
  FakeServer server(socket());
  server.order = order(fmt::format(
      "(setsid bash -c 'exec -a {0} sleep 1000' &) ; echo up; exec -a {0} sleep 1000", marker_));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() >= 2; }));
  for (const ProcessFacts& process : descendants_of(runner.pid())) {
    if (process.parent == runner.pid()) {
      ::kill(process.pid, SIGKILL);  // as the kernel does when memory runs out
    }
  }
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(marked(), 0U);
  EXPECT_EQ(get_string(*server.find("exited"), "how"), "signaled");
  EXPECT_FALSE(get_bool(*server.find("exited"), "by_quad"));
}

TEST_P(EachWay, AStopGivesTheScriptItsGraceAndEndsTheRest) {
  FakeServer server(socket());
  server.order =
      order(fmt::format("bash -c 'exec -a {0} sleep 1000' &\n"
                        "bash -c 'trap \"echo saved; exit 0\" TERM; exec 9<> <(:); echo up; while "
                        ":; do read -rt 1 -u 9; done'\n"
                        "echo the next line must not run",
                        marker_));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  server.send({{"type", "stop"}, {"grace_ms", 20000}, {"reason", "cancelled by ana"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 10));
  EXPECT_EQ(server.output, "up\nsaved\n");
  const json::object& exited = *server.find("exited");
  EXPECT_TRUE(get_bool(exited, "by_quad"));
  EXPECT_EQ(get_int(exited, "code"), 143);
  EXPECT_EQ(get_string(exited, "detail"), "cancelled by ana");
  EXPECT_EQ(marked(), 0U);
}

TEST_P(EachWay, AProcessThatDoesNotHeedAStopIsKilledAfterTheGrace) {
  FakeServer server(socket());
  server.order = order("trap '' TERM; echo up; while :; do sleep 0.05; done");
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  const auto begin = std::chrono::steady_clock::now();
  server.send({{"type", "stop"}, {"grace_ms", 300}, {"reason", "cancelled"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 10));
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(took, std::chrono::milliseconds(300));
  EXPECT_LT(took, std::chrono::seconds(3));
  EXPECT_TRUE(get_bool(*server.find("exited"), "by_quad"));
}

TEST_P(EachWay, AThousandProcessesAreCleanedUp) {
  FakeServer server(socket());
  server.order =
      order(fmt::format("exec 3> >(cat)\nfor i in {{1..1000}}; do bash -c 'exec -a {} sleep 1000' "
                        "& done\necho up; wait",
                        marker_));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() >= 1000; }, 60));
  server.send({{"type", "stop"}, {"grace_ms", 0}, {"reason", "cancelled"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 20));
  EXPECT_EQ(marked(), 0U);
}

TEST_P(EachWay, AFailingSetupEndsTheRankBeforeRun) {
  FakeServer server(socket());
  server.order = order("echo run", "echo setting up; test -z \"$CUDA_VISIBLE_DEVICES\" && exit 5");
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "setting up\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 5);
  EXPECT_TRUE(get_bool(*server.find("exited"), "in_setup"));
  EXPECT_FALSE(server.has_phase("ready"));
}

TEST_F(Ranks, WhatSetupStartsLivesOnIntoRun) {
  FakeServer server(socket());
  server.order =
      order("cat ~/answer.fifo", "mkfifo ~/answer.fifo\n(echo from setup > ~/answer.fifo) &\n");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "from setup\n");
}

TEST_F(Ranks, TheScriptSeesItsVariablesItsWorkdirAndNoStdin) {
  FakeServer server(socket());
  server.order =
      order("pwd; echo $PLAIN $SECRET; cat; echo $- | grep -c i; echo \"$HOME $PYTHONUNBUFFERED\"");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  const std::string home = (folder() / "home").string();
  EXPECT_EQ(server.output,
            fmt::format("{0}/sky_workdir\nit's s3cr3t-{1}\n1\n{0} 1\n", home, marker_));
}

TEST_F(Ranks, SecretsAreInNoArgumentAndInNoFileForOthers) {
  FakeServer server(socket());
  server.order = order("echo up; sleep 1000");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  EXPECT_EQ(marked(), 0U);  // no command line holds the secret
  bool found = false;
  for (const auto& entry : fs::recursive_directory_iterator(folder())) {
    if (!entry.is_regular_file()) {
      continue;
    }
    std::ifstream file(entry.path());
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    if (text.find(marker_) != std::string::npos) {
      found = true;
      EXPECT_EQ(fs::status(entry.path()).permissions() & fs::perms::all,
                fs::perms::owner_read | fs::perms::owner_write)
          << entry.path();
    }
  }
  EXPECT_TRUE(found);
}

TEST_F(Ranks, BashrcIsRead) {
  FakeServer server(socket());
  fs::create_directories(folder() / "home");
  std::ofstream(folder() / "home/.bashrc") << "export FROM_RC=yes\n";
  server.order = order("echo $FROM_RC");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "yes\n");
}

TEST_F(Ranks, AReconnectLosesAndDoublesNoByte) {
  FakeServer server(socket());
  server.order = order("for i in {1..60000}; do echo line $i; done");
  RunnerProcess runner(folder(), socket(), {});
  int cut_short = 0;  // drops before the end was known, each of which a new connection must follow
  for (int drops = 0; drops < 6; ++drops) {
    const std::size_t until_bytes = server.output.size() + 50'000;
    ASSERT_TRUE(
        server.until([&] { return server.output.size() >= until_bytes || server.exited(); }));
    cut_short += server.exited() ? 0 : 1;
    server.drop();
  }
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  EXPECT_GE(cut_short, 1);
  std::string expected;
  for (int i = 1; i <= 60000; ++i) {
    expected += fmt::format("line {}\n", i);
  }
  EXPECT_TRUE(server.output == expected);
  EXPECT_GT(server.connections, cut_short);
  EXPECT_EQ(server.nonces.size(), 1U);
  EXPECT_EQ(server.faults, std::vector<std::string>());
}

TEST_F(Ranks, MessagesThatWereNotAcknowledgedComeAgainInOrder) {
  FakeServer server(socket());
  server.order = order("echo up; sleep 0.3; exit 4");
  server.acknowledge_messages = false;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  server.drop();
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(server.faults, std::vector<std::string>());
  EXPECT_EQ(get_string(server.hellos.back(), "phase"), "running");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 4);
}

TEST_F(Ranks, ASilentServerStopsNothing) {
  FakeServer server(socket());
  server.order = order("for i in 1 2 3; do echo $i; sleep 0.2; done; exit 6");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "1\n"; }));
  server.answer = 503;
  server.drop();
  ASSERT_TRUE(server.until([&] { return read_result(folder()).has_value(); }));
  server.answer = 101;
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "1\n2\n3\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 6);
}

TEST_F(Ranks, AServerThatReadsNothingDoesNotHoldUpTheRankAndGetsTheNewestLines) {
  FakeServer server(socket());
  RunnerProcess::Options options;
  options.spool_bytes = 16U << 20U;
  server.order = order("seq 1 8000000; touch ~/finished");  // 63 MB
  server.acknowledge_output = false;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.output.size() > 100; }));
  server.reading = false;
  ASSERT_TRUE(server.until([&] { return read_result(folder()).has_value(); }, 30));
  EXPECT_TRUE(fs::exists(folder() / "home/finished"));
  server.reading = true;
  server.acknowledge_output = true;
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  EXPECT_EQ(server.faults, std::vector<std::string>());
  ASSERT_NE(server.find("gap"), nullptr);
  EXPECT_TRUE(server.output.ends_with("\n7999999\n8000000\n"));
  const std::size_t resumed = server.output.rfind('~');
  ASSERT_NE(resumed, std::string::npos);
  // What follows the gap begins with a whole line, and counts on from there.
  std::size_t at = resumed + 1;
  long number = std::stol(server.output.substr(at));
  bool counts = true;
  for (; at < server.output.size() && counts; ++number) {
    const std::string line = std::to_string(number) + "\n";
    counts = server.output.compare(at, line.size(), line) == 0;
    at += line.size();
  }
  EXPECT_TRUE(counts);
}

TEST_F(Ranks, TwoHundredMegabytesArriveWhole) {
  FakeServer server(socket());
  server.order = order("head -c 200000000 /dev/zero | tr '\\0' 'x'");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 60));
  EXPECT_EQ(server.output.size(), 200'000'000U);
  EXPECT_EQ(server.output.find_first_not_of('x'), std::string::npos);
  EXPECT_EQ(server.faults, std::vector<std::string>());
}

TEST_F(Ranks, ASecondRunnerInTheSameFolderLeaves) {
  FakeServer server(socket());
  server.order = order("echo up; sleep 1000");
  RunnerProcess first(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  RunnerProcess second(folder(), socket(), {});
  EXPECT_EQ(second.wait(), 3);
  EXPECT_FALSE(first.ended());
  EXPECT_EQ(server.nonces.size(), 1U);
}

TEST_F(Ranks, ARunnerThatIsRefusedKillsWhatItRunsAndLeaves) {
  for (const int status : {401, 403, 409, 410}) {
    FakeServer server(socket());
    const fs::path place = root_ / fmt::format("refused-{}", status);
    server.order = order(fmt::format("bash -c 'exec -a {} sleep 1000' & echo up; wait", marker_));
    RunnerProcess runner(place, socket(), {});
    ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() > 0; }));
    server.answer = status;
    server.drop();
    ASSERT_TRUE(server.until([&] { return runner.ended(); }, 10)) << status;
    EXPECT_EQ(marked(), 0U);
  }
}

TEST_F(Ranks, ALeaveMessageDoesTheSame) {
  FakeServer server(socket());
  server.order = order(fmt::format("bash -c 'exec -a {} sleep 1000' & echo up; wait", marker_));
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() > 0; }));
  server.send({{"type", "leave"}, {"reason", "another runner is the one"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 10));
  EXPECT_EQ(marked(), 0U);
  EXPECT_FALSE(server.exited());
}

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

TEST_F(Ranks, ARankThatHasEndedWaitsForItsServerWithoutUsingTheProcessor) {
  FakeServer server(socket());
  server.order = order("true");
  (*server.order)["checkpoint"] =
      json::object{{"job_dir", (root_ / "hot/17").string()}, {"lease_ms", 30'000}};
  server.say_bye = false;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  server.answer = 503;
  server.drop();
  const auto ticks = [&]() -> std::optional<std::uint64_t> {
    for (const ProcessFacts& process : all_processes()) {
      if (process.pid == runner.pid()) {
        return process.cpu_ticks;
      }
    }
    return std::nullopt;
  };
  // A second after the order the fence would be read first, if the rank had not ended. Then two
  // more.
  (void)server.until([] { return false; }, 1.2);
  const auto before = ticks();
  (void)server.until([] { return false; }, 2);
  const auto after = ticks();
  ASSERT_TRUE(before && after);
  EXPECT_LT(*after - *before, 20U);  // of 200
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

TEST_F(Ranks, AnEndThatAnEarlierRunnerLeftBehindIsReportedAndNothingRuns) {
  FakeServer server(socket());
  server.order = order("echo again");
  fs::create_directories(folder());
  RankResult earlier;
  earlier.code = 9;
  ASSERT_TRUE(write_result(folder(), earlier).ok());
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 9);
  EXPECT_EQ(get_string(server.hellos.front(), "phase"), "ended");
  EXPECT_EQ(server.output, "");
}

TEST_F(Ranks, SigtermToTheRunnerIsAStop) {
  FakeServer server(socket());
  server.order = order("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  runner.signal(SIGTERM);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 10));
  EXPECT_EQ(server.output, "up\nbye\n");
  EXPECT_TRUE(get_bool(*server.find("exited"), "by_quad"));
}

TEST_F(Ranks, ADeathBySignalSaysSo) {
  FakeServer server(socket());
  server.order = order("kill -SEGV $$; sleep 5");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(get_string(*server.find("exited"), "how"), "signaled");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), SIGSEGV);
  EXPECT_FALSE(get_bool(*server.find("exited"), "by_quad"));
}

TEST_F(Ranks, ProgressIsToldWithTheNewestLine) {
  FakeServer server(socket());
  server.order = order(
      "echo '{\"step\": 1}' >> $QUAD_PROGRESS\n"
      "echo '{\"step\": 7, \"total\": 10, \"loss\": NaN, \"metrics\": {\"acc\": 0.5}}' >> "
      "$QUAD_PROGRESS");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  const json::object* progress = server.find("progress");
  ASSERT_NE(progress, nullptr);
  EXPECT_EQ(get_int(*progress, "step"), 7);
  EXPECT_EQ(get_int(*progress, "total"), 10);
  EXPECT_EQ(get_double(*get_object(*progress, "metrics"), "acc"), 0.5);
  EXPECT_FALSE(get_object(*progress, "metrics")->contains("loss"));
}

TEST_F(Ranks, HeartbeatsTellMemoryAndProcessorTime) {
  FakeServer server(socket());
  server.order = order("while :; do :; done");
  RunnerProcess runner(folder(), socket(), {});
  EXPECT_TRUE(server.until([&] {
    return std::any_of(server.messages.begin(), server.messages.end(), [](const auto& message) {
      return get_string(message, "type") == "heartbeat" &&
             get_int(message, "rss_bytes") > 100'000 &&
             get_double(message, "cpu_percent") > 0.5;  // the machine may be busy
    });
  }));
}

TEST_F(Ranks, AKillForMemorySaysHowMuch) {
  FakeServer server(socket());
  RunnerProcess::Options options;
  options.memory_bytes = 64 << 20;
  server.order = order("head -c 200000000 /dev/zero | tail > /dev/null");
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  if (server.find("note") != nullptr) {
    GTEST_SKIP() << "a memory limit cannot be set here";
  }
  const json::object& exited = *server.find("exited");
  EXPECT_TRUE(get_bool(exited, "out_of_memory"));
  EXPECT_EQ(get_string(exited, "detail"), "killed: memory 64.0 of 64.0 MiB");
}

TEST_F(Ranks, AMountThatIsNotThereIsASentenceWithItsName) {
  FakeServer server(socket());
  json::object with_mount = order("echo run");
  with_mount["mounts"] =
      json::array{json::object{{"dst", "~/data"}, {"kind", "blob"}, {"blob", "abc"}}};
  server.order = with_mount;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  const json::object& exited = *server.find("exited");
  EXPECT_EQ(get_string(exited, "how"), "never_ran");
  EXPECT_TRUE(get_bool(exited, "in_setup"));
  EXPECT_NE(get_string(exited, "detail").find("~/data"), std::string::npos);
  EXPECT_TRUE(server.tokens.contains("feedc0de"));
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
