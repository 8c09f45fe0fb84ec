// runner/remote_program.h
//
// A program that a session (remote_session.h) starts beside the rank's own: in the environment of
// the rank, in a session and process group of its own, on pipes or on a PTY. Blocks for a fork and
// an exec.

#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace quad::runner {

struct ProgramOptions {
  std::vector<std::string> arguments;    ///< the first is looked up in the environment's PATH
  std::function<int()> work;             ///< instead of a program; its result is the exit code
  std::vector<std::string> environment;  ///< "NAME=value"
  std::vector<std::string> folders;      ///< to start in: the first that can be entered
  bool terminal = false;
  int rows = 24;
  int columns = 80;
};

struct Program {
  pid_t pid = 0;  ///< of its process group too
  UniqueFd in;    ///< to its standard input; with a terminal, the master for both ways
  UniqueFd out;
  UniqueFd errors;
};

/// kNotFound if there is no such program, kDenied if it cannot be run: shells say 127 and 126.
Result<Program> start_program(const ProgramOptions& options);

void resize_terminal(int master, int rows, int columns);

}  // namespace quad::runner
