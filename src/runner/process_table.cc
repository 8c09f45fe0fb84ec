#include "runner/process_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <unordered_map>
#include <unordered_set>

#include "base/file.h"

namespace quad::runner {
namespace {

template <typename Visit>
void for_each_pid(const Visit& visit) {
  DIR* folder = ::opendir("/proc");
  if (folder == nullptr) {
    return;
  }
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') {
      visit(static_cast<pid_t>(std::atoi(entry->d_name)));
    }
  }
  ::closedir(folder);
}

}  // namespace

bool parse_stat(std::string_view text, ProcessFacts& facts) {
  // The name is in brackets and may itself hold brackets and spaces.
  const std::size_t close = text.rfind(')');
  if (close == std::string_view::npos || close + 2 >= text.size()) {
    return false;
  }
  std::from_chars(text.data(), text.data() + text.size(), facts.pid);
  std::uint64_t fields[24] = {};
  facts.state = text[close + 2];
  const char* at = text.data() + close + 3;
  const char* const end = text.data() + text.size();
  int field = 4;  // as proc(5) counts them
  while (at < end && field <= 24) {
    while (at < end && *at == ' ') {
      ++at;
    }
    const bool negative = at < end && *at == '-';
    at += negative ? 1 : 0;
    std::uint64_t value = 0;
    const auto parsed = std::from_chars(at, end, value);
    if (parsed.ec != std::errc()) {
      break;
    }
    fields[field - 1] = negative ? 0 : value;
    at = parsed.ptr;
    ++field;
  }
  facts.parent = static_cast<pid_t>(fields[3]);
  facts.cpu_ticks = fields[13] + fields[14] + fields[15] + fields[16];
  facts.rss_pages = fields[23];
  return field > 24;
}

std::vector<ProcessFacts> all_processes() {
  std::vector<ProcessFacts> processes;
  for_each_pid([&](pid_t pid) {
    char path[32];
    std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
    const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    char text[1024];
    const ssize_t got = fd ? ::read(fd.get(), text, sizeof text) : -1;
    ProcessFacts facts;
    if (got > 0 && parse_stat({text, static_cast<std::size_t>(got)}, facts)) {
      processes.push_back(facts);
    }
  });
  return processes;
}

std::vector<ProcessFacts> descendants_of(pid_t ancestor) {
  const std::vector<ProcessFacts> all = all_processes();
  std::unordered_map<pid_t, std::vector<const ProcessFacts*>> children;
  for (const ProcessFacts& process : all) {
    children[process.parent].push_back(&process);
  }
  std::vector<ProcessFacts> found;
  std::vector<pid_t> open = {ancestor};
  std::unordered_set<pid_t> seen = {ancestor};
  while (!open.empty()) {
    const pid_t parent = open.back();
    open.pop_back();
    for (const ProcessFacts* child : children[parent]) {
      if (seen.insert(child->pid).second) {
        found.push_back(*child);
        open.push_back(child->pid);
      }
    }
  }
  return found;
}

std::vector<pid_t> processes_with(const std::vector<std::string>& entries) {
  std::vector<pid_t> found;
  if (entries.empty()) {
    return found;
  }
  struct stat own {};
  if (::stat("/proc/self/exe", &own) != 0) {
    return found;
  }
  for_each_pid([&](pid_t pid) {
    char path[32];
    std::snprintf(path, sizeof path, "/proc/%d/exe", pid);
    struct stat program {};
    if (::stat(path, &program) != 0 ||
        (program.st_ino == own.st_ino && program.st_dev == own.st_dev)) {
      return;
    }
    std::snprintf(path, sizeof path, "/proc/%d/environ", pid);
    auto environment = read_file(path, 4U << 20U);
    if (!environment.ok()) {
      return;
    }
    const std::string text = std::string(1, '\0') + environment.value();
    if (std::all_of(entries.begin(), entries.end(), [&](const std::string& entry) {
          return text.find(std::string(1, '\0') + entry + std::string(1, '\0')) !=
                 std::string::npos;
        })) {
      found.push_back(pid);
    }
  });
  return found;
}

bool kill_descendants(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    bool any = false;
    for (const ProcessFacts& process : descendants_of(::getpid())) {
      if (process.state != 'Z') {
        ::kill(process.pid, SIGKILL);
      }
      any = true;
    }
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (!any) {
      return true;
    }
    ::poll(nullptr, 0, round == 0 ? 1 : 10);
  }
  return false;
}

}  // namespace quad::runner
