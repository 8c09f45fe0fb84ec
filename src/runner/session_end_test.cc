// The real quad-runner against a server that the test plays: how ranks end and what ends with them,
// as root and as nobody, with namespaces and without.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/file.h"
#include "runner/fake_server.h"
#include "runner/process_table.h"
#include "runner/result_file.h"
#include "runner/session_fixture.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

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

TEST_P(EachWay, AResultIsLeftAsATerminationMessageToo) {
  const fs::path message = root_ / "termination-log";
  std::ofstream(message) << "what the job itself has written";
  fs::permissions(message, fs::perms(0666));  // as the kubelet makes it
  RunnerProcess::Options some = options();
  some.termination_message = message.string();
  FakeServer server(socket());
  server.order = order("exit 3");
  server.say_bye = false;
  RunnerProcess runner(folder(), socket(), some);
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(read_file(message).value(), termination_message(*read_result(folder())));

  // A container that is started anew has a new file, and the result of its folder.
  runner.signal(SIGKILL);
  (void)runner.wait();
  std::ofstream(message, std::ios::trunc).flush();
  server.forget();
  RunnerProcess another(folder(), socket(), some);
  ASSERT_TRUE(server.until([&] { return server.hellos.size() >= 2; }));
  EXPECT_EQ(read_file(message).value(), termination_message(*read_result(folder())));
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

// A trainer with three workers. Told to stop, it waits a moment for one of them to end, counts
// those that are there, and ends them.
constexpr std::string_view kTrainer = R"(cat > trainer.py <<'END'
import signal, subprocess, sys, time
workers = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
told = 0
def stop(number, frame):
    global told
    told += 1
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while not told:
    time.sleep(0.01)
try:
    workers[0].wait(timeout=20 if "for-all" in sys.argv else 0.3)
    for worker in workers[1:]:
        worker.wait(timeout=20)
except subprocess.TimeoutExpired:
    pass
print(f"told {told} time, {sum(worker.poll() is None for worker in workers)} of 3 workers are there", flush=True)
for worker in workers:
    worker.kill()
END
)";

