// On this machine's own control groups, where the tests may make some.

#include "engine/local/control_group.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

// A new group below each of these where that is permitted.
std::vector<fs::path> new_groups() {
  std::vector<fs::path> groups;
  for (const char* top : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"}) {
    const fs::path group = fs::path(top) / fmt::format("quad-1-1-0-test-{}", ::getpid());
    if (::access((fs::path(top) / "cgroup.procs").c_str(), F_OK) == 0 &&
        ::mkdir(group.c_str(), 0755) == 0) {
      groups.push_back(group);
    }
  }
  return groups;
}

TEST(ControlGroup, IsRemovedWithThoseThatAJobMadeBelowIt) {
  const auto groups = new_groups();
  if (groups.empty()) {
    GTEST_SKIP() << "no control group can be made here";
  }
  for (const fs::path& group : groups) {
    fs::create_directories(group / "a/b/c");
    fs::create_directories(group / "a/d");
    EXPECT_TRUE(remove_control_group(group)) << group;
    EXPECT_FALSE(fs::exists(group)) << group;
    EXPECT_TRUE(remove_control_group(group)) << "one that is gone";
  }
}

TEST(ControlGroup, IsEmptiedFirstWhereTheKernelCan) {
  for (const fs::path& group : new_groups()) {
    if (!fs::exists(group / "cgroup.kill")) {
      EXPECT_TRUE(remove_control_group(group));
      continue;
    }
    fs::create_directories(group / "below");
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) {
        ::pause();
      }
    }
    std::ofstream(group / "below/cgroup.procs") << child << std::flush;
    remove_control_group(group);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    for (int i = 0; i < 5000 && !remove_control_group(group); ++i) {
      ::usleep(1000);
    }
    EXPECT_FALSE(fs::exists(group));
  }
}

TEST(ControlGroup, LeavesAFolderAloneThatIsNone) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("quad-group-{}", ::getpid());
  fs::create_directories(folder / "kept");
  EXPECT_TRUE(remove_control_group(folder));
  EXPECT_TRUE(fs::exists(folder / "kept"));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace quad::engine
