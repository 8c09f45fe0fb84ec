#include "engine/local/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <set>

#include "base/text.h"

extern char** environ;

namespace quad::engine {

namespace {

namespace fs = std::filesystem;

std::vector<pid_t> all_processes() {
  std::vector<pid_t> pids;
  std::error_code failure;
  for (fs::directory_iterator it("/proc", failure), end; !failure && it != end; it.increment(failure)) {
    const std::string name = it->path().filename().string();
    pid_t pid = 0;
    const auto [rest, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad == std::errc() && rest == name.data() + name.size()) {
      pids.push_back(pid);
    }
  }
  return pids;
}

/// The parent's number, from the fourth field of stat; the second, the name, may hold anything but ends at the last ')'.
pid_t parent_of(pid_t pid) {
  const auto stat = read_file(fmt::format("/proc/{}/stat", pid), 4096);
  if (!stat.ok()) {
    return 0;
  }
  const std::size_t name_end = stat->rfind(')');
  if (name_end == std::string::npos || name_end + 4 > stat->size()) {
    return 0;
  }
  pid_t parent = 0;
  std::from_chars(stat->data() + name_end + 4, stat->data() + stat->size(), parent);
  return parent;
}

}  // namespace

Result<pid_t> spawn_runner(const fs::path& runner, const fs::path& folder) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  const std::string log = (folder / "runner.log").string();
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes,
                           static_cast<short>(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
  const std::string program = runner.string();
  const std::string argument = folder.string();
  char* const arguments[] = {const_cast<char*>(program.c_str()), const_cast<char*>(argument.c_str()), nullptr};
  pid_t pid = 0;
  const int failure = posix_spawn(&pid, program.c_str(), &actions, &attributes, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (failure != 0) {
    return errno_error(fmt::format("Cannot start {}", program), failure);
  }
  return pid;
}

UniqueFd open_process(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

std::map<std::string, pid_t> find_runners(const std::string& program_name) {
  std::map<std::string, pid_t> found;
  for (const pid_t pid : all_processes()) {
    const auto command = read_file(fmt::format("/proc/{}/cmdline", pid), 64 * 1024);
    if (!command.ok() || command->empty()) {
      continue;
    }
    const auto words = split(*command, '\0');
    if (words.size() < 3 || fs::path(words[0]).filename() != program_name) {
      continue;
    }
    // The runner forks helpers of the same command line: the runner itself is the one whose parent is not such a one.
    const std::string folder(words[1]);
    const auto known = found.find(folder);
    if (known == found.end() || parent_of(known->second) == pid) {
      found[folder] = pid;
    }
  }
  return found;
}

std::vector<pid_t> process_tree(pid_t root) {
  std::multimap<pid_t, pid_t> children;
  for (const pid_t pid : all_processes()) {
    children.emplace(parent_of(pid), pid);
  }
  std::vector<pid_t> tree = {root};
  for (std::size_t i = 0; i < tree.size(); ++i) {
    const auto [first, last] = children.equal_range(tree[i]);
    for (auto it = first; it != last; ++it) {
      tree.push_back(it->second);
    }
  }
  return tree;
}

void signal_tree(pid_t root, int signal) {
  std::set<pid_t> done;
  constexpr int kRounds = 20;
  for (int round = 0; round < kRounds; ++round) {
    bool fresh = false;
    for (const pid_t pid : process_tree(root)) {
      if (done.insert(pid).second) {
        fresh = ::kill(pid, signal) == 0 || fresh;
      }
    }
    if (!fresh) {
      return;
    }
  }
}

int sweep(const std::string& rank_key, const fs::path& folder) {
  const std::string marker = fmt::format("QUAD_RANK_KEY={}", rank_key);
  const std::string home = fmt::format("HOME={}/", folder.string());
  int killed = 0;
  for (const pid_t pid : all_processes()) {
    const auto environment = read_file(fmt::format("/proc/{}/environ", pid), 1U << 20U);
    if (!environment.ok() || environment->find(marker) == std::string::npos) {
      continue;
    }
    bool has_marker = false;
    bool has_home = false;
    for (const std::string_view variable : split(*environment, '\0')) {
      has_marker = has_marker || variable == marker;
      has_home = has_home || variable.starts_with(home);
    }
    if (has_marker && has_home && ::kill(pid, SIGKILL) == 0) {
      ++killed;
    }
  }
  return killed;
}

}  // namespace quad::engine
