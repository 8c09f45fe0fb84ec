#include "engine/local/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/text.h"

namespace quad::engine {
namespace {

// Reads at most `limit` bytes of a file under /proc, and a piece more. Returns 0 or an errno.
int read_proc(const char* path, std::size_t limit, std::string& out) {
  out.clear();
  const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return errno;
  }
  constexpr std::size_t kPiece = 8192;
  while (out.size() < limit) {
    const std::size_t at = out.size();
    out.resize(at + kPiece);
    const ssize_t got = ::read(fd.get(), out.data() + at, kPiece);
    const int failure = got < 0 ? errno : 0;
    out.resize(at + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (failure == EINTR) {
      continue;
    }
    if (got <= 0) {
      return failure;
    }
  }
  return 0;
}

// The process has ended, or /proc keeps it from this user: then it is nobody of ours.
bool is_absence(int failure) {
  return failure == ENOENT || failure == ESRCH || failure == EACCES || failure == EPERM;
}

Result<std::optional<Process>> find_process(pid_t pid, std::string& buffer) {
  std::array<char, 48> path{};
  fmt::format_to_n(path.data(), path.size() - 1, "/proc/{}/stat", pid);
  if (const int failure = read_proc(path.data(), 4096, buffer); failure != 0) {
    if (is_absence(failure)) {
      return std::optional<Process>();
    }
    return errno_error(fmt::format("Cannot read {}", path.data()), failure);
  }
  auto process = parse_stat(buffer);
  if (!process) {
    return error(ErrorCode::kIo, fmt::format("{} is not understood", path.data()));
  }
  return process;
}

// The environment as it was when the process began its program; empty for other users' and for
// dying ones.
Status read_environment(pid_t pid, std::string& buffer) {
  constexpr std::size_t kLongest = 1U << 20U;
  std::array<char, 48> path{};
  fmt::format_to_n(path.data(), path.size() - 1, "/proc/{}/environ", pid);
  const int failure = read_proc(path.data(), kLongest, buffer);
  if (failure != 0 && !is_absence(failure)) {
    return errno_error(fmt::format("Cannot read {}", path.data()), failure);
  }
  return {};
}

std::string_view value_in(std::string_view environment, std::string_view name) {
  for (std::size_t at = environment.find(name); at != std::string_view::npos;
       at = environment.find(name, at + 1)) {
    if (at == 0 || environment[at - 1] == '\0') {
      const std::string_view value = environment.substr(at + name.size());
      return value.substr(0, value.find('\0'));
    }
  }
  return {};
}

// The rank that a process is of; empty if it is of none. A task on a cluster is its holder's, whose
// folder holds its own.
std::string_view rank_key_in(std::string_view environment) {
  const std::string_view holder = value_in(environment, "QUAD_HOLDER_KEY=");
  return holder.empty() ? value_in(environment, "QUAD_RANK_KEY=") : holder;
}

}  // namespace

std::optional<Process> parse_stat(std::string_view text) {
  // The second field is the program's name in brackets, and may itself hold spaces and brackets:
  // the last one counts.
  const std::size_t open = text.find(" (");
  const std::size_t close = text.rfind(") ");
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    return std::nullopt;
  }
  const auto pid = parse_number<pid_t>(text.substr(0, open));
  if (!pid || *pid <= 0) {
    return std::nullopt;
  }
  constexpr std::size_t kState = 0;
  constexpr std::size_t kParent = 1;
  constexpr std::size_t kFlags = 6;
  constexpr std::size_t kThreads = 17;
  constexpr std::size_t kStartTime = 19;
  constexpr std::uint64_t kKernelThread = 0x00200000;
  const auto fields = split(trim(text.substr(close + 2)), ' ');
  if (fields.size() <= kStartTime || fields[kState].size() != 1) {
    return std::nullopt;
  }
  const auto parent = parse_number<pid_t>(fields[kParent]);
  const auto flags = parse_number<std::uint64_t>(fields[kFlags]);
  const auto threads = parse_number(fields[kThreads]);
  const auto start_time = parse_number<std::uint64_t>(fields[kStartTime]);
  if (!parent || !flags || !threads || !start_time) {
    return std::nullopt;
  }
  Process process;
  process.pid = *pid;
  process.parent = *parent;
  process.threads = *threads;
  process.start_time = *start_time;
  process.state = fields[kState].front();
  process.kernel = (*flags & kKernelThread) != 0;
  return process;
}

Result<std::optional<Process>> find_process(pid_t pid) {
  std::string buffer;
  return find_process(pid, buffer);
}

Result<std::vector<Process>> all_processes() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc"), ::closedir);
  if (!folder) {
    return errno_error("Cannot list the processes in /proc", errno);
  }
  std::vector<Process> processes;
  std::string buffer;
  bool complete = false;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(folder.get());
    if (entry == nullptr) {
      if (errno != 0) {
        return errno_error("Cannot list the processes in /proc", errno);
      }
      break;
    }
    const auto pid = parse_number<pid_t>(entry->d_name);
    if (!pid) {
      continue;
    }
    QUAD_ASSIGN(const auto process, find_process(*pid, buffer));
    if (process && !process->dead()) {
      processes.push_back(*process);
      complete = complete || pid == ::getpid();
    }
  }
  if (!complete) {
    return error(ErrorCode::kUnavailable,
                 "/proc does not show the processes of this machine; mount it");
  }
  return processes;
}

