// cli/commands.h
//
// The verbs. Each adds itself to the command line; the one that was chosen runs after parsing and returns the exit code.

#pragma once

#include <functional>

#include "cli/client.h"

namespace CLI {
class App;
}

namespace quad::cli {

struct Program {
  Globals globals;
  std::function<int()> chosen;  ///< set by the verb that the command line names
};

void add_launch(CLI::App& app, Program& program);
void add_job_commands(CLI::App& app, Program& program);   ///< status, queue, logs, cancel, why, story, checkpoints, events
void add_node_commands(CLI::App& app, Program& program);  ///< node, gpus
void add_server_commands(CLI::App& app, Program& program);  ///< serve, api, token, admin
void add_validate(CLI::App& app, Program& program);
void add_completion(CLI::App& app, Program& program);

/// `-o json` and the like, on each verb.
CLI::App* add_verb(CLI::App& app, Program& program, const char* name, const char* help);

/// Prints a job's log as it grows, with a live line of state on a terminal; returns the job's exit
/// code at its end.
int follow_job(const Globals& globals, Client& client, std::int64_t job);

}  // namespace quad::cli
