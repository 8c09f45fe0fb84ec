// engine/local/process.h
//
// Processes as /proc shows them, and runners as processes: what the local engine needs to start, find and kill them.
// Each scan of /proc costs some microseconds for each process there is.

#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace quad::engine {

/// Starts `runner FOLDER` detached: a session of its own, nothing inherited but its log. One vfork.
Result<pid_t> spawn_runner(const std::filesystem::path& runner, const std::filesystem::path& folder);

/// A handle on a process that stays right when its number is used again; empty if there is no such process.
UniqueFd open_process(pid_t pid);

/// Every live process whose command line is `PROGRAM FOLDER` with the given program name, by folder.
std::map<std::string, pid_t> find_runners(const std::string& program_name);

/// `root` and everything below it in the process tree, as of now.
std::vector<pid_t> process_tree(pid_t root);

/// Sends `signal` to the whole tree, again until no new process appears in it (bounded). SIGSTOP so stands still for
/// good, and SIGKILL leaves nothing.
void signal_tree(pid_t root, int signal);

/// Kills every process whose environment says that it belongs to this rank: for those that left the tree where no PID
/// namespace holds them. Returns how many there were.
int sweep(const std::string& rank_key, const std::filesystem::path& folder);

}  // namespace quad::engine
