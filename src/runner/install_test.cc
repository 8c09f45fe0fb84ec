// `quad-runner install`, by the real program, as the first container of a pod runs it.

#include "runner/install.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "runner/fake_server.h"
#include "runner/start.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStart =
    R"({"server": "https://quad:8470", "ca": "/quad/rank/ca.pem", "job": 17, "epoch": 2, "rank": 0})";

class Install : public ::testing::Test {
 protected:
  Install() : root_(fs::temp_directory_path() / ("quad-install-" + random_hex(6))) {
    fs::create_directories(root_ / "quad");
    fs::create_directories(from());
    fs::permissions(root_, fs::perms::all);
    fs::permissions(folder(), fs::perms::all);  // as the kubelet makes an emptyDir
    std::ofstream(from() / "start.json") << kStart;
    std::ofstream(from() / "ca.pem") << "PEM";
  }
  ~Install() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }

  [[nodiscard]] fs::path folder() const { return root_ / "quad"; }
  [[nodiscard]] fs::path from() const { return root_ / "start"; }

  struct Ended {
    int code = -1;
    std::string words;  ///< on stderr
  };

  /// Runs a program with a umask that hides everything; `user` 0 is whoever runs the test.
  static Ended run(const fs::path& program, std::vector<std::string> arguments, uid_t user = 0) {
    int ends[2];
    QUAD_CHECK(::pipe2(ends, O_CLOEXEC) == 0, "no pipe");
    // Opened here: the user may not be able to walk to it.
    const UniqueFd file(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
    const pid_t child = ::fork();
    if (child == 0) {
      ::umask(0077);
      if (user != 0 &&
          (::setgroups(0, nullptr) != 0 || ::setgid(user) != 0 || ::setuid(user) != 0)) {
        ::_exit(99);
      }
      ::dup2(ends[1], 2);
      std::vector<char*> words{const_cast<char*>("quad-runner")};
      for (std::string& argument : arguments) {
        words.push_back(argument.data());
      }
      words.push_back(nullptr);
      std::array<char*, 1> environment{nullptr};
      ::fexecve(file.get(), words.data(), environment.data());
      ::_exit(98);
    }
    ::close(ends[1]);
    Ended ended;
    const UniqueFd out(ends[0]);
    char buffer[4096];
    for (ssize_t got = 0; (got = ::read(out.get(), buffer, sizeof buffer)) > 0;) {
      ended.words.append(buffer, static_cast<std::size_t>(got));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return ended;
  }

  [[nodiscard]] Ended install(uid_t user = 0) const {
    return run(runner_program(), {"install", folder().string(), from().string()}, user);
  }

  static unsigned mode(const fs::path& path) {
    struct stat facts {};
    return ::stat(path.c_str(), &facts) == 0 ? facts.st_mode & 07777U : 0;
  }

  fs::path root_;
};

TEST_F(Install, BringsARunnerAndItsStartFilesForEverybodyWhateverTheUmask) {
  const Ended ended = install();
  ASSERT_EQ(ended.code, 0) << ended.words;
  EXPECT_EQ(ended.words, "");
  constexpr std::uint64_t kMost = 1U << 30U;  // with sanitizers it is large
  EXPECT_EQ(read_file(folder() / "quad-runner", kMost).value(),
            read_file(runner_program(), kMost).value());
  EXPECT_EQ(read_file(folder() / "rank" / "ca.pem").value(), "PEM");
  EXPECT_EQ(read_start(folder() / "rank")->key.job.value(), 17);
  EXPECT_EQ(mode(folder() / "quad-runner"), 0755U);
  EXPECT_EQ(mode(folder() / "rank"), 0777U);
  EXPECT_EQ(mode(folder() / "rank" / "start.json"), 0644U);
  EXPECT_EQ(mode(folder() / "rank" / "ca.pem"), 0644U);
  // And nothing else is left there.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder()), {}), 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder() / "rank"), {}), 2);
}

TEST_F(Install, TwiceIsOnceAlsoWhileTheRunnerRuns) {
  ASSERT_EQ(install().code, 0);
  // A program that runs cannot be written to, only replaced.
  const UniqueFd running(::open((folder() / "quad-runner").c_str(), O_RDONLY | O_CLOEXEC));
  std::ofstream(from() / "ca.pem") << "PEM 2";
  const Ended again =
      run(folder() / "quad-runner", {"install", folder().string(), from().string()});
  ASSERT_EQ(again.code, 0) << again.words;
  EXPECT_EQ(read_file(folder() / "rank" / "ca.pem").value(), "PEM 2");
  EXPECT_EQ(mode(folder() / "rank"), 0777U);
}

TEST_F(Install, WorksForAUserWithoutANameAndForAnotherOneAfterIt) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can become somebody else";
  }
  // As a Secret is mounted: links to files that belong to root, in a folder that nobody may write.
  fs::create_directories(from() / "..data");
  for (const char* name : {"start.json", "ca.pem"}) {
    fs::rename(from() / name, from() / "..data" / name);
    fs::create_symlink(fs::path("..data") / name, from() / name);
    fs::permissions(from() / "..data" / name, fs::perms(0444));
  }
  fs::permissions(from(), fs::perms(0555));
  const Ended ended = install(kUnknownUser);
  ASSERT_EQ(ended.code, 0) << ended.words;
  struct stat facts {};
  ASSERT_EQ(::stat((folder() / "rank" / "start.json").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_uid, kUnknownUser);
  EXPECT_TRUE(S_ISREG(facts.st_mode));
  EXPECT_EQ(mode(folder() / "rank"), 0777U);
  // Whoever the rank's user is, it can run the runner and work in the folder.
  const Ended other = run(folder() / "quad-runner", {"--version"}, kUnknownUser + 1);
  EXPECT_EQ(other.code, 0) << other.words;
  const Ended another =
      install(kUnknownUser + 1);  // a pod_config may give the rank's container one
  EXPECT_EQ(another.code, 0) << another.words;
}

