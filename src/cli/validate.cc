#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "spec/parse.h"

namespace quad::cli {

namespace {

struct ValidateOptions {
  std::vector<std::string> files, envs, secrets, env_files;
};

Result<std::vector<spec::NamedValue>> pairs(const std::vector<std::string>& given, const char* flag) {
  std::vector<spec::NamedValue> all;
  for (const std::string& text : given) {
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const char* own = std::getenv(name.c_str());
    if (name.empty() || (equals == std::string::npos && own == nullptr)) {
      return error(ErrorCode::kInvalid, fmt::format("{} '{}' has no {}; write it as NAME=VALUE", flag, text,
                                                    name.empty() ? "name" : "value, here or in this shell"));
    }
    all.emplace_back(name, equals == std::string::npos ? own : text.substr(equals + 1));
  }
  return all;
}

void print(const spec::Diagnostic& one, std::string_view word, const std::string& file) {
  fmt::print("{}:{}:{}: {}: {}{}{}\n", file, one.line, one.column, word, one.key.empty() ? "" : one.key + ": ", one.message,
             one.hint.empty() ? "" : " (" + one.hint + ")");
}

int validate(Program& program, const ValidateOptions& options) {
  spec::Overrides overrides;
  for (const std::string& file : options.env_files) {
    const auto text = read_file(file, 1U << 20U);
    auto found = text.ok() ? spec::parse_env_file(*text) : Result<std::vector<spec::NamedValue>>(text.error());
    if (!found.ok()) {
      fail(found.error());
      return kUsage;
    }
    overrides.envs.insert(overrides.envs.end(), found->begin(), found->end());
  }
  auto envs = pairs(options.envs, "--env");
  auto secrets = pairs(options.secrets, "--secret");
  if (!envs.ok() || !secrets.ok()) {
    return fail(envs.ok() ? secrets.error() : envs.error());
  }
  overrides.envs.insert(overrides.envs.end(), envs->begin(), envs->end());
  overrides.secrets = *secrets;
  bool all_good = true;
  for (const std::string& file : options.files) {
    constexpr std::uint64_t kLargest = 256ULL << 20U;
    const auto text = read_file(file, kLargest);
    spec::TaskSet set;
    if (text.ok()) {
      set = spec::parse(*text, overrides);
    } else {
      set.errors.push_back({.message = text.error().message});
    }
    all_good = all_good && set.ok();
    if (program.globals.json()) {
      fmt::print("{}\n", to_text(spec::to_json(set, file)));
      continue;
    }
    for (const spec::Diagnostic& one : set.errors) {
      print(one, "error", file);
    }
    for (const spec::Diagnostic& one : set.warnings) {
      print(one, "warning", file);
    }
    if (set.ok()) {
      for (const spec::Task& task : set.tasks) {
        fmt::print("{}: good: {} on {} node{}\n", file, task.name.value_or("(no name)"), task.num_nodes, task.num_nodes == 1 ? "" : "s");
        fmt::print("{}", to_pretty_text(spec::to_json(task, spec::Redact::kYes)));
      }
    }
  }
  return all_good ? kOk : kFailed;
}

}  // namespace

void add_validate(CLI::App& app, Program& program) {
  auto options = std::make_shared<ValidateOptions>();
  CLI::App* verb = add_verb(app, program, "validate", "Check task files and print what they mean");
  verb->add_option("files", options->files, "Task files")->required();
  verb->add_option("--env", options->envs, "NAME=VALUE")->allow_extra_args(false);
  verb->add_option("--secret", options->secrets, "NAME=VALUE")->allow_extra_args(false);
  verb->add_option("--env-file", options->env_files, "A dotenv file")->allow_extra_args(false);
  verb->callback([&program, options] { program.chosen = [&program, options] { return validate(program, *options); }; });
}

void add_completion(CLI::App& app, Program& program) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = add_verb(app, program, "completion", "Completion for a shell: eval \"$(quad completion bash)\"");
  verb->add_option("shell", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([&app, &program, shell] {
    program.chosen = [&app, shell] {
      std::string top;
      std::string inner;
      for (const CLI::App* one : app.get_subcommands({})) {
        top += " " + one->get_name();
        std::string words;
        for (const CLI::App* sub : one->get_subcommands({})) {
          words += " " + sub->get_name();
        }
        for (const CLI::Option* option : one->get_options()) {
          if (option->nonpositional()) {
            words += " " + option->get_name(false, true).substr(option->get_name(false, true).rfind(',') + 1);
          }
        }
        inner += *shell == "fish" ? fmt::format("complete -c quad -n '__fish_seen_subcommand_from {}' -a '{}'\n", one->get_name(), words)
                                  : fmt::format("    {}) words=\"{}\";;\n", one->get_name(), words);
      }
      if (*shell == "fish") {
        fmt::print("complete -c quad -n '__fish_use_subcommand' -a '{}'\n{}", top, inner);
      } else {
        fmt::print("{}_quad() {{\n  local words=\"{}\"\n  case \"${{COMP_WORDS[1]}}\" in\n{}  esac\n"
                   "  [ \"$COMP_CWORD\" = 1 ] && words=\"{}\"\n"
                   "  COMPREPLY=($(compgen -W \"$words\" -f -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\ncomplete -F _quad quad\n",
                   *shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "", top, inner, top);
      }
      return kOk;
    };
  });
}

}  // namespace quad::cli
