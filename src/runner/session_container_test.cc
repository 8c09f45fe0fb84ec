// The real quad-runner as the first process of a container, of an image that knows nothing of it:
// under a user that has no name, with a file system that cannot be written to, and with whatever
// shell there is.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/file.h"
#include "runner/fake_server.h"
#include "runner/process_table.h"
#include "runner/rank_result.h"
#include "runner/session_fixture.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kNeedsLibraries = true;
#else
constexpr bool kNeedsLibraries = false;  // it is linked statically
#endif

class InAContainer : public Ranks {
 protected:
  void SetUp() override {
    if (::geteuid() != 0 || !can_make_containers()) {
      GTEST_SKIP()
          << "a container cannot be made here: not root, or in a chroot or container itself";
    }
    for (const char* folder : {"proc", "dev", "quad/rank"}) {
      fs::create_directories(root_ / folder);
    }
    std::ofstream(root_ / "dev" / "null").flush();
    std::ofstream(root_ / "quad" / "message").flush();
    fs::permissions(root_ / "quad" / "message", fs::perms(0666));
    fs::permissions(root_ / "quad", fs::perms::all);
    fs::permissions(root_ / "quad" / "rank", fs::perms::all);
  }

  /// Debian's programs and libraries, and nothing else of it: no /etc, no /tmp.
  void give_debian() const {
    fs::create_directories(root_ / "usr");
    for (const char* folder : {"bin", "lib", "lib64"}) {
      fs::create_symlink(fs::path("usr") / folder, root_ / folder);
    }
  }

  /// As in Alpine: busybox and its sh, no bash. False where there is no busybox to take.
  bool give_busybox() const {
    const fs::path busybox = "/usr/bin/busybox";
    if (!fs::exists(busybox)) {
      return false;
    }
    fs::create_directories(root_ / "bin");
    fs::copy_file(busybox, root_ / "bin" / "busybox");
    for (const char* name : {"sh", "sleep", "cat", "id"}) {
      fs::create_symlink("busybox", root_ / "bin" / name);
    }
    return true;
  }

  [[nodiscard]] fs::path place() const { return root_ / "quad" / "rank"; }

  [[nodiscard]] RunnerProcess::Options options() const {
    RunnerProcess::Options result;
    result.image = root_;
    result.namespaces = false;
    result.server = "unix:/quad/quad.sock";
    result.termination_message = "/quad/message";
    return result;
  }

  [[nodiscard]] std::string message() const {
    return read_file(root_ / "quad" / "message").value_or("(none)");
  }
};

/// In which there is nothing that the task's image does not bring.
class InABareImage : public InAContainer {
 protected:
  void SetUp() override {
    if (kNeedsLibraries) {
      GTEST_SKIP() << "a runner with sanitizers needs their libraries, which such an image lacks";
    }
    InAContainer::SetUp();
  }
};

TEST_F(InAContainer, AnyUserRunsABashScriptWhereNothingButTheRunnersFolderCanBeWrittenTo) {
  give_debian();
  FakeServer server(root_ / "quad" / "quad.sock");
  server.order = order(
      "id -u; pwd; echo $HOME $SHELL\n[[ $$ != 1 ]] && echo bash\ntouch /x 2>/dev/null || echo ro\n"
      "touch $TMPDIR/x && echo tmp\ncat > file <<< here && cat file; exit 4",
      "echo setting up as $(id -u)");
  RunnerProcess runner(place(), "", options());
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  ASSERT_TRUE(server.exited());
  EXPECT_EQ(runner.wait(), 0);
  EXPECT_EQ(server.output,
            "setting up as 12345\n12345\n/quad/rank/home/sky_workdir\n/quad/rank/home /bin/bash\n"
            "bash\nro\ntmp\nhere\n");
  const json::object& exited = *server.find("exited");
  EXPECT_EQ(get_int(exited, "code"), 4);
  const auto left = parse_json_object(message());
  ASSERT_TRUE(left.ok()) << message();
  EXPECT_EQ(result_from(*left).code, 4);
  EXPECT_EQ(server.find("note"), nullptr);
}

