// runner/launch_agent.h
//
// How the ranks of a gang start programs on each other without ssh: `quad-runner rsh HOST
// COMMAND…`, with ssh's meaning (the words are joined and run by a shell there; standard streams
// and exit code are the command's). It asks the server, with the token of its own attempt, which
// opens nothing but the ranks of that attempt. mpirun is told of it by the rank's environment
// (environment.h), and of the hosts by a file in the rank's folder. What a command leaves running
// as a daemon lives until the rank ends. Blocks; a program of its own.

#pragma once

#include <string>
#include <vector>

#include "runner/environment.h"
#include "runner/order.h"
#include "runner/start.h"

namespace quad::runner {

/// Where this program lies; empty if it cannot be told.
std::string own_program();

/// The ranks' addresses, each with its slots, as mpirun reads them: GPUs, else CPUs, at least 1.
std::string hostfile_text(const Start& start, const Order& order, const Go& go);
/// Writes it; without it only mpirun fails, with a sentence of its own.
void leave_hostfile(const Start& start, const Order& order, const Go& go, const Places& places);

/// The program. Its exit code is the command's; 255, as ssh's, where it could not be run.
int run_launch_agent(const std::vector<std::string>& arguments);

}  // namespace quad::runner
