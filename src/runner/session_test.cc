// The real quad-runner against a server that the test plays: the order of work, and what user code
// sees of it.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "runner/fake_server.h"
#include "runner/session_fixture.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

TEST_F(Ranks, AnExclamationMarkInAScriptIsText) {
  FakeServer server(socket());
  constexpr std::string_view kScript =
      "set -e; TOKEN=\"s3cr!et\"; echo \"token has ${#TOKEN} characters\"; echo \"!!! done\"";
  fs::create_directories(folder() / "home");
  std::ofstream(folder() / "home/.bashrc") << "set -o history -o histexpand\n";
  server.order = order(kScript, kScript);
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "token has 7 characters\n!!! done\ntoken has 7 characters\n!!! done\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 0);
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

}  // namespace
}  // namespace quad::runner::testing
