// session/exec_client.h
//
// The client's end of a session in which a program runs: this process's standard streams are the
// program's, and its exit code comes back. On request this process's terminal is the program's too:
// it is put into raw mode and back, whatever ends the session, short of a SIGKILL. Takes over the
// process's signals while it runs; one at a time.

#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"
#include "session/pump.h"

namespace quad::session {

struct ExecOptions {
  json::object begin;     ///< the first message, but for its `type` and the terminal's members
  bool terminal = false;  ///< the program gets a terminal; needs one on standard input
  bool input = true;      ///< false: the program's standard input is at its end from the start
};

/// Runs until the program has ended and all its output is written here. The exit code: the
/// program's, 128 and the number of the signal that killed it; 127 or 126 where it could not be
/// started, after a sentence on standard error. An error if the session broke off before.
///
/// Without a terminal, SIGINT, SIGTERM and SIGHUP are passed on to the program; the second one ends
/// this process's part too (130, 143, 129), and the program is hung up.
Result<int> run_exec(Carrier& carrier, ExecOptions options);

}  // namespace quad::session
