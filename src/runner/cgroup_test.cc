// On trees of files that look like control groups, for v2 and v1: which group is taken, and what is
// written into it. That a limit really holds is session_test.cc's matter, on this machine's own
// groups.

#include "runner/cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

class Cgroup : public ::testing::Test {
 protected:
  Cgroup() : root_(fs::temp_directory_path() / ("quad-cgroup-" + random_hex(6))) {
    fs::create_directories(root_ / "mount");
  }
  ~Cgroup() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  void file(const fs::path& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::string text(const fs::path& path) const {
    return read_file(root_ / path).value_or("(none)");
  }
  /// The kernel fills a new group with its files; here they are there before.
  void group(const fs::path& path, const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
      file(path / name, "");
    }
  }
  [[nodiscard]] CgroupPlaces places() const { return {root_ / "mount", root_ / "own"}; }

  fs::path root_;
};

const Limits kLimits{1'000'000, 500, {0, 3}};

TEST_F(Cgroup, OfVersion2IsMadeBesideTheRunnersOwnWhereThatHasTheController) {
  file("own", "0::/user.slice/app.slice/quad.scope\n");
  file("mount/user.slice/app.slice/cgroup.subtree_control", "cpu cpuset memory pids\n");
  file("mount/user.slice/app.slice/quad.scope/cgroup.subtree_control", "\n");
  const fs::path made = "mount/user.slice/app.slice/quad-17-2-0";
  group(made, {"memory.max", "memory.swap.max", "pids.max", "cpuset.cpus"});
  ControlGroups groups(places());
  groups.create("quad-17-2-0", kLimits);
  EXPECT_TRUE(groups.limit_memory());
  EXPECT_TRUE(groups.limit_processes());
  EXPECT_EQ(groups.folders(), std::vector<fs::path>{root_ / made});
  EXPECT_EQ(text(made / "memory.max"), "1000000");
  EXPECT_EQ(text(made / "memory.swap.max"), "0");
  EXPECT_EQ(text(made / "pids.max"), "500");
  EXPECT_EQ(text(made / "cpuset.cpus"), "0,3");
  EXPECT_TRUE(fs::is_directory(root_ / made / "rank"));
  file(made / "memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n");
  file(made / "memory.peak", "999424\n");
  EXPECT_EQ(groups.memory().oom_kills, 2U);
  EXPECT_EQ(groups.memory().peak_bytes, 999'424U);
  file(made / "pids.events", "max 7\n");
  EXPECT_EQ(groups.refused_processes(), 7U);
}

TEST_F(Cgroup, OfVersion2IsMadeBelowTheRunnersOwnWhereThatIsDelegated) {
  file("own", "0::/delegated\n");
  file("mount/delegated/cgroup.subtree_control", "memory\n");
  group("mount/delegated/quad-1-1-0", {"memory.max"});
  ControlGroups groups(places());
  groups.create("quad-1-1-0", kLimits);
  EXPECT_EQ(text("mount/delegated/quad-1-1-0/memory.max"), "1000000");
  EXPECT_TRUE(groups.limit_memory());
  EXPECT_FALSE(groups.limit_processes()) << "there is no such controller";
  EXPECT_EQ(groups.refused_processes(), 0U);
}

TEST_F(Cgroup, OfVersion2AsksForAControllerThatIsNotHandedDown) {
  file("own", "0::/delegated\n");
  file("mount/delegated/cgroup.controllers", "memory pids\n");
  file("mount/delegated/cgroup.subtree_control", "\n");
  ControlGroups groups(places());
  groups.create("quad-1-1-0", Limits{0, 500, {}});
  EXPECT_EQ(text("mount/delegated/cgroup.subtree_control"), "+pids");
}

TEST_F(Cgroup, OfVersion1AreMadeBelowTheRunnersOwnOneForEachLimit) {
  file("own", "7:pids:/\n6:cpuset:/cpus\n5:cpu,cpuacct:/elsewhere\n4:memory:/service/quad\n0::/\n");
  const fs::path memory = "mount/memory/service/quad/quad-1-1-0";
  const fs::path pids = "mount/pids/quad-1-1-0";
  const fs::path cpuset = "mount/cpuset/cpus/quad-1-1-0";
  group(memory, {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"});
  group(pids, {"pids.max"});
  file("mount/cpuset/cpus/cpuset.mems", "0-1\n");
  for (const fs::path& one : {cpuset, cpuset / "rank"}) {
    group(one, {"cpuset.cpus", "cpuset.mems"});
  }
  ControlGroups groups(places());
  groups.create("quad-1-1-0", kLimits);
  EXPECT_EQ(groups.folders(),
            (std::vector<fs::path>{root_ / memory, root_ / pids, root_ / cpuset}));
  EXPECT_EQ(text(memory / "memory.limit_in_bytes"), "1000000");
  EXPECT_EQ(text(memory / "memory.memsw.limit_in_bytes"), "1000000");
  EXPECT_EQ(text(pids / "pids.max"), "500");
  for (const fs::path& one : {cpuset, cpuset / "rank"}) {
    EXPECT_EQ(text(one / "cpuset.cpus"), "0,3");
    EXPECT_EQ(text(one / "cpuset.mems"), "0-1");
  }
  // The kernel counts where the process is.
  file(memory / "rank/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
  file(memory / "memory.max_usage_in_bytes", "998848\n");
  file(pids / "rank/pids.events", "max 3\n");
  EXPECT_EQ(groups.memory().oom_kills, 1U);
  EXPECT_EQ(groups.memory().peak_bytes, 998'848U);
  EXPECT_EQ(groups.refused_processes(), 3U);
}

TEST_F(Cgroup, OfALimitThatCannotBeSetIsNotThere) {
  for (const char* own : {"", "0::/\n", "0::/user.slice/session.scope\n", "4:memory:/x\n"}) {
    file("own", own);
    ControlGroups groups(places());
    groups.create("quad-1-1-0", kLimits);
    EXPECT_FALSE(groups.limit_memory()) << own;
    EXPECT_FALSE(groups.limit_processes()) << own;
    EXPECT_TRUE(groups.folders().empty()) << own;
    EXPECT_FALSE(fs::exists(root_ / "mount/memory/quad-1-1-0"));
  }
}

TEST_F(Cgroup, OfAContainerTellsOfItsKillsAlthoughNoLimitIsOurs) {
  file("mount/memory.events", "oom_kill 3\n");
  file("mount/memory.max", "68719476736\n");
  const ControlGroups groups(places());
  EXPECT_EQ(groups.memory().oom_kills, 3U);
  EXPECT_EQ(groups.memory().limit_bytes, 64ULL << 30U);
  file("mount/memory.max", "max\n");
  EXPECT_EQ(groups.memory().limit_bytes, 0U);
}

TEST_F(Cgroup, OfAContainerIsKnownInVersion1Too) {
  file("mount/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
  file("mount/memory/memory.max_usage_in_bytes", "1048576\n");
  file("mount/memory/memory.limit_in_bytes", "1048576\n");
  const ControlGroups groups(places());
  EXPECT_EQ(groups.memory().oom_kills, 2U);
  EXPECT_EQ(groups.memory().peak_bytes, 1U << 20U);
  EXPECT_EQ(groups.memory().limit_bytes, 1U << 20U);
  file("mount/memory/memory.limit_in_bytes", "9223372036854771712\n");  // as it says "none"
  EXPECT_EQ(groups.memory().limit_bytes, 0U);
}

}  // namespace
}  // namespace quad::runner
