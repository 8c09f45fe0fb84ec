#include "engine/local/process.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "engine/local/test_bench.h"

namespace quad::engine {
namespace {

TEST(ParseStat, ReadsPastAnyProgramName) {
  const auto process = parse_stat(
      "4242 (evil) R 1 (x) T 17 4242 4242 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 987654 0 0\n");
  ASSERT_TRUE(process);
  EXPECT_EQ(process->pid, 4242);
  EXPECT_EQ(process->parent, 17);
  EXPECT_EQ(process->state, 'T');
  EXPECT_EQ(process->threads, 3);
  EXPECT_EQ(process->start_time, 987654U);
}

TEST(ParseStat, RefusesWhatIsCutOff) {
  for (const char* text : {"", "1", "1 (a", "1 (a) ", "1 (a) R 1 2 3", "x (a) R 1",
                           "0 (a) R 1 2 3 0 -1 4 1 0 0 0 0 0 0 0 20 0 3 0 9 0 0",
                           ") 1 ( R 1 2 3 0 -1 4 1 0 0 0 0 0 0 0 20 0 3 0 9 0 0"}) {
    EXPECT_FALSE(parse_stat(text)) << text;
  }
}

TEST(FindProcess, KnowsThisOne) {
  const auto self = find_process(::getpid()).value();
  ASSERT_TRUE(self);
  EXPECT_EQ(self->parent, ::getppid());
  EXPECT_TRUE(open_process(*self).value());
  EXPECT_FALSE(self->dead());
}

TEST(OpenProcess, RefusesAnotherProcessOfTheSameNumber) {
  Process other = *find_process(::getpid()).value();
  ++other.start_time;
  EXPECT_FALSE(open_process(other).value());
  EXPECT_FALSE(send_signal(other, 0).value());
  EXPECT_FALSE(open_process(Process{}).value());
}

TEST(OpenProcess, TakesAZombieForDead) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(0);
  }
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  const auto zombie = find_process(child).value();
  ASSERT_TRUE(zombie);
  EXPECT_TRUE(zombie->dead());
  EXPECT_FALSE(open_process(*zombie).value());
  const auto all = all_processes().value();
  EXPECT_TRUE(std::none_of(all.begin(), all.end(),
                           [&](const Process& process) { return process.pid == child; }));
  ::waitpid(child, nullptr, 0);
}

TEST(FindMembers, FindsNothingForNobodyAndForTheDead) {
  EXPECT_TRUE(find_members({}).value().empty());
  Process dead = *find_process(::getpid()).value();
  ++dead.start_time;
  const auto members = find_members({{{dead}, "0-0-0", "/no/such/folder"}}).value();
  ASSERT_EQ(members.size(), 1U);
  EXPECT_TRUE(members[0].empty());
}

// What cannot be looked at is not absent.

TEST(ProcessTable, IsAnErrorWithoutFilesToReadItWith) {
  const Process self = *find_process(::getpid()).value();
  const std::vector<Family> family = {{{self}, "0-0-0", "/no/such/folder"}};
  bool refused = false;
  bool seen = false;
  for (int files = 0; files < 4; ++files) {
    const test::FewFiles few(files);
    const auto found = find_process(self.pid);
    const auto all = all_processes();
    const auto known = [](const Result<UniqueFd>& handle) { return !handle.ok() || *handle; };
    EXPECT_TRUE(known(open_process(self))) << files;
    const auto sent = send_signal(self, 0);
    const auto members = find_members(family);
    const bool still = stop_members({{{}, "0-0-0", "/no/such/folder"}}, Millis(0));
    EXPECT_TRUE(!found.ok() || *found) << files;
    EXPECT_TRUE(!all.ok() || !all->empty()) << files;
    EXPECT_TRUE(!sent.ok() || *sent) << files;
    EXPECT_TRUE(!members.ok() || !(*members)[0].empty()) << files;
    EXPECT_EQ(still, all.ok()) << files;
    refused = refused || !members.ok();
    seen = seen || members.ok();
  }
  EXPECT_TRUE(refused);
  EXPECT_TRUE(seen);
}

// Runs `look` in a process with a /proc of its own, mounted with `options`, or none if they are
// null. Returns what `look` did, or nothing if that is not permitted here.
template <typename Look>
std::optional<int> with_proc(const char* options, Look look) {
  constexpr int kNotPermitted = 99;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", "/proc", options == nullptr ? "tmpfs" : "proc", 0, options) != 0) {
      ::_exit(kNotPermitted);
    }
    ::_exit(look());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return code == kNotPermitted ? std::nullopt : std::optional(code);
}

TEST(ProcessTable, IsAnErrorWhereProcIsNotMounted) {
  const Process parent = *find_process(::getpid()).value();
  const auto code = with_proc(nullptr, [&] {
    const bool refused = !all_processes().ok() && !open_process(parent).ok() &&
                         !find_members({{{parent}, "0-0-0", "/no/such/folder"}}).ok() &&
                         !stop_members({{{parent}, "0-0-0", "/no/such/folder"}}, Millis(0));
    return refused ? 0 : 1;
  });
  if (!code) {
    GTEST_SKIP() << "mounting is not permitted";
  }
  EXPECT_EQ(*code, 0);
}

TEST(ProcessTable, TakesWhatProcHidesForOthers) {
  for (const char* options : {"hidepid=1", "hidepid=2"}) {
    const auto code = with_proc(options, [] {
      // The number of this test's process, as if a runner that is gone had had it: it is root's.
      Process runner = *find_process(::getppid()).value();
      constexpr uid_t kNobody = 65534;
      // Nothing is hidden from members of group 0.
      if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
          ::setresuid(kNobody, kNobody, kNobody) != 0) {
        return 2;
      }
      ::prctl(PR_SET_DUMPABLE, 1);
      const auto handle = open_process(runner);
      const auto all = all_processes();
      return handle.ok() && !*handle && all.ok() ? 0 : 1;
    });
    if (!code) {
      GTEST_SKIP() << "mounting is not permitted";
    }
    EXPECT_EQ(*code, 0) << options;
  }
}

}  // namespace
}  // namespace quad::engine
