// cli/commands.h
//
// The verbs. Each adds itself to the command line; the one that was chosen runs after parsing and
// returns the exit code.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/client.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
class Option;
class Validator;
}  // namespace CLI

namespace quad::cli {

struct Program {
  Globals globals;
  bool exec_on_cluster = false;  ///< which of the two verbs `exec` is
  /// What stands behind the -- of a verb that takes a command, word by word; nullopt: there is no
  /// --. None of it goes through the parser of options.
  std::optional<std::vector<std::string>> command;
  std::vector<const CLI::App*> command_verbs;  ///< those that do
  std::function<int()> chosen;                 ///< set by the verb that the command line names
};

void add_launch(CLI::App& app, Program& program);
void add_job_commands(CLI::App& app, Program& program);  ///< status, queue, logs, cancel; jobs …
void add_job_views(CLI::App& app, Program& program);     ///< why, story, checkpoints
void add_sessions(CLI::App& app, Program& program);      ///< exec, shell, cp, port-forward
void add_cluster_commands(CLI::App& app, Program& program);  ///< exec, stop, start, down, autostop
void add_events(CLI::App& app, Program& program);
void add_node_commands(CLI::App& app, Program& program);    ///< node, gpus
void add_server_commands(CLI::App& app, Program& program);  ///< serve, api, token, admin
void add_check(CLI::App& app, Program& program);
void add_config(CLI::App& app, Program& program);
void add_validate(CLI::App& app, Program& program);
void add_completion(CLI::App& app, Program& program);

/// Whether the `exec` of this command line names a cluster, rather than a job by its number. The
/// two take flags of their own, so it must be known before it is parsed.
bool execs_on_cluster(const std::vector<std::string>& words);

/// A verb, with `-o json` and the like.
CLI::App* add_verb(CLI::App& app, Program& program, const char* name, const char* help);
inline constexpr const char* kJobNumber = "a job's number";
/// Accepts whole numbers from `least` on; refuses others as not being `what`.
CLI::Validator whole_number(std::int64_t least, const char* what);
/// The positional argument `job`: a job's number.
CLI::Option* add_job_argument(CLI::App& verb, std::int64_t& id);
/// The same, or the name of a cluster, whose holder is meant: job_named() tells which job it is.
CLI::Option* add_job_or_cluster(CLI::App& verb, std::string& word);

/// `quad status JOB…`
int show_jobs(Program& program, const std::vector<std::int64_t>& ids);

}  // namespace quad::cli
