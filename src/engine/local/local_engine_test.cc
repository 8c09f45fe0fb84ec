// Starting, ending, killing, forgetting, and taking over from a server that is gone.

#include "engine/local/local_engine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/json.h"
#include "base/machine.h"
#include "engine/local/rank_folder.h"
#include "engine/local/test_bench.h"

namespace quad::engine::test {
namespace {

namespace fs = std::filesystem;

class Local : public Bench {};

const Existing* find(const std::vector<Existing>& existing, const RankKey& key) {
  const auto it = std::find_if(existing.begin(), existing.end(),
                               [&](const Existing& one) { return one.key == key; });
  return it == existing.end() ? nullptr : &*it;
}

TEST_F(Local, TellsOfItsNodesBeforeItsBeginReturnsAndOfTheirLifeAfterwards) {
  EXPECT_TRUE(begin(2).empty());
  EXPECT_EQ(seen_.count<NodeFound>([](const NodeFound& one) { return one.spec.pretend; }), 2U);
  EXPECT_TRUE(
      seen_.wait_for<NodeSeen>([](const NodeSeen& one) { return one.node.value() == "local-1"; }));
  EXPECT_TRUE(
      seen_.wait_for<NodeSeen>([](const NodeSeen& one) { return one.node.value() == "local-2"; }));
}

TEST_F(Local, GivesARunnerItsFolderAndItsOrders) {
  begin();
  engine_->start(order(key(17, 2), "wait"));
  const Said said = hear();
  EXPECT_EQ(said.key, "17-2-0");
  const auto start = parse_json_object(read_file(folder(key(17, 2)) / "start.json").value_or(""));
  ASSERT_TRUE(start.ok());
  EXPECT_EQ(get_string(*start, "token"), "wait");
  EXPECT_EQ(get_int(*start, "job"), 17);
  EXPECT_EQ(get_int(*start, "epoch"), 2);
  EXPECT_EQ(get_int(*start, "rank", -1), 0);
  EXPECT_EQ(get_string(*start, "node"), "local-1");
  EXPECT_EQ(get_string(*start, "address"), "127.64.0.1");
  EXPECT_EQ(get_string(*start, "gpu_env"), "CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(get_string(*start, "hot"), (data_ / "hot").string());
  ASSERT_NE(get_array(*start, "gpus"), nullptr);
  EXPECT_EQ(to_text(*get_array(*start, "gpus")), "[2,3]");
  struct stat info {};
  ASSERT_EQ(::stat(folder(key(17, 2)).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0700U);
  ASSERT_EQ(::stat((folder(key(17, 2)) / "start.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(Local, StartsARunnerInASessionOfItsOwnWithNoFileOfTheServers) {
  const UniqueFd inherited(::open("/dev/null", O_RDONLY));  // without close-on-exec
  begin();
  engine_->start(order(key(1), "files"));
  EXPECT_EQ(hear().word, "0,1,2,leader");
}

TEST_F(Local, StartsOnceForAnOrderGivenTwice) {
  begin();
  engine_->start(order(key(1), "wait"));
  engine_->start(order(key(1), "wait"));
  engine_->start(order(key(2), "wait"));
  EXPECT_NE(hear().key, hear().key);
  engine_->start(order(key(1), "wait"));
  engine_->start(order(key(3), "wait"));
  EXPECT_EQ(hear().key, "3-1-0");
}

TEST_F(Local, DoesNotStartAgainWhatHasEnded) {
  begin();
  engine_->start(order(key(1), "vanish"));
  ASSERT_TRUE(seen_.ended(key(1)));
  seen_.clear();
  engine_->start(order(key(1), "wait"));
  engine_->start(order(key(2), "wait"));
  EXPECT_EQ(hear().key, "2-1-0");
  EXPECT_TRUE(seen_.ended(key(1)));
}

TEST_F(Local, ReportsTheResultThatARunnerLeft) {
  begin();
  engine_->start(order(key(1), "end"));
  const auto ended = seen_.ended(key(1));
  ASSERT_TRUE(ended);
  ASSERT_TRUE(ended->result);
  EXPECT_EQ(ended->result->how, job::RankEnd::How::kExited);
  EXPECT_EQ(ended->result->code, 3);
  EXPECT_TRUE(ended->result->in_setup);
  EXPECT_EQ(ended->result->detail, "it said so");
  EXPECT_EQ(ended->result->at.millis, 1234);
  EXPECT_EQ(ended->detail, "its runner exited with code 0");
}

TEST_F(Local, ReportsARunnerThatVanishedWithoutAResult) {
  begin();
  engine_->start(order(key(1), "vanish"));
  const auto ended = seen_.ended(key(1));
  ASSERT_TRUE(ended);
  EXPECT_FALSE(ended->result);
  EXPECT_EQ(ended->detail, "its runner exited with code 9");
}

TEST_F(Local, SaysWhyARunnerCannotBeStarted) {
  LocalEngineOptions broken = options(1);
  broken.runner = data_ / "no-such-runner";
  LocalEngine engine(broken);
  ASSERT_TRUE(engine.begin(seen_.sink()).ok());
  engine.start(order(key(1), "wait"));
  const auto failed =
      seen_.wait_for<StartFailed>([&](const StartFailed& one) { return one.key == key(1); });
  ASSERT_TRUE(failed);
  EXPECT_NE(failed->reason.find("no-such-runner"), std::string::npos) << failed->reason;
  engine.start(order(key(2), "wait", 7));
  const auto nowhere =
      seen_.wait_for<StartFailed>([&](const StartFailed& one) { return one.key == key(2); });
  ASSERT_TRUE(nowhere);
  EXPECT_EQ(nowhere->reason, "there is no node 'local-7' here");
  engine.end();
  EXPECT_FALSE(fs::exists(folder(key(1))));
}

TEST_F(Local, KillsARunnerWithEverythingItStarted) {
  begin();
  engine_->start(order(key(1), "family"));
  std::map<std::string, pid_t> family;
  for (int i = 0; i < 3; ++i) {
    const Said said = hear();
    family[said.word] = said.pid;
  }
  ASSERT_EQ(family.size(), 3U);
  kill(key(1));
  const auto ended = seen_.ended(key(1));
  ASSERT_TRUE(ended);
  EXPECT_FALSE(ended->result);
  EXPECT_EQ(ended->detail.substr(0, 31), "its runner was killed by SIGKIL");
  for (const auto& [word, pid] : family) {
    EXPECT_FALSE(lives(pid)) << word;
  }
}

TEST_F(Local, LeavesNothingOfARunnerThatDiedByItself) {
  begin();
  engine_->start(order(key(1), "family"));
  std::map<std::string, pid_t> family;
  for (int i = 0; i < 3; ++i) {
    const Said said = hear();
    family[said.word] = said.pid;
  }
  ::kill(family["up"], SIGQUIT);
  const auto ended = seen_.ended(key(1));
  ASSERT_TRUE(ended);
  EXPECT_FALSE(lives(family["child"]));
  EXPECT_FALSE(lives(family["stray"]));
  EXPECT_EQ(ended->detail,
            "its runner was killed by SIGQUIT; 2 processes that outlived it were killed");
}

TEST_F(Local, KillsOneRankAndNoOther) {
  begin();
  engine_->start(order(key(1, 1, 0), "wait"));
  const Said first = hear();
  engine_->start(order(key(1, 1, 1), "wait"));
  const Said second = hear();
  kill(key(1, 1, 0));
  kill(key(9));
  ASSERT_TRUE(seen_.ended(key(1, 1, 0)));
  EXPECT_FALSE(lives(first.pid));
  EXPECT_TRUE(lives(second.pid));
  kill(key(1, 1, 0));
  kill(key(1, 1, 1));
  ASSERT_TRUE(seen_.ended(key(1, 1, 1)));
  // Whoever has one killed that is not there any more has not heard of its end, and is told again.
  EXPECT_EQ(seen_.ended(key(9))->detail, "its runner is not there");
  EXPECT_EQ(seen_.count<RunnerEnded>([](const RunnerEnded&) { return true; }), 4U);
}

TEST_F(Local, RemovesTheControlGroupOfARunnerItKilledWithThoseBelowIt) {
  const fs::path top =
      fs::exists("/sys/fs/cgroup/cgroup.procs") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
  const fs::path group = top / fmt::format("quad-1-1-0-{}", ::getpid());
  if (::mkdir(group.c_str(), 0755) != 0) {
    GTEST_SKIP() << "no control group can be made here";
  }
  fs::create_directories(group / "of/the/job");
  begin();
  engine_->start(order(key(1), "wait"));
  hear();
  ASSERT_TRUE(write_file_atomically(folder(key(1)) / "cgroup", group.string()).ok());
  kill(key(1));
  ASSERT_TRUE(seen_.ended(key(1)));
  EXPECT_FALSE(fs::exists(group));
}

TEST_F(Local, ForgetsTheFolderOfARankThatEndedOrThatStillEnds) {
  begin();
  engine_->start(order(key(1), "end"));
  ASSERT_TRUE(seen_.ended(key(1)));
  ASSERT_TRUE(fs::exists(folder(key(1))));
  forget(key(1));
  engine_->start(order(key(2), "wait"));
  hear();
  EXPECT_FALSE(fs::exists(folder(key(1))));
  forget(key(2));
  kill(key(2));
  ASSERT_TRUE(seen_.ended(key(2)));
  engine_->end();
  EXPECT_FALSE(fs::exists(folder(key(2))));
  EXPECT_TRUE(begin().empty());
}

TEST_F(Local, EmptiesTheTrashOfAnEarlierServerThoughUsersForbadeIt) {
  fs::create_directories(data_ / "trash/old/locked/deep");
  ASSERT_TRUE(write_file_atomically(data_ / "trash/old/locked/file", "x").ok());
  fs::create_directory_symlink(data_, data_ / "trash/old/link");
  ::chmod((data_ / "trash/old/locked").c_str(), 0);
  begin();
  for (int i = 0; i < 5000 && !fs::is_empty(data_ / "trash"); ++i) {
    ::usleep(1000);
  }
  EXPECT_TRUE(fs::is_empty(data_ / "trash"));
  EXPECT_TRUE(fs::exists(data_ / "said"));
}

TEST_F(Local, StartsTwoHundredAtOnceAndSeesEachEnd) {
  begin();
  constexpr int kMany = 200;
  std::set<std::string> up;
  for (int job = 1; job <= kMany; ++job) {
    engine_->start(order(key(job), "wait", 1 + job % 2));
  }
  for (int i = 0; i < kMany; ++i) {
    up.insert(hear().key);
  }
  EXPECT_EQ(up.size(), static_cast<std::size_t>(kMany));
  for (int job = 1; job <= kMany; ++job) {
    kill(key(job));
  }
  for (int job = 1; job <= kMany; ++job) {
    ASSERT_TRUE(seen_.ended(key(job))) << job;
  }
}

// A server that is gone, and the next one.

TEST_F(Local, FindsRunnersThatOutlivedTheirServerAndSeesThemEnd) {
  begin();
  engine_->start(order(key(1), "wait"));
  engine_->start(order(key(2), "wait", 2));
  std::map<std::string, pid_t> pids;
  for (int i = 0; i < 2; ++i) {
    const Said said = hear();
    pids[said.key] = said.pid;
  }
  const auto existing = begin();
  ASSERT_EQ(existing.size(), 2U);
  ASSERT_NE(find(existing, key(1)), nullptr);
  EXPECT_TRUE(find(existing, key(1))->alive);
  engine_->start(order(key(1), "wait"));  // the order given again
  engine_->start(order(key(3), "wait"));
  EXPECT_EQ(hear().key, "3-1-0");
  ::kill(pids["1-1-0"], SIGKILL);
  EXPECT_TRUE(seen_.ended(key(1)));
  kill(key(2));
  EXPECT_TRUE(seen_.ended(key(2)));
  EXPECT_FALSE(lives(pids["2-1-0"]));
}

TEST_F(Local, FindsRunnersThatEndedWhileThereWasNoServer) {
  begin();
  engine_->start(order(key(1), "family"));
  std::map<std::string, pid_t> family;
  for (int i = 0; i < 3; ++i) {
    const Said said = hear();
    family[said.word] = said.pid;
  }
  engine_->end();
  ASSERT_TRUE(
      write_file_atomically(folder(key(1)) / "result.json", R"({"how": "signaled", "code": 9})")
          .ok());
  ::kill(family["up"], SIGKILL);
  ASSERT_EQ(::waitpid(family["up"], nullptr, 0), family["up"]);
  const auto existing = begin();
  ASSERT_EQ(existing.size(), 1U);
  EXPECT_FALSE(existing[0].alive);
  ASSERT_TRUE(existing[0].result);
  EXPECT_EQ(existing[0].result->how, job::RankEnd::How::kSignaled);
  EXPECT_FALSE(lives(family["child"]));
  EXPECT_FALSE(lives(family["stray"]));
  forget(key(1));
  engine_->end();
  EXPECT_FALSE(fs::exists(folder(key(1))));
}

TEST_F(Local, DoesNotTakeAResultOfNoKnownKindForASuccess) {
  begin();
  engine_->start(order(key(1), "vanish"));
  ASSERT_TRUE(seen_.ended(key(1)));
  for (const char* text : {"", "{", "[]", "{}", R"({"how": "finished"})", R"({"code": 0})"}) {
    ASSERT_TRUE(write_file_atomically(folder(key(1)) / "result.json", text).ok());
    EXPECT_FALSE(read_result(folder(key(1))).value()) << text;
  }
}

TEST_F(Local, DoesNotTakeAnotherProcessWithTheSameNumberForItsRunner) {
  // Two processes differ by when they were started, in clock ticks: the runner must not be of this
  // one's tick.
  const auto own_start = find_process(::getpid()).value()->start_time;
  timespec since_boot{};
  do {
    ::clock_gettime(CLOCK_BOOTTIME, &since_boot);
  } while (static_cast<std::uint64_t>(since_boot.tv_sec * 100 + since_boot.tv_nsec / 10'000'000) <=
           own_start + 1);
  begin();
  engine_->start(order(key(1), "wait"));
  const Said said = hear();
  engine_->end();
  const fs::path record = folder(key(1)) / "started";
  const std::string text = read_file(record).value_or("");
  ::kill(said.pid, SIGKILL);
  ::waitpid(said.pid, nullptr, 0);
  // As if its number had been given to this test's own process since.
  const std::size_t line = text.find('\n') + 1;
  const std::string own = fmt::format("{}", ::getpid());
  const std::string reused = text.substr(0, line) + own + text.substr(text.find(' ', line));
  ASSERT_TRUE(write_file_atomically(record, reused).ok());
  const auto existing = begin();
  ASSERT_EQ(existing.size(), 1U);
  EXPECT_FALSE(existing[0].alive);
  kill(key(1));
  engine_->start(order(key(2), "wait"));
  EXPECT_EQ(hear().key, "2-1-0");
}

TEST_F(Local, TakesARunnerOfAnEarlierBootForDead) {
  begin();
  engine_->start(order(key(1), "wait"));
  const Said said = hear();
  engine_->end();
  const fs::path record = folder(key(1)) / "started";
  const std::string text = read_file(record).value_or("");
  ASSERT_TRUE(
      write_file_atomically(record, "another-boot\n" + text.substr(text.find('\n') + 1)).ok());
  const auto existing = begin();
  ASSERT_EQ(existing.size(), 1U);
  EXPECT_FALSE(existing[0].alive);
  EXPECT_FALSE(lives(said.pid)) << "what is reported as ended must not live";
}

TEST_F(Local, StartsAfreshWhatWasLeftHalfMade) {
  begin();
  engine_->end();
  // Killed after the folder, after start.json, after the record was made but before there was a
  // process.
  fs::create_directories(folder(key(1)));
  fs::create_directories(folder(key(2)));
  ASSERT_TRUE(write_file_atomically(folder(key(2)) / "start.json", "{\"tok").ok());
  fs::create_directories(folder(key(3)));
  ASSERT_TRUE(
      write_file_atomically(folder(key(3)) / "started", read_boot_id().value() + "\n").ok());
  fs::create_directories(data_ / "nodes/local-1/notes");
  EXPECT_TRUE(begin().empty());
  for (int job = 1; job <= 3; ++job) {
    EXPECT_FALSE(fs::exists(folder(key(job))));
    engine_->start(order(key(job), "wait"));
  }
  std::set<std::string> up = {hear().key, hear().key, hear().key};
  EXPECT_EQ(up.size(), 3U);
  EXPECT_TRUE(fs::exists(data_ / "nodes/local-1/notes"));
}

TEST_F(Local, WatchesRunnersOnNodesThatAreNotConfiguredAnyMore) {
  begin(2);
  engine_->start(order(key(1), "wait", 2));
  const Said said = hear();
  const auto existing = begin(1);
  ASSERT_EQ(existing.size(), 1U);
  EXPECT_TRUE(existing[0].alive);
  kill(key(1));
  EXPECT_TRUE(seen_.ended(key(1)));
  EXPECT_FALSE(lives(said.pid));
}

TEST_F(Local, FindsEachRunnerExactlyOnceWheneverItsServerIsKilled) {
  constexpr int kJobs = 12;
  for (int round = 0; round < 12; ++round) {
    const std::int64_t first = round * kJobs + 1;
    const pid_t server = ::fork();
    if (server == 0) {
      LocalEngine engine(options(2));
      Observed ignored;
      (void)engine.begin(ignored.sink());
      for (int i = 0; i < kJobs; ++i) {
        engine.start(order(key(first + i), "wait"));
      }
      ::pause();
    }
    // The instant is given by how many runners have spoken; the others are at some point of their
    // start then.
    std::map<std::string, std::set<pid_t>> up;
    for (int i = 0; i < round % kJobs; ++i) {
      const Said said = hear();
      up[said.key].insert(said.pid);
    }
    ::kill(server, SIGKILL);
    ASSERT_EQ(::waitpid(server, nullptr, 0), server);
    const auto existing = begin();
    for (int i = 0; i < kJobs; ++i) {
      const Existing* one = find(existing, key(first + i));
      EXPECT_TRUE(one == nullptr || one->alive) << first + i;
      engine_->start(order(key(first + i), "wait"));
    }
    engine_->start(
        order(key(first, 99), "wait"));  // is up when all orders before it are carried out
    bool all = false;
    while (!all && !HasFailure()) {
      const Said said = hear();
      EXPECT_EQ(said.word, "up") << said.key;
      up[said.key].insert(said.pid);
      all = up.size() == kJobs + 1;
    }
    for (const auto& [name, pids] : up) {
      EXPECT_EQ(pids.size(), 1U) << name;
    }
    for (int i = 0; i < kJobs; ++i) {
      forget(key(first + i));
      kill(key(first + i));
    }
    forget(key(first, 99));
    kill(key(first, 99));
    ASSERT_TRUE(seen_.ended(key(first, 99)));
    for (int i = 0; i < kJobs; ++i) {
      ASSERT_TRUE(seen_.ended(key(first + i)));
    }
    engine_->end();
  }
}

}  // namespace
}  // namespace quad::engine::test