TEST_F(Install, SaysWhatIsMissing) {
  fs::remove(from() / "ca.pem");  // needed only where the server's certificate needs it
  EXPECT_EQ(install().code, 0);
  fs::remove(from() / "start.json");
  const Ended ended = install();
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.words, "quad-runner: Cannot read " + (from() / "start.json").string() +
                             ": No such file or directory\n");
  const Ended nowhere = run(runner_program(), {"install", "/proc/nowhere", from().string()});
  EXPECT_EQ(nowhere.code, 2);
  EXPECT_NE(nowhere.words.find("/proc/nowhere"), std::string::npos) << nowhere.words;
  const Ended bare = run(runner_program(), {"install"});
  EXPECT_EQ(bare.code, 2);
  EXPECT_NE(bare.words.find("install FOLDER [FROM [TIER JOB HOME [UID:GID]]]"), std::string::npos)
      << bare.words;
  const Ended two = run(runner_program(), {"installed", "/quad", "/start"});
  EXPECT_EQ(two.words, "quad-runner: write `quad-runner installed FOLDER`\n");
}

TEST_F(Install, KeepsThePodForAsLongAsTheRankLives) {
  std::atomic<bool> ended{false};
  Ended kept;
  std::thread keeper([&] {
    kept = run(runner_program(), {"keep", folder().string(), from().string()});
    ended = true;
  });
  EXPECT_EQ(run(runner_program(), {"installed", folder().string()}).code, 0);
  EXPECT_EQ(mode(folder() / "quad-runner"), 0755U);
  EXPECT_EQ(mode(folder() / "rank" / "alive"), 0666U);
  {
    const UniqueFd rank = tell_alive(folder() / "rank");
    ASSERT_TRUE(rank) << "nobody listens";
    // What a task writes there does not end it, nor does a second one that comes and goes.
    EXPECT_TRUE(write_all(rank.get(), "noise").ok());
    (void)tell_alive(folder() / "rank");
    EXPECT_FALSE(ended);
  }
  keeper.join();
  EXPECT_EQ(kept.code, 0) << kept.words;
  EXPECT_FALSE(tell_alive(folder() / "rank")) << "without a keeper there is nobody to tell";
}

TEST_F(Install, AKeeperEndsAtASignalAsTheFirstOfAContainer) {
  // The first process of a PID namespace gets no signal that it has not asked for.
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can make a PID namespace";
  }
  const Ended kept =
      run("/bin/sh", {"-c",
                      R"(/usr/bin/unshare --pid --fork "$0" keep "$1" "$2" &
                     "$0" installed "$1" && kill -TERM $(/bin/cat /proc/$!/task/$!/children)
                     wait $!)",
                      runner_program().string(), folder().string(), from().string()});
  EXPECT_EQ(kept.code, 0) << kept.words;
}

TEST_F(Install, SaysWhatItCannotKeep) {
  fs::remove(from() / "start.json");
  const Ended ended = run(runner_program(), {"keep", folder().string(), from().string()});
  EXPECT_EQ(ended.code, 2);
  EXPECT_NE(ended.words.find("start.json"), std::string::npos) << ended.words;
  EXPECT_EQ(wait_until_installed(folder(), Millis{1}).error().code, ErrorCode::kTimeout);
}

}  // namespace
}  // namespace quad::runner::testing
