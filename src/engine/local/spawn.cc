#include "engine/local/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>

#include "engine/local/rank_folder.h"

// The child of a vfork runs in this process's memory on a stack of its own, which sanitizers do not
// know. It makes bare system calls: what stands before the C library's functions in a build with a
// sanitizer would take notes, in the parent's memory, of files and signals that are the child's.
#define QUAD_IN_VFORK_CHILD __attribute__((noinline, no_sanitize("address", "thread", "undefined")))

// clone() under its other name: what stands before it in a build with TSan forgets the parent's
// other threads, believing that the memory is the child's own.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument,
                       ...) noexcept;

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

// Everything that the child needs, made before it exists: it may not allocate.
struct Plan {
  const char* program = nullptr;
  const char* folder = nullptr;
  char* const* arguments = nullptr;
  char* const* environment = nullptr;
  int null = -1;
  int log = -1;
  int record = -1;
  rlim_t open_files = 0;
  volatile int failure = 0;  // errno of what went wrong in the child, seen by the parent
};

// As the kernel takes it, which is not as the C library does.
struct KernelSigaction {
  void (*handler)(int) = SIG_DFL;
  unsigned long flags = 0;
  void (*restorer)() = nullptr;
  std::uint64_t mask = 0;
};

// Adds this process's stat line to the record.
QUAD_IN_VFORK_CHILD bool record_itself(int record) {
  char line[1024];
  const long stat = ::syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0);
  if (stat < 0) {
    return false;
  }
  const long size = ::syscall(SYS_read, stat, line, sizeof line);
  ::syscall(SYS_close, stat);
  if (size <= 0) {
    return false;
  }
  const long put = ::syscall(SYS_write, record, line, size);
  if (put >= 0 && put != size) {
    errno = ENOSPC;
  }
  return put == size;
}

QUAD_IN_VFORK_CHILD int become_runner(void* argument) {
  Plan& plan = *static_cast<Plan*>(argument);
  const auto ready = [&plan]() QUAD_IN_VFORK_CHILD {
    constexpr int kRecord = 3;
    if (::syscall(SYS_setsid) < 0 || ::syscall(SYS_chdir, plan.folder) != 0 ||
        ::syscall(SYS_dup3, plan.null, 0, 0) < 0 || ::syscall(SYS_dup3, plan.log, 1, 0) < 0 ||
        ::syscall(SYS_dup3, plan.log, 2, 0) < 0) {
      return false;
    }
    // All other files go at once: among them is the lock on the data directory, which a server that
    // is killed now would otherwise leave to this process for as long as a busy disk holds up the
    // line below.
    if (plan.record != kRecord && ::syscall(SYS_dup3, plan.record, kRecord, O_CLOEXEC) < 0) {
      return false;
    }
    ::syscall(SYS_close_range, kRecord + 1U, ~0U, 0U);
    const KernelSigaction usual;
    for (int signal = 1; signal < NSIG; ++signal) {
      ::syscall(SYS_rt_sigaction, signal, &usual, nullptr, sizeof usual.mask);  // not of SIGKILL
    }
    if (plan.open_files > 0) {
      rlimit files{};
      if (::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &files) == 0) {
        files.rlim_cur = plan.open_files;
        ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &files, nullptr);
      }
    }
    // The line is written before anything of the runner has happened; the lock goes when the files
    // are closed, by close_range here or, on older kernels, by exec.
    if (!record_itself(kRecord)) {
      return false;
    }
    ::syscall(SYS_close_range, 3U, ~0U, 0U);
    const std::uint64_t none = 0;
    return ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none) == 0;
  };
  if (ready()) {
    ::syscall(SYS_execve, plan.program, plan.arguments, plan.environment);
  }
  plan.failure = errno;
  ::syscall(SYS_exit_group, 127);
  return 127;
}

