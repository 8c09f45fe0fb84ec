// quad exec, quad shell: a program on a running rank. quad port-forward: its ports.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/clusters.h"
#include "cli/commands.h"
#include "cli/copy.h"
#include "cli/output.h"
#include "cli/port_forward.h"
#include "cli/session.h"
#include "session/exec_client.h"

namespace quad::cli {

namespace {

struct ExecOptions {
  std::string job;  ///< a number, or a cluster's name
  std::int64_t rank = 0;
  bool terminal = false;
  bool no_input = false;
  std::vector<std::string> words;
};

int run_program(Program& program, const ExecOptions& options, bool is_shell) {
  if (options.terminal && ::isatty(STDIN_FILENO) != 1) {
    return fail(error(ErrorCode::kInvalid,
                      is_shell ? "A shell needs a terminal on standard input; for a script write "
                                 "'quad exec JOB -- bash -s < script.sh'"
                               : "-t needs a terminal on standard input; leave it out in a pipe"));
  }
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto job = job_named(*client, options.job);
  if (!job.ok()) {
    return fail(job.error());
  }
  auto carrier = open_session(*client, *job, options.rank, is_shell ? "shell" : "exec");
  if (!carrier.ok()) {
    return tell_refused(carrier.error());
  }
  ::signal(SIGPIPE, SIG_IGN);
  session::ExecOptions exec;
  exec.terminal = options.terminal;
  exec.input = !options.no_input;
  exec.begin["kind"] = is_shell ? "shell" : "exec";
  if (!is_shell) {
    exec.begin["arguments"] = json::array(options.words.begin(), options.words.end());
  }
  const auto code = session::run_exec(**carrier, std::move(exec));
  return code.ok() ? *code : tell_broken_off(program.globals, *job, code.error());
}

CLI::Option* add_rank(CLI::App& verb, std::int64_t& rank) {
  return verb.add_option("--rank", rank, "Which of the job's ranks; 0 unless it is said")
      ->check(whole_number(0, "a rank's number, from 0"));
}

void add_exec(CLI::App& app, Program& program) {
  auto options = std::make_shared<ExecOptions>();
  CLI::App* verb = app.add_subcommand(
      "exec",
      "Run a program on a rank of a running job: quad exec JOB -- CMD ARGS; or a task on a "
      "cluster: quad exec CLUSTER TASK");
  program.command_verbs.push_back(verb);
  add_job_or_cluster(*verb, options->job)->required();
  add_rank(*verb, options->rank);
  verb->add_flag("-t,--tty", options->terminal, "With a terminal of its own");
  verb->add_flag("-n,--no-stdin", options->no_input, "Without this standard input");
  verb->callback([&program, options] {
    options->words = program.command.value_or(std::vector<std::string>());
    if (options->words.empty()) {
      throw CLI::RequiredError("The program to run, after --,");
    }
    program.chosen = [&program, options] { return run_program(program, *options, false); };
  });
}

void add_shell(CLI::App& app, Program& program) {
  auto options = std::make_shared<ExecOptions>();
  options->terminal = true;
  CLI::App* verb = app.add_subcommand("shell", "A shell on a rank of a running job, or a cluster");
  add_job_or_cluster(*verb, options->job)->required();
  add_rank(*verb, options->rank);
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return run_program(program, *options, true); };
  });
}

void add_copy(CLI::App& app, Program& program) {
  struct Places {
    std::string from, to;
  };
  auto places = std::make_shared<Places>();
  CLI::App* verb = app.add_subcommand("cp",
                                      "Copy files to a rank of a running job, or a cluster, or "
                                      "from it: one of the two is JOB:PATH");
  verb->add_option("source", places->from, "PATH here, or JOB:PATH, JOB/RANK:PATH, CLUSTER:PATH")
      ->required();
  verb->add_option("target", places->to, "the same")->required();
  verb->callback([&program, places] {
    program.chosen = [&program, places] {
      return copy_files(program.globals, places->from, places->to);
    };
  });
}

void add_port_forward(CLI::App& app, Program& program) {
  auto options = std::make_shared<ForwardOptions>();
  CLI::App* verb = app.add_subcommand(
      "port-forward", "Reach ports of a rank of a running job at ports of this machine");
  add_job_or_cluster(*verb, options->job)->required();
  add_rank(*verb, options->rank);
  verb->add_option("ports", options->ports, "REMOTE, or LOCAL:REMOTE; LOCAL 0 is any free one")
      ->required();
  verb->add_option("--address", options->address,
                   "Where to listen; 127.0.0.1 unless it is said, so that only this machine "
                   "reaches it");
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return forward_ports(program.globals, *options); };
  });
}

}  // namespace

void add_sessions(CLI::App& app, Program& program) {
  if (!program.exec_on_cluster) {
    add_exec(app, program);
  }
  add_shell(app, program);
  add_copy(app, program);
  add_port_forward(app, program);
}

}  // namespace quad::cli
