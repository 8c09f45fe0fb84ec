#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/text.h"
#include "cli/commands.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  using namespace quad::cli;  // NOLINT(google-build-using-namespace): the program's own file
  Program program;
  CLI::App app("Quad: a cluster as one computer");
  app.set_version_flag("--version", "quad " QUAD_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--data-dir", program.globals.data_dir, "Where the local server keeps its data (QUAD_DATA_DIR, ~/.quad)");
  app.add_option("--server", program.globals.server, "Address of a server (QUAD_SERVER)");
  app.add_option("--ca", program.globals.ca, "PEM file of the authority that signed its certificate (QUAD_CA)");
  add_launch(app, program);
  add_job_commands(app, program);
  add_node_commands(app, program);
  add_validate(app, program);
  add_server_commands(app, program);
  add_completion(app, program);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForAllHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& problem) {
    std::string hint;
    if (argc > 1) {
      std::vector<std::string> names;
      for (const CLI::App* one : app.get_subcommands({})) {
        names.push_back(one->get_name());
      }
      const std::vector<std::string_view> views(names.begin(), names.end());
      const auto near = quad::nearest(argv[1], views);
      if (near && *near != argv[1]) {
        hint = fmt::format(" (did you mean '{}'?)", *near);
      }
    }
    fmt::print(stderr, "error: {}{}\nSee 'quad --help'.\n", problem.what(), hint);
    return kUsage;
  }
  return program.chosen ? program.chosen() : kUsage;
}