Result<UniqueFd> open_process(const Process& process) {
  if (process.pid <= 0) {
    return UniqueFd();
  }
  UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  if (!handle) {
    // The last two say that the number is a thread's by now, depending on the kernel.
    if (errno == ESRCH || errno == EINVAL || errno == ENOENT) {
      return UniqueFd();
    }
    return errno_error(fmt::format("Cannot watch process {}", process.pid), errno);
  }
  // Looked at after the handle was taken: if it is still the same process now, the handle is on it.
  QUAD_ASSIGN(const auto now, find_process(process.pid));
  if (now) {
    return now->same(process) && !now->dead() ? std::move(handle) : UniqueFd();
  }
  const bool ended_or_others = ::syscall(SYS_pidfd_send_signal, handle.get(), 0, nullptr, 0) != 0 &&
                               (errno == ESRCH || errno == EPERM);
  if (ended_or_others) {
    return UniqueFd();
  }
  return error(ErrorCode::kUnavailable,
               fmt::format("/proc does not show process {}, which is there", process.pid));
}

Result<bool> send_signal(const Process& process, int signal) {
  QUAD_ASSIGN(const UniqueFd handle, open_process(process));
  return handle && ::syscall(SYS_pidfd_send_signal, handle.get(), signal, nullptr, 0) == 0;
}

Result<std::vector<std::vector<Process>>> find_members(const std::vector<Family>& families,
                                                       const std::vector<Process>& others) {
  std::vector<std::vector<Process>> members(families.size());
  if (families.empty()) {
    return members;
  }
  constexpr std::size_t kNotLookedAt = static_cast<std::size_t>(-1);
  constexpr std::size_t kNobody = static_cast<std::size_t>(-2);
  QUAD_ASSIGN(const std::vector<Process> processes, all_processes());
  std::unordered_map<pid_t, std::size_t> by_pid;
  std::unordered_multimap<pid_t, std::size_t> children;
  by_pid.reserve(processes.size());
  children.reserve(processes.size());
  for (std::size_t i = 0; i < processes.size(); ++i) {
    by_pid.emplace(processes[i].pid, i);
    children.emplace(processes[i].parent, i);
  }
  std::vector<std::size_t> owner(processes.size(), kNotLookedAt);
  const auto claim = [&](std::size_t first, std::size_t family) {
    std::vector<std::size_t> waiting = {first};
    while (!waiting.empty()) {
      const std::size_t i = waiting.back();
      waiting.pop_back();
      if (owner[i] != kNotLookedAt) {
        continue;
      }
      owner[i] = family;
      if (family != kNobody) {
        members[family].push_back(processes[i]);
      }
      const auto [begin, end] = children.equal_range(processes[i].pid);
      for (auto it = begin; it != end; ++it) {
        waiting.push_back(it->second);
      }
    }
  };
  const auto claim_below = [&](const std::vector<Process>& roots, std::size_t family) {
    for (const Process& root : roots) {
      if (const auto it = by_pid.find(root.pid);
          it != by_pid.end() && processes[it->second].same(root)) {
        claim(it->second, family);
      }
    }
  };
  std::unordered_multimap<std::string_view, std::size_t> by_key;
  for (std::size_t family = 0; family < families.size(); ++family) {
    by_key.emplace(families[family].key, family);
    claim_below(families[family].roots, family);
  }
  claim_below(others, kNobody);
  const pid_t self = ::getpid();
  std::string environment;
  for (std::size_t i = 0; i < processes.size(); ++i) {
    if (owner[i] != kNotLookedAt || processes[i].kernel || processes[i].pid == self) {
      continue;
    }
    QUAD_TRY(read_environment(processes[i].pid, environment));
    const auto [begin, end] = by_key.equal_range(rank_key_in(environment));
    for (auto it = begin; it != end; ++it) {
      // Another server's rank may have the same key, but not the same folder.
      if (environment.find(families[it->second].folder + '/') != std::string::npos) {
        claim(i, it->second);
        break;
      }
    }
  }
  return members;
}

bool stop_members(const std::vector<Family>& families, Millis limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  for (int round = 0;; ++round) {
    const auto found = find_members(families);
    bool still = found.ok();
    if (found.ok()) {
      for (const std::vector<Process>& members : *found) {
        for (const Process& process : members) {
          if (!process.stopped()) {
            still = false;
            (void)send_signal(process, SIGSTOP);  // the next round sees whether it stands still
          }
        }
      }
    }
    if (still || std::chrono::steady_clock::now() >= end) {
      return still;
    }
    // A signal takes effect when its process next runs: some time has to pass, and nothing tells
    // when it has.
    std::this_thread::sleep_for(std::chrono::milliseconds(round < 10 ? 1 : 5));
  }
}

Result<std::vector<std::vector<Process>>> signal_members(const std::vector<Family>& families,
                                                         int signal,
                                                         const std::vector<Process>& others) {
  QUAD_ASSIGN(std::vector<std::vector<Process>> all, find_members(families, others));
  Status all_sent;
  for (const std::vector<Process>& members : all) {
    for (const Process& process : members) {
      if (const auto sent = send_signal(process, signal); !sent.ok()) {
        all_sent = sent.error();
      }
    }
  }
  QUAD_TRY(all_sent);
  return all;
}

}  // namespace quad::engine
