// engine/local/spawn.h
//
// Starting processes: runners, detached for good, and short helper programs. Both are vforks, whose
// cost does not grow with this process's memory: some hundred microseconds.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "base/time.h"
#include "engine/local/process.h"

namespace quad::engine {

struct SpawnedRunner {
  Process process;
  UniqueFd handle;  ///< a pidfd
};

/// Starts `program FOLDER` so that nothing of this process can end it: a session of its own,
/// default signals, no files but /dev/null and `runner.log`. `environment` holds "NAME=value"
/// entries, `open_files` the soft limit of open files, 0 for this process's own. The start is
/// recorded as rank_folder.h says: kExists if one was started in this folder before. After any
/// other error nothing runs and nothing is recorded.
Result<SpawnedRunner> spawn_runner(const std::filesystem::path& program,
                                   const std::filesystem::path& folder,
                                   const std::vector<std::string>& environment,
                                   const std::string& boot_id, std::uint64_t open_files);

/// What a program found on PATH writes to its standard output; kTimeout after `limit` (it is then
/// killed), kNotFound if there is no such program, kUnavailable if it exits with another code than
/// 0.
Result<std::string> output_of(const std::vector<std::string>& command, Millis limit);

}  // namespace quad::engine