TEST_F(InABareImage, ShRunsTheScriptsWhereThereIsNoBashAndTheStorySaysSo) {
  if (!give_busybox()) {
    GTEST_SKIP() << "there is no busybox; `./dev setup` installs it";
  }
  FakeServer server(root_ / "quad" / "quad.sock");
  server.order = order("id -u; echo $SHELL $SECRET >&2; cd /; pwd; exit 4", "echo setting up");
  RunnerProcess runner(place(), "", options());
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  ASSERT_TRUE(server.exited());
  EXPECT_EQ(server.output, "setting up\n12345\n/bin/sh s3cr3t-" + marker_ + "\n/\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 4);
  const auto notes =
      std::count_if(server.messages.begin(), server.messages.end(),
                    [](const json::object& one) { return get_string(one, "type") == "note"; });
  EXPECT_EQ(notes, 1);
  EXPECT_NE(get_string(*server.find("note"), "message").find("has no bash"), std::string::npos);
}

TEST_F(InABareImage, AnImageWithoutAnyShellIsTheTasksFault) {
  for (const char* setup : {"", "echo setting up"}) {
    fs::remove_all(place());
    FakeServer server(root_ / "quad" / "quad.sock");
    server.order = order("echo hello", setup);
    fs::create_directories(place());
    fs::permissions(place(), fs::perms::all);
    RunnerProcess runner(place(), "", options());
    ASSERT_TRUE(server.until([&] { return runner.ended(); }));
    ASSERT_TRUE(server.exited());
    EXPECT_EQ(server.output, "");
    const json::object& exited = *server.find("exited");
    EXPECT_EQ(get_string(exited, "how"), "never_ran");
    EXPECT_TRUE(get_bool(exited, "in_setup"));
    EXPECT_EQ(get_string(exited, "detail"),
              "the image has no shell, neither bash nor sh, to run a task with; use an image that "
              "has one");
  }
}

// Which process 1 does not, unless it has said that it wants to be asked.
TEST_F(InAContainer, ATermSignalIsAStopWithTheOrdersGrace) {
  give_debian();
  FakeServer server(root_ / "quad" / "quad.sock");
  server.order = order(
      "trap 'echo saving; sleep 0.3; echo saved; exit 0' TERM; echo up\nwhile :; do sleep 0.05; "
      "done");
  RunnerProcess runner(place(), "", options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  runner.signal(SIGTERM);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  ASSERT_TRUE(server.exited());
  EXPECT_EQ(runner.wait(), 143);
  EXPECT_EQ(server.output, "up\nsaving\nsaved\n");
  EXPECT_TRUE(get_bool(*server.find("exited"), "by_quad"));
  EXPECT_TRUE(get_bool(*parse_json_object(message()), "by_quad"));
}

TEST_F(InAContainer, ATermSignalBeforeThereIsAnOrderEndsTheRunnerWithAResult) {
  give_debian();
  FakeServer server(root_ / "quad" / "quad.sock");
  RunnerProcess runner(place(), "", options());
  ASSERT_TRUE(server.until([&] { return !server.hellos.empty(); }));
  runner.signal(SIGTERM);
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  ASSERT_TRUE(server.exited());
  EXPECT_EQ(get_string(*parse_json_object(message()), "how"), "never_ran");
}

// `kubectl exec` brings processes into the container that do not descend from the rank.
TEST_F(InAContainer, OrphansThatCameFromOutsideAreReaped) {
  give_debian();
  FakeServer server(root_ / "quad" / "quad.sock");
  server.order = order("echo up; while :; do sleep 0.05; done");
  RunnerProcess runner(place(), "", options());
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  int until_closed[2];
  ASSERT_EQ(::pipe2(until_closed, O_CLOEXEC), 0);
  const UniqueFd container(
      ::open(fmt::format("/proc/{}/ns/pid", runner.pid()).c_str(), O_RDONLY | O_CLOEXEC));
  const auto children = [&] {
    const auto all = all_processes();
    return std::count_if(all.begin(), all.end(), [&](const ProcessFacts& process) {
      return process.parent == runner.pid();
    });
  };
  const auto before = children();
  const pid_t outside = ::fork();
  if (outside == 0) {
    // A child of this one is in the container, and its child is left to process 1.
    if (::setns(container.get(), CLONE_NEWPID) != 0) {
      ::_exit(1);
    }
    const pid_t inside = ::fork();
    if (inside == 0) {
      if (::fork() == 0) {
        ::close(until_closed[1]);
        char nothing = 0;
        (void)!::read(until_closed[0], &nothing, 1);
      }
      ::_exit(0);
    }
    ::waitpid(inside, nullptr, 0);
    ::_exit(0);
  }
  ::waitpid(outside, nullptr, 0);
  EXPECT_TRUE(server.until([&] { return children() == before + 1; }));
  ::close(until_closed[1]);
  EXPECT_TRUE(server.until([&] { return children() == before; }));
  ::close(until_closed[0]);
  EXPECT_FALSE(runner.ended());
}

}  // namespace
}  // namespace quad::runner::testing
