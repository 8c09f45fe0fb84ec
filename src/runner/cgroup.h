// runner/cgroup.h
//
// A memory limit for a rank, where the runner may set one: cgroup v2 if a delegated, writable group
// is there, cgroup v1 as root; and the count of kills for memory, of that group or of the
// container's own. Blocks for a few small files.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"

namespace quad::runner {

struct MemoryFacts {
  std::uint64_t oom_kills = 0;
  std::uint64_t peak_bytes = 0;
  std::uint64_t limit_bytes = 0;  ///< 0: none
};

/// Where control groups are shown. The default is this machine; tests bring trees of their own.
struct CgroupPlaces {
  std::filesystem::path mount = "/sys/fs/cgroup";
  std::filesystem::path own = "/proc/self/cgroup";
};

class MemoryGroup {
 public:
  explicit MemoryGroup(CgroupPlaces places = {}) : places_(std::move(places)) {}
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;
  /// Removes the group; everything in it must be dead.
  ~MemoryGroup();

  /// Makes a group named `name` with a limit. kDenied, in a sentence, where that is not permitted.
  Status create(const std::string& name, std::uint64_t limit_bytes);
  /// Moves a process into it; its children follow.
  Status add(pid_t process);

  [[nodiscard]] bool limited() const { return !folder_.empty(); }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  /// Of this group; without one, of the container that the runner is in, if it is in one.
  [[nodiscard]] MemoryFacts read() const;

 private:
  CgroupPlaces places_;
  std::filesystem::path folder_;
  bool v2_ = false;
};

/// "killed: memory 64.0 of 64.0 GiB".
std::string out_of_memory_text(std::uint64_t peak_bytes, std::uint64_t limit_bytes);

}  // namespace quad::runner
