#include "runner/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <vector>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

Status write_value(const fs::path& path, std::string_view value) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) {
    return errno_error(fmt::format("Cannot open {}", path.string()), errno);
  }
  if (::write(fd.get(), value.data(), value.size()) < 0) {
    return errno_error(fmt::format("Cannot write {}", path.string()), errno);
  }
  return {};
}

std::string read_value(const fs::path& path) {
  auto text = read_file(path, 1U << 20U);
  return text.ok() ? std::string(trim(text.value())) : std::string();
}

std::uint64_t number(std::string_view text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// The value after `key` in lines of "key value".
std::uint64_t keyed(const std::string& text, std::string_view key) {
  for (const std::string_view line : split(text, '\n')) {
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ' ') {
      return number(line.substr(key.size() + 1));
    }
  }
  return 0;
}

bool has_word(std::string_view text, std::string_view word) {
  const auto words = split(text, ' ');
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The group of a hierarchy that the runner is in, as /proc/self/cgroup names it.
struct OwnGroup {
  std::vector<std::string_view> controllers;  // of version 1; none: version 2
  std::string path;
};

std::vector<OwnGroup> own_groups(const std::string& text) {
  std::vector<OwnGroup> groups;
  for (const std::string_view line : split(text, '\n')) {
    const auto parts = split(line, ':');
    if (parts.size() < 3) {
      continue;
    }
    OwnGroup group;
    group.path = line.substr(parts[0].size() + parts[1].size() + 2);
    if (!parts[1].empty()) {
      group.controllers = split(parts[1], ',');
    }
    if (!parts[1].empty() || parts[0] == "0") {
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

bool make_group(const fs::path& folder) {
  return ::mkdir(folder.c_str(), 0755) == 0 || errno == EEXIST;
}

void remove_group(const fs::path& folder) {
  ::rmdir((folder / kGroupOfProcesses).c_str());
  ::rmdir(folder.c_str());
}

// Version 1 says "no limit" with a number that no machine has.
constexpr std::uint64_t kNoLimit = 1ULL << 60U;

MemoryFacts facts_of(const fs::path& folder, bool v2) {
  if (v2) {
    return {keyed(read_value(folder / "memory.events"), "oom_kill"),
            number(read_value(folder / "memory.peak")), number(read_value(folder / "memory.max"))};
  }
  const std::uint64_t limit = number(read_value(folder / "memory.limit_in_bytes"));
  return {keyed(read_value(folder / "memory.oom_control"), "oom_kill"),
          number(read_value(folder / "memory.max_usage_in_bytes")), limit < kNoLimit ? limit : 0};
}

}  // namespace

void ControlGroups::remove() {
  for (const Group& group : groups_) {
    remove_group(group.folder);
  }
  groups_.clear();
  memory_.reset();
  processes_.reset();
}

void ControlGroups::create(const std::string& name, const Limits& limits) {
  const std::string text = read_value(places_.own);
  const std::vector<OwnGroup> own = own_groups(text);
  bool v1 = false;
  for (const char* controller : {"memory", "pids", "cpuset"}) {
    for (const OwnGroup& group : own) {
      if (std::find(group.controllers.begin(), group.controllers.end(), controller) !=
          group.controllers.end()) {
        v1 = true;
        create_v1(controller, group.path, name, limits);
      }
    }
  }
  for (const OwnGroup& group : own) {
    if (!v1 && group.controllers.empty()) {
      create_v2(group.path, name, limits);
    }
  }
}

void ControlGroups::create_v1(const std::string& controller, const fs::path& own,
                              const std::string& name, const Limits& limits) {
  const bool memory = controller == "memory";
  const bool processes = controller == "pids";
  if (memory ? limits.memory_bytes == 0 : processes ? limits.processes == 0 : limits.cpus.empty()) {
    return;
  }
  // In a container the own group's path may be one that only the machine shows.
  const fs::path mount = places_.mount / controller;
  const fs::path below = mount / own.relative_path();
  const fs::path parent = ::access(below.c_str(), F_OK) == 0 ? below : mount;
  const fs::path folder = parent / name;
  const fs::path inner = folder / kGroupOfProcesses;
  if (!make_group(folder)) {
    return;
  }
  const auto set = [&]() -> Status {
    if (memory) {
      const std::string most = std::to_string(limits.memory_bytes);
      (void)write_value(folder / "memory.use_hierarchy", "1");  // the only way on newer kernels
      QUAD_TRY(write_value(folder / "memory.limit_in_bytes", most));
      // Swap would turn a limit into a crawl.
      (void)write_value(folder / "memory.memsw.limit_in_bytes", most);
    } else if (processes) {
      QUAD_TRY(write_value(folder / "pids.max", std::to_string(limits.processes)));
    }
    if (!make_group(inner)) {
      return errno_error(fmt::format("Cannot make {}", inner.string()), errno);
    }
    // Version 1 takes no process into a group before both are said.
    const std::string nodes = read_value(parent / "cpuset.mems");
    for (const fs::path& group : {folder, inner}) {
      if (!memory && !processes) {
        QUAD_TRY(
            write_value(group / "cpuset.cpus", fmt::format("{}", fmt::join(limits.cpus, ","))));
        QUAD_TRY(write_value(group / "cpuset.mems", nodes));
      }
    }
    return {};
  };
  if (!set().ok()) {
    remove_group(folder);
    return;
  }
  groups_.push_back({folder, false});
  if (memory) {
    memory_ = groups_.back();
  } else if (processes) {
    processes_ = groups_.back();
  }
}

void ControlGroups::create_v2(const fs::path& own, const std::string& name, const Limits& limits) {
  std::vector<std::string> wanted;
  if (limits.memory_bytes > 0) {
    wanted.emplace_back("memory");
  }
  if (limits.processes > 0) {
    wanted.emplace_back("pids");
  }
  if (!limits.cpus.empty()) {
    wanted.emplace_back("cpuset");
  }
  // A group that holds processes cannot have limited children, so the own group's parent is the
  // likelier place.
  const fs::path below = own.relative_path();
  const fs::path group = below.empty() ? places_.mount : places_.mount / below;
  for (const fs::path& parent : {group, group.parent_path()}) {
    if (parent == places_.mount.parent_path()) {
      continue;
    }
    for (const std::string& controller : wanted) {
      if (!has_word(read_value(parent / "cgroup.subtree_control"), controller) &&
          has_word(read_value(parent / "cgroup.controllers"), controller)) {
        (void)write_value(parent / "cgroup.subtree_control", "+" + controller);
      }
    }
    // The first that is wanted is the one that matters most.
    if (wanted.empty() ||
        !has_word(read_value(parent / "cgroup.subtree_control"), wanted.front()) ||
        !make_group(parent / name)) {
      continue;
    }
    const Group made{parent / name, true};
    const auto set = [&](const char* file, const std::string& value) {
      return write_value(made.folder / file, value).ok();
    };
    const bool memory =
        limits.memory_bytes > 0 && set("memory.max", std::to_string(limits.memory_bytes));
    if (memory) {
      (void)set("memory.swap.max", "0");  // swap would turn a limit into a crawl
    }
    const bool processes =
        limits.processes > 0 && set("pids.max", std::to_string(limits.processes));
    const bool cpus =
        !limits.cpus.empty() && set("cpuset.cpus", fmt::format("{}", fmt::join(limits.cpus, ",")));
    if (!(memory || processes || cpus) || !make_group(made.folder / kGroupOfProcesses)) {
      remove_group(made.folder);
      continue;
    }
    groups_.push_back(made);
    memory_ = memory ? std::optional(made) : std::nullopt;
    processes_ = processes ? std::optional(made) : std::nullopt;
    return;
  }
}

std::vector<fs::path> ControlGroups::folders() const {
  std::vector<fs::path> folders;
  for (const Group& group : groups_) {
    folders.push_back(group.folder);
  }
  return folders;
}

MemoryFacts ControlGroups::memory() const {
  if (memory_) {
    MemoryFacts facts = facts_of(memory_->folder, memory_->v2);
    if (!memory_->v2) {
      // Version 1 counts a kill where the process was.
      facts.oom_kills += facts_of(memory_->folder / kGroupOfProcesses, false).oom_kills;
    }
    return facts;
  }
  // Inside a container only its own group is shown, and at the top.
  if (::access((places_.mount / "memory.events").c_str(), R_OK) == 0) {
    return facts_of(places_.mount, true);
  }
  return facts_of(places_.mount / "memory", false);
}

std::uint64_t ControlGroups::refused_processes() const {
  if (!processes_) {
    return 0;
  }
  // Kernels differ in where they count: at the limit, or where the process was.
  const fs::path& folder = processes_->folder;
  return std::max(keyed(read_value(folder / "pids.events"), "max"),
                  keyed(read_value(folder / kGroupOfProcesses / "pids.events"), "max"));
}

std::string out_of_memory_text(std::uint64_t peak_bytes, std::uint64_t limit_bytes) {
  constexpr double kMiB = 1024.0 * 1024.0;
  const bool large = std::max(peak_bytes, limit_bytes) >= (1ULL << 30U);
  const double unit = large ? kMiB * 1024.0 : kMiB;
  const char* name = large ? "GiB" : "MiB";
  if (limit_bytes == 0) {
    return "killed: the node or container ran out of memory";
  }
  return fmt::format("killed: memory {:.1f} of {:.1f} {}", static_cast<double>(peak_bytes) / unit,
                     static_cast<double>(limit_bytes) / unit, name);
}

}  // namespace quad::runner
