// runner/cgroup.h
//
// What a rank may use, where the kernel's control groups hold it to that: memory, processes and
// CPUs. Version 2 if a delegated, writable group is there, version 1 as root; then each kind of
// limit is in a hierarchy of its own. And what the kernel has refused: of these groups, or of the
// container's own. Blocks for a few small files.
//
// Always holds: a group with limits holds no process itself; the rank's are in the group `rank`
// below it. So whoever owns the group that they are in, and may change it, as root of a rank may,
// changes no limit.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quad::runner {

/// 0 and none: no limit.
struct Limits {
  std::uint64_t memory_bytes = 0;
  std::uint64_t processes = 0;  ///< threads included, as the kernel counts them
  std::vector<int> cpus;
};

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

/// Of a group with limits: where the processes are that it limits.
inline constexpr const char* kGroupOfProcesses = "rank";

class ControlGroups {
 public:
  explicit ControlGroups(CgroupPlaces places = {}) : places_(std::move(places)) {}
  ControlGroups(const ControlGroups&) = delete;
  ControlGroups& operator=(const ControlGroups&) = delete;
  ~ControlGroups() { remove(); }

  /// Makes groups named `name` for those of `limits` that can be set here.
  void create(const std::string& name, const Limits& limits);
  /// Everything in them must be dead.
  void remove();

  [[nodiscard]] bool limit_memory() const { return memory_.has_value(); }
  [[nodiscard]] bool limit_processes() const { return processes_.has_value(); }
  /// Those with limits, each in another hierarchy.
  [[nodiscard]] std::vector<std::filesystem::path> folders() const;

  /// Of these groups; without a limit of memory, of the container that the runner is in, if any.
  [[nodiscard]] MemoryFacts memory() const;
  /// How often a process of the rank was refused another one; 0 without such a limit.
  [[nodiscard]] std::uint64_t refused_processes() const;

 private:
  struct Group {
    std::filesystem::path folder;
    bool v2 = false;
  };
  void create_v1(const std::string& controller, const std::filesystem::path& own,
                 const std::string& name, const Limits& limits);
  void create_v2(const std::filesystem::path& own, const std::string& name, const Limits& limits);

  CgroupPlaces places_;
  std::vector<Group> groups_;
  std::optional<Group> memory_, processes_;  ///< those of groups_ that have such a limit
};

/// "killed: memory 64.0 of 64.0 GiB".
std::string out_of_memory_text(std::uint64_t peak_bytes, std::uint64_t limit_bytes);

}  // namespace quad::runner
