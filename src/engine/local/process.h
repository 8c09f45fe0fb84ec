// engine/local/process.h
//
// Processes as /proc shows them, told apart for good: a number together with a start time names one
// process of this boot, so that a number that is used again is never taken for the old process. A
// scan costs some ten microseconds for each process there is. Any thread.
//
// What cannot be found out is an error, never an absence: whoever runs out of files or memory, or
// looks while /proc is not mounted, must ask again before it takes anything for ended. Processes
// that /proc hides from this user (hidepid) are others', and count as absent.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::engine {

struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  std::uint64_t start_time = 0;  ///< clock ticks since boot
  char state = '?';              ///< as in /proc/PID/stat: R, S, D, T (stopped), Z, …
  std::int64_t threads = 1;
  bool kernel = false;  ///< a thread of the kernel's own

  /// A zombie runs nothing any more; one that only lost its first thread does.
  [[nodiscard]] bool dead() const { return state == 'X' || (state == 'Z' && threads <= 1); }
  [[nodiscard]] bool stopped() const { return state == 'T' || state == 't'; }
  [[nodiscard]] bool same(const Process& other) const {
    return pid == other.pid && start_time == other.start_time;
  }
};

/// The text of /proc/PID/stat. nullopt if it is cut off or something else. Pure.
std::optional<Process> parse_stat(std::string_view text);

/// The process that has this number now; nullopt if /proc shows none.
Result<std::optional<Process>> find_process(pid_t pid);

/// Every process that is not dead; this one is always among them.
Result<std::vector<Process>> all_processes();

/// A handle on exactly this process (a pidfd); empty if it is dead, even if its number lives on.
Result<UniqueFd> open_process(const Process& process);

/// False if exactly this process is not there, or is not ours to signal.
Result<bool> send_signal(const Process& process, int signal);

/// How the processes of a rank are recognised.
struct Family {
  std::vector<Process> roots;  ///< these, and everything below them in the process tree
  /// Anything whose environment has QUAD_RANK_KEY=key and mentions the folder: what left the tree.
  std::string key;
  std::string folder;  ///< without a slash at its end
};

/// The live processes of each family, in the order of `families`. One scan of /proc for all. What
/// is below `others` in the process tree is known to be nobody's, which saves looking at it.
Result<std::vector<std::vector<Process>>> find_members(const std::vector<Family>& families,
                                                       const std::vector<Process>& others = {});

/// Stops every process of the families (SIGSTOP), again until all stand still and no new one
/// appears. Returns false if some do not yet after `limit`, or if that is not known; it looks at
/// least once.
bool stop_members(const std::vector<Family>& families, Millis limit);

/// Sends `signal` once to every process of the families. Returns them all; an error if one of them
/// may not have got it, after it was sent to all others.
Result<std::vector<std::vector<Process>>> signal_members(const std::vector<Family>& families,
                                                         int signal,
                                                         const std::vector<Process>& others = {});

}  // namespace quad::engine
