// runner/remote_session.h
//
// A session: somebody reaches into a running rank (docs/runner-protocol.md, "Sessions"). It is a
// process of its own, which the rank's init forks (rank_init.h): so it is in the rank's namespaces,
// limits and CPUs, dies with the rank, and whatever becomes of it neither the runner nor the rank
// is held up. It dials back to the server with its one-time id, and then starts a program, copies
// files or connects to ports for whoever is at the other end.
//
// A client that goes away has what it started hung up: SIGHUP to its process group, SIGKILL 5 s
// later. What has left the group (setsid, as daemons do) lives on until the rank ends. A SIGTERM,
// which a rank that is stopped gets, does the same.

#pragma once

#include <string>
#include <vector>

#include "runner/start.h"

namespace quad::runner {

/// What a session's process is told.
struct RemoteSessionOrder {
  std::string server;  ///< as in start.json
  std::string ca;
  std::string token;
  std::string target;  ///< of the dialling back
  std::string kind;    ///< what it may be used for: exec, shell, copy, forward; empty: any
  std::vector<std::string> environment;  ///< the rank's, in full
  std::string home;
};

/// As text, for the pipe or file through which the init's child gets it.
std::string to_text(const RemoteSessionOrder& order);
Result<RemoteSessionOrder> read_remote_session_order(std::string_view text);

/// The process; `file` holds the order's text, from its beginning. All other files are closed.
[[noreturn]] void run_remote_session(int file);

}  // namespace quad::runner