// A file that is none of the standard ones, even if this process was started without those.
UniqueFd open_above_standard(const char* path, int flags, mode_t mode = 0) {
  UniqueFd fd(::open(path, flags | O_CLOEXEC, mode));
  if (fd && fd.get() <= STDERR_FILENO) {
    return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  }
  return fd;
}

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const std::string& text : texts) {
    pointers.push_back(const_cast<char*>(text.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Result<SpawnedRunner> spawn_runner(const fs::path& program, const fs::path& folder,
                                   const std::vector<std::string>& environment,
                                   const std::string& boot_id, std::uint64_t open_files) {
  const std::string log_path = (folder / "runner.log").string();
  const UniqueFd null = open_above_standard("/dev/null", O_RDONLY);
  const UniqueFd log =
      open_above_standard(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600);
  if (!null || !log) {
    return errno_error(fmt::format("Cannot open {}", !null ? "/dev/null" : log_path), errno);
  }
  QUAD_ASSIGN(UniqueFd record, create_start_record(folder, boot_id));
  if (record.get() <= STDERR_FILENO) {
    record.reset(::fcntl(record.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  }

  const std::vector<std::string> words = {program.string(), folder.string()};
  const std::vector<char*> arguments = pointers_to(words);
  const std::vector<char*> variables = pointers_to(environment);
  Plan plan;
  plan.program = words[0].c_str();
  plan.folder = words[1].c_str();
  plan.arguments = arguments.data();
  plan.environment = variables.data();
  plan.null = null.get();
  plan.log = log.get();
  plan.record = record.get();
  plan.open_files = open_files;

  constexpr std::size_t kStack = 64UL << 10U;
  const auto stack =
      std::make_unique_for_overwrite<std::max_align_t[]>(kStack / sizeof(std::max_align_t));
  // No handler of this process may run in the child, where it would act on this process's memory.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  int handle_number = -1;
  const pid_t pid =
      ::__clone(become_runner, stack.get() + kStack / sizeof(std::max_align_t),
                CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &handle_number);
  const int clone_failure = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  UniqueFd handle(handle_number);
  // From the file at hand: to open it again may not be possible any more.
  const Result<StartRecord> started =
      pid >= 0 && plan.failure == 0
          ? read_start_record(record, boot_id)
          : Result<StartRecord>(errno_error(fmt::format("Cannot start {}", program.string()),
                                            pid < 0 ? clone_failure : plan.failure));
  if (started.ok() && started->process.pid == pid) {
    return SpawnedRunner{started->process, std::move(handle)};
  }
  if (pid >= 0) {
    // Without knowing when it was started it could not be told from others: it must not run.
    ::syscall(SYS_pidfd_send_signal, handle.get(), SIGKILL, nullptr, 0);
    siginfo_t info{};
    while (::waitid(P_PIDFD, static_cast<id_t>(handle.get()), &info, WEXITED) != 0 &&
           errno == EINTR) {
    }
  }
  (void)!::ftruncate(record.get(), 0);
  return started.ok() ? error(ErrorCode::kIo,
                              fmt::format("The record of {}'s start is lost", program.string()))
                      : started.error();
}

Result<std::string> output_of(const std::vector<std::string>& command, Millis limit) {
  QUAD_ASSIGN(Pipe pipe, make_pipe());
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, pipe.write.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const std::vector<char*> arguments = pointers_to(command);
  pid_t pid = 0;
  const int failure =
      ::posix_spawnp(&pid, arguments.front(), &actions, nullptr, arguments.data(), ::environ);
  ::posix_spawn_file_actions_destroy(&actions);
  pipe.write.reset();
  if (failure != 0) {
    Error refused = errno_error(fmt::format("Cannot start {}", command.front()), failure);
    refused.code = failure == ENOENT ? ErrorCode::kNotFound : refused.code;
    return refused;
  }
  constexpr std::size_t kLongest = 1U << 20U;
  const auto end = std::chrono::steady_clock::now() + limit;
  const auto too_late = [&] {
    // Not waited for: a program that hangs in a broken driver cannot even be killed.
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, WNOHANG);
    return error(ErrorCode::kTimeout,
                 fmt::format("{} did not finish within {} ms", command.front(), limit.count()));
  };
  std::string output;
  std::array<char, 4096> piece{};
  for (;;) {
    const auto left = std::chrono::ceil<Millis>(end - std::chrono::steady_clock::now()).count();
    pollfd wait{pipe.read.get(), POLLIN, 0};
    const int readable = left > 0 ? ::poll(&wait, 1, static_cast<int>(left)) : 0;
    if (readable < 0 && errno == EINTR) {
      continue;
    }
    if (readable <= 0 || output.size() > kLongest) {
      return too_late();
    }
    const ssize_t got = ::read(pipe.read.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      break;
    }
    output.append(piece.data(), static_cast<std::size_t>(got));
  }
  // It may have closed its output and hang all the same.
  const UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const auto left = std::chrono::ceil<Millis>(end - std::chrono::steady_clock::now()).count();
  pollfd ended{handle.get(), POLLIN, 0};
  if (::poll(&ended, 1, static_cast<int>(std::max<std::int64_t>(left, 0))) <= 0) {
    return too_late();
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return error(ErrorCode::kUnavailable, fmt::format("{} failed", command.front()));
  }
  return output;
}

}  // namespace quad::engine
