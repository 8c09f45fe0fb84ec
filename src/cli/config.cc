// quad config show|check|schema: the server's configuration. No server is asked: a server reads the
// file when it starts, and these read the same one in the same way.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/server_flags.h"
#include "cli/task_input.h"
#include "config/keys.h"

namespace quad::cli {

namespace {

std::string layer_of(const config::Setting& setting) {
  switch (setting.layer) {
    case config::Setting::Layer::kFlag:
      return "flag";
    case config::Setting::Layer::kFile:
      return "file";
    case config::Setting::Layer::kDefault:
      break;
  }
  return "default";
}

std::string origin_of(const config::Setting& setting, const config::Source& source) {
  switch (setting.layer) {
    case config::Setting::Layer::kFlag:
      return setting.flag;
    case config::Setting::Layer::kFile:
      return fmt::format("{}:{}", source.path.filename().string(), setting.value.mark.line);
    case config::Setting::Layer::kDefault:
      break;
  }
  return "default";
}

/// What happens where nothing is set, in the words of the documentation.
std::string value_text(const config::Setting& setting) {
  if (setting.value.is_null()) {
    const config::Key* key = config::find_key(setting.pattern);
    return key == nullptr || key->unset.empty() ? "-" : fmt::format("({})", key->unset);
  }
  const json::value value = config::shown_value(setting);
  return value.is_string() ? std::string(value.get_string()) : to_text(value);
}

int show_config(Program& program, const ServerFlags& flags) {
  const config::Source source = flags.source(program.globals);
  const config::Loaded loaded = config::load(source, flags.given());
  if (!loaded.ok()) {
    print_faults(loaded, source);
    return kFailed;
  }
  const bool is_there = config::exists(source);
  if (program.globals.json()) {
    json::array settings;
    for (const config::Setting& one : loaded.settings) {
      settings.push_back(json::object{
          {"key", one.key},
          {"value", config::shown_value(one)},
          {"origin", layer_of(one)},
          {"line", one.layer == config::Setting::Layer::kFile ? json::value(one.value.mark.line)
                                                              : json::value(nullptr)},
          {"flag", one.flag.empty() ? json::value(nullptr) : json::value(one.flag)}});
    }
    print_json(json::object{{"file", is_there ? json::value(source.path.string()) : json::value()},
                            {"settings", std::move(settings)}});
    return kOk;
  }
  fmt::print("{}\n\n", is_there ? fmt::format("Configuration {}", source.path.string())
                                : fmt::format("There is no {}; these are the defaults.",
                                              source.path.string()));
  Table table({{"KEY"}, {"VALUE", true}, {"FROM"}});
  for (const config::Setting& one : loaded.settings) {
    table.add({one.key, value_text(one), origin_of(one, source)});
  }
  table.print();
  return kOk;
}

int check_config(Program& program, const std::string& file) {
  const config::Source source = config::find_source(file, data_dir_of(program.globals));
  const config::Loaded loaded = config::load(source);
  if (program.globals.json()) {
    print_json(json::object{{"file", source.path.string()},
                            {"ok", loaded.ok()},
                            {"errors", to_json(loaded.errors)},
                            {"warnings", to_json(loaded.warnings)}});
    return loaded.ok() ? kOk : kFailed;
  }
  print_faults(loaded, source);
  if (loaded.ok()) {
    fmt::print("{}\n", config::exists(source) ? fmt::format("{} is good.", source.path.string())
                                              : fmt::format("There is no {}; the defaults hold.",
                                                            source.path.string()));
  }
  return loaded.ok() ? kOk : kFailed;
}

}  // namespace

void add_config(CLI::App& app, Program& program) {
  CLI::App* config = app.add_subcommand("config", "The server's configuration");
  config->require_subcommand(1);

  CLI::App* show = add_verb(*config, program, "show",
                            "What counts, and where each value is from; takes serve's flags too");
  auto flags = std::make_shared<ServerFlags>(*show);
  show->callback([&program, flags] {
    program.chosen = [&program, flags] { return show_config(program, *flags); };
  });

  CLI::App* check = add_verb(*config, program, "check", "Look for all faults in the file");
  auto file = std::make_shared<std::string>();
  check->add_option("file", *file, "The file (QUAD_CONFIG, config.yaml in the data directory)");
  check->callback([&program, file] {
    program.chosen = [&program, file] { return check_config(program, *file); };
  });

  CLI::App* schema = config->add_subcommand("schema", "Its JSON Schema, for editors");
  auto table = std::make_shared<bool>(false);
  schema->add_flag("--table", *table, "A table of all keys, in Markdown");
  schema->callback([&program, table] {
    program.chosen = [table] {
      fmt::print("{}", *table ? config::markdown_table() : to_pretty_text(config::schema()));
      return kOk;
    };
  });
}

}  // namespace quad::cli
