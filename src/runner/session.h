// runner/session.h
//
// One rank's life, from the first hello to bye: the order of work of docs/runner-protocol.md as a
// state machine over one poll loop. Everything that may block (storage, downloads, names) is in
// workers; the rank's processes are in their own tree; so a dead server, a slow server and dead
// storage all leave the rank running and its output flowing.
//
// Only positive evidence stops a rank: a stop order (or SIGTERM to the runner, which is one),
// leave, a newer fence, its own end, and, if the task asked for a strict fence, a lease that ran
// out.

#pragma once

#include <filesystem>

#include "base/time.h"
#include "runner/start.h"

namespace quad::runner {

/// Runs the rank of `folder` (absolute) to its end. The exit code of the runner: 0 when the end was
/// acknowledged or the runner was told to leave.
int run_session(const Start& start, const std::filesystem::path& folder, const Clock& clock);

/// Holds the folder for this runner: writes runner.pid and locks it. Returns the file to be kept
/// open; kExists if another runner has it.
Result<int> hold_folder(const std::filesystem::path& folder);

}  // namespace quad::runner
