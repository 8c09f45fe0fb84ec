// What comes of the server's environment to its jobs, and what does not.

#include "engine/local/environment.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

namespace quad::engine {
namespace {

std::map<std::string, std::string> as_map(const std::vector<std::string>& entries) {
  std::map<std::string, std::string> map;
  for (const std::string& entry : entries) {
    const std::size_t at = entry.find('=');
    EXPECT_TRUE(map.emplace(entry.substr(0, at), entry.substr(at + 1)).second) << entry;
  }
  return map;
}

TEST(EnvironmentOfJobs, HoldsWhatIsListedAndNothingElseOfTheServers) {
  const std::vector<std::string> own = {"ADMIN_API_KEY=sk-of-the-admin",
                                        "AWS_SECRET_ACCESS_KEY=s",
                                        "DATABASE_URL=postgres://u:p@h",
                                        "LD_PRELOAD=/x.so",
                                        "LD_LIBRARY_PATH=/x",
                                        "PYTHONPATH=/gone/lib",
                                        "VIRTUAL_ENV=/gone/venv",
                                        "CONDA_PREFIX=/c/envs/a",
                                        "CONDA_EXE=/c/bin/conda",
                                        "HTTPS_PROXY=http://u:p@proxy",
                                        "BASH_ENV=/evil",
                                        "BASH_FUNC_ls%%=() { evil; }",
                                        "HOME=/root",
                                        "SHELL=/bin/zsh",
                                        "TERM=xterm",
                                        "QUAD_TOKEN=t",
                                        "SKYPILOT_X=1",
                                        "SSH_AUTH_SOCK=/s",
                                        "USER=somebody-else",
                                        "=odd",
                                        "odd",
                                        "PATH=/gone/venv/bin:/usr/bin:/bin",
                                        "LANG=de_CH.UTF-8",
                                        "LC_ALL=C",
                                        "TZ=Asia/Tokyo",
                                        "TMPDIR=/tmp",
                                        "CUDA_VISIBLE_DEVICES=2,3",
                                        "NVIDIA_VISIBLE_DEVICES=all",
                                        "CUDA_LAUNCH_BLOCKING=1",
                                        "CUDA_DEVICE_ORDER=FASTEST_FIRST"};
  const std::string account = ::getpwuid(::geteuid())->pw_name;
  const std::map<std::string, std::string> expected = {{"PATH", "/usr/bin:/bin:/c/condabin"},
                                                       {"LANG", "de_CH.UTF-8"},
                                                       {"LC_ALL", "C"},
                                                       {"TZ", "Asia/Tokyo"},
                                                       {"TMPDIR", "/tmp"},
                                                       {"CUDA_VISIBLE_DEVICES", "2,3"},
                                                       {"NVIDIA_VISIBLE_DEVICES", "all"},
                                                       {"CUDA_DEVICE_ORDER", "PCI_BUS_ID"},
                                                       {"USER", account},
                                                       {"LOGNAME", account}};
  EXPECT_EQ(as_map(environment_of_jobs(own, {})), expected);
}

TEST(EnvironmentOfJobs, HoldsWhatTheConfigurationNamesAsItIs) {
  const std::vector<std::string> own = {"HTTPS_PROXY=http://proxy:3128",
                                        "EMPTY=", "VIRTUAL_ENV=/venv", "PATH=.:/venv/bin:/bin"};
  const std::vector<std::string> named = {"HTTPS_PROXY", "EMPTY", "PATH", "NOT_SET"};
  auto seen = as_map(environment_of_jobs(own, named));
  EXPECT_EQ(seen["HTTPS_PROXY"], "http://proxy:3128");
  EXPECT_TRUE(seen.contains("EMPTY"));
  EXPECT_EQ(seen["PATH"], ".:/venv/bin:/bin");
  EXPECT_FALSE(seen.contains("NOT_SET"));
  EXPECT_FALSE(seen.contains("VIRTUAL_ENV"));
  EXPECT_EQ(missing_variables(own, named), std::vector<std::string>{"NOT_SET"});
}

TEST(EnvironmentOfJobs, TmpdirIsLeftOutWhereNobodyElseCouldWrite) {
  EXPECT_FALSE(as_map(environment_of_jobs({"TMPDIR=/nowhere"}, {})).contains("TMPDIR"));
  EXPECT_FALSE(as_map(environment_of_jobs({"TMPDIR=tmp"}, {})).contains("TMPDIR"));
  EXPECT_FALSE(as_map(environment_of_jobs({"TMPDIR=/etc"}, {})).contains("TMPDIR"));
}

TEST(PathOfJobs, LeavesOutWhatIsActiveInTheServersShell) {
  EXPECT_EQ(path_of_jobs({"PATH=/v/bin:/usr/bin", "VIRTUAL_ENV=/v/"}), "/usr/bin");
  // Conda on conda, as `conda init` has it in every shell; its command stays.
  EXPECT_EQ(path_of_jobs({"CONDA_PREFIX=/c/envs/a", "CONDA_PREFIX_1=/c", "CONDA_EXE=/c/bin/conda",
                          "PATH=/c/envs/a/bin:/c/condabin:/home/me/.local/bin:/usr/bin"}),
            "/c/condabin:/home/me/.local/bin:/usr/bin");
  // An image's own, which no shell has activated.
  EXPECT_EQ(path_of_jobs({"PATH=/opt/conda/bin:/usr/bin"}), "/opt/conda/bin:/usr/bin");
}

TEST(PathOfJobs, HasNoRelativeFoldersAndIsNeverEmpty) {
  EXPECT_EQ(path_of_jobs({"PATH=:.:bin:/usr/bin::../x:/usr/bin"}), "/usr/bin");
  const char* usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  EXPECT_EQ(path_of_jobs({}), usual);
  EXPECT_EQ(path_of_jobs({"PATH=/v/bin", "VIRTUAL_ENV=/v"}), usual);
}

}  // namespace
}  // namespace quad::engine
