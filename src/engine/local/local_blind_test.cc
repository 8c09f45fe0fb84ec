// An engine that cannot see for a while: no file left to open, results that cannot be read.
// Whatever it does not know, it must not take for an end.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "base/machine.h"
#include "engine/local/rank_folder.h"
#include "engine/local/spawn.h"
#include "engine/local/test_bench.h"

namespace quad::engine::test {
namespace {

namespace fs = std::filesystem;

class LocalBlind : public Bench {
 protected:
  // Takes every file that this program may still open, and those that the engine's threads have
  // open just now as soon as they are closed.
  std::vector<UniqueFd> take_all_files() {
    std::vector<UniqueFd> taken;
    for (bool more = true; more; let_beats_pass()) {
      more = false;
      for (;;) {
        UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        if (!fd) {
          break;
        }
        taken.push_back(std::move(fd));
        more = true;
      }
    }
    return taken;
  }
  std::size_t ends() {
    return seen_.count<RunnerEnded>([](const RunnerEnded&) { return true; });
  }
};

TEST_F(LocalBlind, AKillWaitsUntilItFindsWhatToKill) {
  begin();
  const auto family = start_family(key(1));
  {
    const FewFiles few(8);
    const auto taken = take_all_files();
    kill(key(1));
    let_beats_pass();
    EXPECT_EQ(ends(), 0U);
  }
  ASSERT_TRUE(seen_.ended(key(1)));
  for (const auto& [word, pid] : family) {
    EXPECT_FALSE(lives(pid)) << word;
  }
}

TEST_F(LocalBlind, AnEndIsToldWhenNothingOfItCanBeLeft) {
  begin();
  const auto family = start_family(key(1));
  {
    const FewFiles few(8);
    const auto taken = take_all_files();
    ::kill(family.at("up"), SIGQUIT);
    let_beats_pass();
    EXPECT_EQ(ends(), 0U);
  }
  const auto ended = seen_.ended(key(1));
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->detail,
            "its runner was killed by SIGQUIT; 2 processes that outlived it were killed");
  EXPECT_FALSE(lives(family.at("child")));
  EXPECT_FALSE(lives(family.at("stray")));
}

TEST_F(LocalBlind, AThawWaitsUntilEverythingCanGoOn) {
  begin();
  const NodeId node("local-1");
  const auto family = start_family(key(1));
  ASSERT_TRUE(engine_->node_action(node, "freeze").ok());
  engine_->start(order(key(2), "wait", 2));
  hear();  // orders are carried out in turn: the freeze is done
  const auto back = [&](const NodeBack& one) { return one.node == node; };
  {
    const FewFiles few(8);
    auto taken = take_all_files();
    taken.pop_back();  // enough for the node's state, but not for a look at processes
    // The engine's own look with each beat may have that file just now.
    while (!engine_->node_action(node, "thaw").ok()) {
      ::usleep(1000);
    }
    let_beats_pass();
    EXPECT_EQ(seen_.count<NodeBack>(back), 0U);
  }
  ASSERT_TRUE(seen_.wait_for<NodeBack>(back));
  expect_going_on(family);
}

TEST_F(LocalBlind, ABeginThatCannotSeeIsRefusedAndEndsNobody) {
  begin();
  const auto family = start_family(key(1));
  ASSERT_TRUE(engine_->node_action(NodeId("local-2"), "fail").ok());
  engine_->start(order(key(2), "end"));
  ASSERT_TRUE(seen_.ended(key(2)));
  engine_.reset();
  bool begun = false;
  int refusals = 0;
  for (int files = 0; !begun; ++files) {
    ASSERT_LT(files, 64);
    seen_.clear();
    LocalEngine engine(options(2));
    const FewFiles few(files);
    const auto inventories = engine.begin(seen_.sink());
    begun = inventories.ok();
    refusals += begun ? 0 : 1;
    if (!begun) {
      continue;
    }
    const auto& existing = inventories->at(0).existing;
    ASSERT_EQ(existing.size(), 2U) << files;
    for (const Existing& one : existing) {
      EXPECT_EQ(one.alive, one.key == key(1)) << files;
      EXPECT_EQ(one.result.has_value(), one.key == key(2)) << files;
    }
    EXPECT_EQ(seen_.count<NodeDown>([](const NodeDown&) { return true; }), 1U);
  }
  EXPECT_GT(refusals, 3);
  for (const auto& [word, pid] : family) {
    EXPECT_TRUE(lives(pid)) << word;
  }
}

TEST_F(LocalBlind, ARunnerWhoseStartCannotBeRecordedDoesNotRun) {
  fs::create_directories(folder(key(1)));
  const std::string boot = read_boot_id().value();
  StartFile file;
  file.key = key(1);
  file.token = "wait";
  const fs::path program = fs::read_symlink("/proc/self/exe");
  const std::vector<std::string> environment = {
      "QUAD_RANK_KEY=1-1-0", "QUAD_RANK_FOLDER=" + folder(key(1)).string() + "/"};
  const std::vector<Family> family = {{{}, "1-1-0", folder(key(1)).string()}};
  bool started = false;
  for (int files = 0; !started; ++files) {
    ASSERT_LT(files, 16);
    ASSERT_TRUE(prepare_rank_folder(folder(key(1)), file).ok());
    const auto spawned = [&] {
      const FewFiles few(files);
      return spawn_runner(program, folder(key(1)), environment, boot, 1024);
    }();
    started = spawned.ok();
    const auto record = read_start_record(folder(key(1)), boot).value();
    EXPECT_EQ(record.state == StartRecord::State::kStarted, started) << files;
    if (started) {
      EXPECT_EQ(hear().pid, spawned->process.pid);
    } else {
      EXPECT_TRUE(find_members(family).value()[0].empty()) << files;
    }
  }
}

TEST_F(LocalBlind, AResultThatCannotBeReadYetIsWaitedFor) {
  begin();
  engine_->start(order(key(1), "wait"));
  const Said said = hear();
  const fs::path result = folder(key(1)) / "result.json";
  fs::create_directory(result);  // reading it is an error, as of a disk that fails
  ::kill(said.pid, SIGKILL);
  let_beats_pass();
  EXPECT_EQ(ends(), 0U);
  // In one step: without any, there would be no result.
  const fs::path whole = folder(key(1)) / "whole.json";
  ASSERT_TRUE(write_file_atomically(whole, R"({"how": "exited", "code": 0})").ok());
  ASSERT_EQ(::renameat2(AT_FDCWD, whole.c_str(), AT_FDCWD, result.c_str(), RENAME_EXCHANGE), 0);
  const auto ended = seen_.ended(key(1));
  ASSERT_TRUE(ended);
  ASSERT_TRUE(ended->result);
  EXPECT_EQ(ended->result->how, job::RankEnd::How::kExited);
}

TEST_F(LocalBlind, ANodeIsNotDownBeforeTheLastEndOnItIsTold) {
  begin();
  engine_->start(order(key(1), "wait"));
  const Said said = hear();
  const fs::path result = folder(key(1)) / "result.json";
  fs::create_directory(result);
  ::kill(said.pid, SIGKILL);
  let_beats_pass();
  const auto down = [](const NodeDown& one) { return one.node.value() == "local-1"; };
  ASSERT_TRUE(engine_->node_action(NodeId("local-1"), "fail").ok());
  let_beats_pass();
  EXPECT_EQ(seen_.count<NodeDown>(down), 0U);
  fs::remove(result);
  ASSERT_TRUE(seen_.wait_for<NodeDown>(down));
  EXPECT_EQ(ends(), 1U);
}

}  // namespace
}  // namespace quad::engine::test
