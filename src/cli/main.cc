#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/output.h"
#include "cli/terminal.h"

int main(int argc, char** argv) {
  using namespace quad::cli;  // NOLINT(google-build-using-namespace): the program's own file
  Program program;
  CLI::App app("Quad: a cluster as one computer", "quad");
  app.set_version_flag("--version", "quad " QUAD_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--data-dir", program.globals.data_dir,
                 "Where the local server keeps its data (QUAD_DATA_DIR, ~/.quad)");
  app.add_option("--server", program.globals.server, "Address of a server (QUAD_SERVER)");
  app.add_option("--ca", program.globals.ca,
                 "PEM file of the authority that signed its certificate (QUAD_CA)");
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  program.exec_on_cluster = execs_on_cluster(words);
  add_launch(app, program);
  add_job_commands(app, program);
  add_job_views(app, program);
  add_sessions(app, program);
  add_cluster_commands(app, program);
  add_events(app, program);
  add_node_commands(app, program);
  add_validate(app, program);
  add_server_commands(app, program);
  add_check(app, program);
  add_config(app, program);
  add_completion(app, program);
  if (!words.empty() && words[0] == "__complete") {
    return complete(app, program, {words.begin() + 1, words.end()});
  }
  try {
    auto to_parse = parser_words(app, program, words);
    std::reverse(to_parse.begin(), to_parse.end());  // as the library wants them
    app.parse(std::move(to_parse));
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForAllHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& problem) {
    return fail(quad::error(quad::ErrorCode::kInvalid, usage_error(app, words, problem.what())));
  }
  const int code = program.chosen ? program.chosen() : kUsage;
  if (std::fflush(stdout) != 0 && code == kOk) {
    complain("error: the output could not be written\n");
    return kFailed;
  }
  return code;
}
