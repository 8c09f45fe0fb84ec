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

struct OwnGroups {
  std::string v1_memory;  // as /proc/self/cgroup names it; empty: none
  std::string v2;
};

OwnGroups own_groups(const fs::path& file) {
  OwnGroups groups;
  const std::string text = read_value(file);
  for (const std::string_view line : split(text, '\n')) {
    const auto parts = split(line, ':');
    if (parts.size() < 3) {
      continue;
    }
    const std::string path(line.substr(parts[0].size() + parts[1].size() + 2));
    if (parts[0] == "0" && parts[1].empty()) {
      groups.v2 = path;
    } else if (const auto controllers = split(parts[1], ',');
               std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
      groups.v1_memory = path;
    }
  }
  return groups;
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

MemoryGroup::~MemoryGroup() {
  if (!folder_.empty()) {
    ::rmdir(folder_.c_str());
  }
}

Status MemoryGroup::create(const std::string& name, std::uint64_t limit_bytes) {
  const OwnGroups own = own_groups(places_.own);
  const std::string limit = std::to_string(limit_bytes);
  const auto take = [&](const fs::path& parent, bool v2) {
    const fs::path folder = parent / name;
    if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
      return false;
    }
    const char* file = v2 ? "memory.max" : "memory.limit_in_bytes";
    if (!write_value(folder / file, limit).ok()) {
      ::rmdir(folder.c_str());
      return false;
    }
    // Swap would turn a limit into a crawl.
    (void)(v2 ? write_value(folder / "memory.swap.max", "0")
              : write_value(folder / "memory.memsw.limit_in_bytes", limit));
    folder_ = folder;
    v2_ = v2;
    return true;
  };
  if (!own.v1_memory.empty()) {
    const fs::path mount = places_.mount / "memory";
    for (const fs::path& parent : {mount / fs::path(own.v1_memory).relative_path(), mount}) {
      if (take(parent, false)) {
        return {};
      }
    }
  } else if (!own.v2.empty()) {
    // A group that holds processes cannot have limited children, so the own group's parent is the
    // likelier place.
    const fs::path below = fs::path(own.v2).relative_path();
    const fs::path group = below.empty() ? places_.mount : places_.mount / below;
    for (const fs::path& parent : {group, group.parent_path()}) {
      if (parent != places_.mount.parent_path() &&
          has_word(read_value(parent / "cgroup.subtree_control"), "memory") && take(parent, true)) {
        return {};
      }
    }
  }
  return error(ErrorCode::kDenied,
               "A memory limit cannot be set here, so none is enforced by Quad.");
}

Status MemoryGroup::add(pid_t process) {
  return write_value(folder_ / "cgroup.procs", std::to_string(process));
}

MemoryFacts MemoryGroup::read() const {
  if (!folder_.empty()) {
    return facts_of(folder_, v2_);
  }
  // Inside a container only its own group is shown, and at the top.
  if (::access((places_.mount / "memory.events").c_str(), R_OK) == 0) {
    return facts_of(places_.mount, true);
  }
  return facts_of(places_.mount / "memory", false);
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
