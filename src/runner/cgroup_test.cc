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
  void group(const fs::path& path, bool v2) const {
    const std::vector<std::string> names =
        v2 ? std::vector<std::string>{"memory.max", "memory.swap.max", "cgroup.procs"}
           : std::vector<std::string>{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
                                      "cgroup.procs"};
    for (const std::string& name : names) {
      file(path / name, "");
    }
  }
  [[nodiscard]] CgroupPlaces places() const { return {root_ / "mount", root_ / "own"}; }

  fs::path root_;
};

TEST_F(Cgroup, OfVersion2IsMadeBesideTheRunnersOwnWhereThatHasTheController) {
  file("own", "0::/user.slice/app.slice/quad.scope\n");
  file("mount/user.slice/app.slice/cgroup.subtree_control", "cpu memory pids\n");
  file("mount/user.slice/app.slice/quad.scope/cgroup.subtree_control", "\n");
  const fs::path made = "mount/user.slice/app.slice/quad-17-2-0";
  group(made, true);
  MemoryGroup memory(places());
  ASSERT_TRUE(memory.create("quad-17-2-0", 1'000'000).ok());
  EXPECT_TRUE(memory.limited());
  EXPECT_EQ(text(made / "memory.max"), "1000000");
  EXPECT_EQ(text(made / "memory.swap.max"), "0");
  ASSERT_TRUE(memory.add(4711).ok());
  EXPECT_EQ(text(made / "cgroup.procs"), "4711");
  file(made / "memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\n");
  file(made / "memory.peak", "999424\n");
  EXPECT_EQ(memory.read().oom_kills, 2U);
  EXPECT_EQ(memory.read().peak_bytes, 999'424U);
}

TEST_F(Cgroup, OfVersion2IsMadeBelowTheRunnersOwnWhereThatIsDelegated) {
  file("own", "0::/delegated\n");
  file("mount/delegated/cgroup.subtree_control", "memory\n");
  group("mount/delegated/quad-1-1-0", true);
  MemoryGroup memory(places());
  ASSERT_TRUE(memory.create("quad-1-1-0", 5).ok());
  EXPECT_EQ(text("mount/delegated/quad-1-1-0/memory.max"), "5");
}

TEST_F(Cgroup, OfVersion1IsMadeBelowTheRunnersOwn) {
  file("own", "5:cpu,cpuacct:/elsewhere\n4:memory:/service/quad\n0::/\n");
  const fs::path made = "mount/memory/service/quad/quad-1-1-0";
  group(made, false);
  MemoryGroup memory(places());
  ASSERT_TRUE(memory.create("quad-1-1-0", 2'000'000).ok());
  EXPECT_EQ(text(made / "memory.limit_in_bytes"), "2000000");
  EXPECT_EQ(text(made / "memory.memsw.limit_in_bytes"), "2000000");
  file(made / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
  file(made / "memory.max_usage_in_bytes", "1998848\n");
  EXPECT_EQ(memory.read().oom_kills, 1U);
  EXPECT_EQ(memory.read().peak_bytes, 1'998'848U);
}

TEST_F(Cgroup, IsRefusedInASentenceWhereNoneCanBeMade) {
  for (const char* own : {"", "0::/\n", "0::/user.slice/session.scope\n", "4:memory:/x\n"}) {
    file("own", own);
    MemoryGroup memory(places());
    const Status made = memory.create("quad-1-1-0", 5);
    ASSERT_FALSE(made.ok()) << own;
    EXPECT_EQ(made.error().code, ErrorCode::kDenied);
    EXPECT_EQ(made.error().message,
              "A memory limit cannot be set here, so none is enforced by Quad.");
    EXPECT_FALSE(memory.limited());
  }
}

TEST_F(Cgroup, OfAContainerTellsOfItsKillsAlthoughNoLimitIsOurs) {
  file("mount/memory.events", "oom_kill 3\n");
  file("mount/memory.max", "68719476736\n");
  const MemoryGroup memory(places());
  EXPECT_EQ(memory.read().oom_kills, 3U);
  EXPECT_EQ(memory.read().limit_bytes, 64ULL << 30U);
  file("mount/memory.max", "max\n");
  EXPECT_EQ(memory.read().limit_bytes, 0U);
}

TEST_F(Cgroup, OfAContainerIsKnownInVersion1Too) {
  file("mount/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
  file("mount/memory/memory.max_usage_in_bytes", "1048576\n");
  file("mount/memory/memory.limit_in_bytes", "1048576\n");
  const MemoryGroup memory(places());
  EXPECT_EQ(memory.read().oom_kills, 2U);
  EXPECT_EQ(memory.read().peak_bytes, 1U << 20U);
  EXPECT_EQ(memory.read().limit_bytes, 1U << 20U);
  file("mount/memory/memory.limit_in_bytes", "9223372036854771712\n");  // as it says "none"
  EXPECT_EQ(memory.read().limit_bytes, 0U);
}

}  // namespace
}  // namespace quad::runner