TEST_P(EachWay, AStopIsToldToTheScriptAloneAtFirst) {
  FakeServer server(socket());
  // Through a further shell, and with something that setup has left running.
  server.order = order(fmt::format("{}echo 'python3 trainer.py; exit' > train.sh; bash train.sh\n"
                                   "echo the next line must not run",
                                   kTrainer),
                       fmt::format("setsid bash -c 'exec -a {} sleep 1000' &", marker_));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n" && marked() == 1; }));
  server.send({{"type", "stop"}, {"grace_ms", 20000}, {"reason", "cancelled"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 15));
  EXPECT_EQ(server.output, "up\ntold 1 time, 3 of 3 workers are there\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 143);
  EXPECT_EQ(marked(), 0U);
}

TEST_P(EachWay, WhatALauncherLeavesIsToldOfAStopOnce) {
  FakeServer server(socket());
  server.order = order(fmt::format(
      "{}python3 -c 'import subprocess; subprocess.run([\"python3\", \"trainer.py\"])'", kTrainer));
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  server.send({{"type", "stop"}, {"grace_ms", 20000}, {"reason", "cancelled"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 15));
  EXPECT_EQ(server.output, "up\ntold 1 time, 3 of 3 workers are there\n");
}

TEST_P(EachWay, AStopIsToldToAllAtOnceWhereTheTaskSaysSo) {
  FakeServer server(socket());
  server.order = order(fmt::format("{}python3 trainer.py for-all", kTrainer));
  (*server.order)["stop_signal_to"] = "all";
  RunnerProcess runner(folder(), socket(), options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  server.send({{"type", "stop"}, {"grace_ms", 20000}, {"reason", "cancelled"}});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 15));
  EXPECT_EQ(server.output, "up\ntold 1 time, 0 of 3 workers are there\n");
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

TEST_F(Ranks, AResultThatAConnectedServerDoesNotAcknowledgeIsSynced) {
  FakeServer server(socket());
  server.order = order("true");
  server.say_bye = false;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  // A sync cannot be seen from outside, but that there is nothing to sync can.
  fs::remove(folder() / "result.json");
  EXPECT_TRUE(server.until([&] {
    const auto log = read_file(folder() / "runner.log");
    return log.ok() && log.value().find("Cannot sync result.json") != std::string::npos;
  }));
  EXPECT_TRUE(server.connected());
}

TEST_F(Ranks, PipesInThePlaceOfItsFilesHoldNoRunnerUp) {
  FakeServer server(socket());
  server.order = order("echo out",
                       "cd ../..; for f in run.sh result.json result.json.tmp "
                       "runner.log; do rm -f $f; mkfifo $f; done");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "out\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 0);
  EXPECT_TRUE(read_result(folder()).has_value());
}

TEST_F(Ranks, APipeThatIsCalledAResultIsNone) {
  fs::create_directories(folder());
  ASSERT_EQ(::mkfifo((folder() / "result.json").c_str(), 0600), 0);
  EXPECT_FALSE(read_result(folder()).has_value());
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
  EXPECT_EQ(runner.wait(), 143) << "a kubelet that evicts it says so only of a pod that failed";
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

// Starts processes until it is refused one, or 500.
constexpr std::string_view kCountsProcesses = R"(python3 - <<'END'
import os, time
children = []
try:
    while len(children) < 500:
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        children.append(child)
except OSError as refused:
    print(refused.strerror, flush=True)
print("more than 30" if len(children) > 30 else "few", "no more than 64" if len(children) < 64 else len(children))
END
)";

TEST_P(EachWay, ARankHasNoMoreProcessesThanItMay) {
  FakeServer server(socket());
  RunnerProcess::Options limited = options();
  limited.processes = 64;
  server.order = order(kCountsProcesses, "true");
  RunnerProcess runner(folder(), socket(), limited);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  const json::object* note = server.find("note");
  if (note != nullptr && get_string(*note, "message").find("cannot be") != std::string::npos) {
    GTEST_SKIP() << "no bound can be set here: " << get_string(*note, "message");
  }
  EXPECT_EQ(server.output, "Resource temporarily unavailable\nmore than 30 no more than 64\n");
  if (limited.namespaces && note != nullptr) {
    EXPECT_EQ(get_string(*note, "kind"), "limit");
    EXPECT_NE(get_string(*note, "message").find("as many processes and threads as it may, 64"),
              std::string::npos);
  }
}

TEST_F(Ranks, ARootRankHasTheUsualCapabilitiesOfAContainerAndNoMore) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root";
  }
  FakeServer server(socket());
  server.order = order(
      "grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status | sort -u -k 2 | cut -f 2\n"
      "grep ^CapEff /proc/1/status | cut -f 2\n"
      "mount -t tmpfs none /mnt 2> /dev/null || echo no mount\n"
      "echo x 2> /dev/null > /proc/sys/kernel/hostname || echo no setting\n"
      "touch home && chown 12345 home && echo chown");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
  // ipc_lock, sys_chroot, sys_ptrace, audit_write, setfcap
  EXPECT_EQ(server.output, "00000000a00c65fb\n00000000a00c65fb\nno mount\nno setting\nchown\n");
}

TEST_F(Ranks, AVariableThatIsTooLongForTheKernelIsNamed) {
  FakeServer server(socket());
  server.order = order("ls");
  (*server.order)["envs"] = json::array{json::array{"LONG", std::string(200'000, 'x')}};
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 126);
  EXPECT_EQ(get_string(*server.find("exited"), "detail"),
            "the variable LONG is too long: no program can be started with one of more than 131071 "
            "bytes");
}

TEST_F(Ranks, ARunnerDumpsNoCoreButItsJobMay) {
  FakeServer server(socket());
  RunnerProcess::Options options;
  options.as_nobody = ::geteuid() == 0;
  server.order = order("ulimit -c; [ -O /proc/self/environ ] && echo mine; sleep 1000");
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.output.ends_with("mine\n"); })) << server.output;
  // Of a process that dumps no core these files are root's.
  struct stat facts {};
  ASSERT_EQ(::stat(fmt::format("/proc/{}/environ", runner.pid()).c_str(), &facts), 0);
  EXPECT_EQ(facts.st_uid, 0U);
  rlimit core{};
  ::getrlimit(RLIMIT_CORE, &core);
  const std::string limit =
      core.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(core.rlim_cur / 1024);
  EXPECT_EQ(server.output, limit + "\nmine\n");
}

TEST_F(Ranks, AFewOpenFilesAreEnoughForARunner) {
  FakeServer server(socket());
  server.order = order("echo out", "echo setup");
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit few = before;
  few.rlim_cur = 64;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  RunnerProcess runner(folder(), socket(), {});
  ::setrlimit(RLIMIT_NOFILE, &before);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "setup\nout\n");
}

}  // namespace
}  // namespace quad::runner::testing
