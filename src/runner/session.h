// runner/session.h
//
// A runner at work: the loop around one rank's life (rank_life.h) and its connection to the server
// (uplink.h), from the first hello to bye. It waits, tells the rank's life what the server says,
// and sends what is to be told. Everything that may block (storage, downloads, names) is in
// workers, and the rank's processes are in their own tree, so a dead server, a slow server and dead
// storage all leave the rank running and its output flowing.
//
// It ends when the rank's end was acknowledged, when it leaves, or when nobody can be left to tell.

#pragma once

#include <filesystem>

#include "base/time.h"
#include "runner/start.h"

namespace quad::runner {

/// Runs the rank of `folder` (absolute, held by this process: folder_lock.h) to its end. The exit
/// code of the runner: 0 when the end was acknowledged or the runner was told to leave; 143 when it
/// was SIGTERM that ended the rank. Call it once in a process: it takes over the process's signals.
int run_session(const Start& start, const std::filesystem::path& folder, const Clock& clock);

}  // namespace quad::runner
