// cli/follow.h
//
// Showing a job's log: what there is, or as it grows until the job ends, over its recoveries and
// over restarts of the server, with a live line on a terminal. One thread; blocks.

#pragma once

#include <cstdint>
#include <string>

#include "cli/client.h"

namespace quad::cli {

struct LogOptions {
  std::int64_t job = 0;
  bool follow = false;
  int rank = -1;           ///< -1: all
  int attempt = 0;         ///< 0: all
  std::int64_t tail = -1;  ///< -1: not given
  std::int64_t line = 0;   ///< 0: not given
  std::string since, grep;
  bool raw = false;    ///< escape sequences reach a terminal too
  bool quiet = false;  ///< waits for the end without showing anything
};

/// Writes the log to standard output: the lines as they are, or with -o json an object a line. The
/// exit code: for a followed job that of its end (0 SUCCEEDED, else the job's own, or 1), else 0;
/// of a log that cannot be had, the error's. `last`: the job as the follower saw it last; null if
/// it was not followed to its end.
int show_log(const Globals& globals, Client& client, const LogOptions& options,
             json::object* last = nullptr);

/// "step 120/600, 3.2 a second, 2 min 30 s left" of a job's row; empty if it reports nothing.
std::string progress_text(const json::object& row);

}  // namespace quad::cli
