#include "engine/local/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

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
  const auto self = find_process(::getpid());
  ASSERT_TRUE(self);
  EXPECT_EQ(self->parent, ::getppid());
  EXPECT_TRUE(open_process(*self));
  EXPECT_FALSE(self->dead());
}

TEST(OpenProcess, RefusesAnotherProcessOfTheSameNumber) {
  Process other = *find_process(::getpid());
  ++other.start_time;
  EXPECT_FALSE(open_process(other));
  EXPECT_FALSE(send_signal(other, 0));
  EXPECT_FALSE(open_process(Process{}));
}

TEST(OpenProcess, TakesAZombieForDead) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(0);
  }
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  const auto zombie = find_process(child);
  ASSERT_TRUE(zombie);
  EXPECT_TRUE(zombie->dead());
  EXPECT_FALSE(open_process(*zombie));
  const auto all = all_processes();
  EXPECT_TRUE(std::none_of(all.begin(), all.end(),
                           [&](const Process& process) { return process.pid == child; }));
  ::waitpid(child, nullptr, 0);
}

TEST(FindMembers, FindsNothingForNobodyAndForTheDead) {
  EXPECT_TRUE(find_members({}).empty());
  Process dead = *find_process(::getpid());
  ++dead.start_time;
  const auto members = find_members({{{dead}, "0-0-0", "/no/such/folder"}});
  ASSERT_EQ(members.size(), 1U);
  EXPECT_TRUE(members[0].empty());
}

}  // namespace
}  // namespace quad::engine
