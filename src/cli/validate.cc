#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/task_input.h"
#include "spec/parse.h"

namespace quad::cli {

namespace {

struct ValidateOptions {
  std::vector<std::string> files, envs, secrets, env_files, secret_files;
};

void print_set(const spec::TaskSet& set, const std::string& file) {
  for (const spec::Diagnostic& one : set.errors) {
    print("{}\n", line_of(one, "error", file));
  }
  for (const spec::Diagnostic& one : set.warnings) {
    print("{}\n", line_of(one, "warning", file));
  }
  if (!set.ok()) {
    return;
  }
  for (const spec::Task& task : set.tasks) {
    print("{}: good: {} on {}\n", file, task.name.value_or("(no name)"),
          counted(task.num_nodes, "node"));
    print_json(spec::to_json(task, spec::Redact::kYes));
  }
}

int validate(Program& program, const ValidateOptions& options) {
  auto envs = read_pairs(options.env_files, "--env-file", options.envs, "--env");
  auto secrets = read_pairs(options.secret_files, "--secret-file", options.secrets, "--secret");
  if (!envs.ok() || !secrets.ok()) {
    return fail(envs.ok() ? secrets.error() : envs.error());
  }
  spec::Overrides overrides;
  overrides.envs = std::move(*envs);
  overrides.secrets = std::move(*secrets);
  bool all_good = true;
  for (const std::string& file : options.files) {
    const auto text = read_task_text(file);
    spec::TaskSet set;
    if (text.ok()) {
      set = spec::parse(*text, overrides);
    } else {
      set.errors.push_back({.message = text.error().message});
    }
    all_good = all_good && set.ok();
    if (program.globals.json()) {
      print_json_line(spec::to_json(set, valid_utf8(file)));
    } else {
      print_set(set, file);
    }
  }
  return all_good ? kOk : kFailed;
}

}  // namespace

void add_validate(CLI::App& app, Program& program) {
  auto options = std::make_shared<ValidateOptions>();
  CLI::App* verb = add_verb(app, program, "validate", "Check task files and print what they mean");
  verb->add_option("files", options->files, "Task files; - is standard input")->required();
  verb->add_option("--env", options->envs, "NAME=VALUE, or NAME for this shell's value")
      ->allow_extra_args(false);
  verb->add_option("--secret", options->secrets, "The same, never shown again")
      ->allow_extra_args(false);
  verb->add_option("--env-file", options->env_files, "A dotenv file")->allow_extra_args(false);
  verb->add_option("--secret-file", options->secret_files, "A dotenv file of secrets")
      ->allow_extra_args(false);
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return validate(program, *options); };
  });
}

}  // namespace quad::cli
