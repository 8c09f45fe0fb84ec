// runner/process_table.h
//
// Who descends from whom, from /proc. Blocks for one read for each process there is; no state.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quad::runner {

struct ProcessFacts {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = '?';
  std::uint64_t cpu_ticks = 0;  ///< own and of reaped children
  std::uint64_t rss_pages = 0;
};

/// Every process that /proc shows.
std::vector<ProcessFacts> all_processes();

/// Those that descend from `ancestor`, without itself.
std::vector<ProcessFacts> descendants_of(pid_t ancestor);

/// Those whose environment holds all these entries ("NAME=value"), without those that run the
/// calling process's own program; only processes of the own user can be seen. None if there are no
/// entries.
std::vector<pid_t> processes_with(const std::vector<std::string>& entries);

/// Kills all descendants of the calling process, again and again until none is left or `rounds` are
/// over (10 ms each), and reaps them. True if none is left.
bool kill_descendants(int rounds);

/// Parses the text of /proc/PID/stat. False if it makes no sense. Pure.
bool parse_stat(std::string_view text, ProcessFacts& facts);

}  // namespace quad::runner
