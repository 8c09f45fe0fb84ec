// quad check: what the engines of a server have and lack for jobs. The server looks, with its own
// rights; with --config or --context this program does, with those of whoever runs it, so that a
// cluster can be looked at before there is a server.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/server_flags.h"
#include "config/file.h"
#include "engine/kubernetes/permissions.h"
#include "server/check.h"

namespace quad::cli {

namespace {

struct CheckFlags {
  std::string config;
  std::string context;
  bool permissions = false;
};

/// What the server may do, as docs/kubernetes.md has it.
int show_permissions(const Program& program) {
  json::array all;
  Table table({{"WHERE"}, {"WHAT"}, {"VERBS"}, {"ELSE", true}});
  for (const kubernetes::Permission& one : kubernetes::needed_permissions()) {
    std::string where(kubernetes::place_of(one.where));
    const std::string what = kubernetes::resource_name(one.type);
    all.push_back(json::object{{"where", where},
                               {"resource", what},
                               {"verbs", json::array(one.verbs.begin(), one.verbs.end())},
                               {"only_with", one.with_taint ? "out_of_service_taint" : ""},
                               {"why", one.why}});
    if (one.with_taint) {
      where += ", with out_of_service_taint";
    }
    table.add({where, what, fmt::format("{}", fmt::join(one.verbs, ", ")), one.why});
  }
  if (program.globals.json()) {
    print_json(json::object{{"permissions", std::move(all)}});
  } else {
    table.print();
  }
  return kOk;
}

/// The engine of the context, as the configuration has it, or with defaults.
void only_context(config::Config& config, const std::string& context) {
  config.local.reset();
  auto& clusters = config.kubernetes;
  const auto is_it = [&](const config::Kubernetes& one) {
    return one.context == context || one.name == context;
  };
  const auto found = std::find_if(clusters.begin(), clusters.end(), is_it);
  config::Kubernetes one;
  if (found != clusters.end()) {
    one = *found;
  } else {
    one.name = context;
    one.context = context;
    one.hot_tier = config.hot_tier;
  }
  clusters = {std::move(one)};
}

Result<json::object> look_from_here(const Program& program, const CheckFlags& flags) {
  const config::Source source = config::find_source(flags.config, data_dir_of(program.globals));
  config::Loaded loaded = config::load(source);
  if (!loaded.ok()) {
    print_faults(loaded, source);
    return error(ErrorCode::kInvalid, fmt::format("{} has faults", source.path.string()));
  }
  config::Config& config = loaded.config;
  if (!flags.context.empty()) {
    only_context(config, flags.context);
  }
  for (config::Kubernetes& cluster : config.kubernetes) {
    if (cluster.image.empty() && !flags.context.empty()) {
      cluster.image = "quad";  // none is needed to look around
    }
  }
  server::EngineContext context;
  context.data_dir = data_dir_of(program.globals);
  context.hot = config.hot_tier.host_path.empty() ? (context.data_dir / "hot").string()
                                                  : config.hot_tier.host_path;
  context.server_id = "00000000";
  context.url = config.url;
  const SystemClock clock;
  return server::check_view(server::check_engines(config, context, clock));
}

int check(Program& program, const CheckFlags& flags) {
  if (flags.permissions) {
    return show_permissions(program);
  }
  Result<json::object> answer = json::object();
  if (!flags.config.empty() || !flags.context.empty()) {
    answer = look_from_here(program, flags);
  } else {
    auto client = Client::connect(program.globals);
    answer = client.ok() ? client->get_list("/v1/check", "engines")
                         : Result<json::object>(client.error());
  }
  if (!answer.ok()) {
    return fail(answer.error());
  }
  const bool ok = get_bool(*answer, "ok");
  if (program.globals.json()) {
    print_json(*answer);
    return ok ? kOk : kFailed;
  }
  const json::array* engines = get_array(*answer, "engines");
  for (std::size_t i = 0; engines != nullptr && i < engines->size(); ++i) {
    const json::object& report = object_of((*engines)[i]);
    print("{}{} ({})\n", i == 0 ? "" : "\n", get_string(report, "engine"),
          get_string(report, "what"));
    const json::array* lines = get_array(report, "lines");
    for (std::size_t j = 0; lines != nullptr && j < lines->size(); ++j) {
      const json::object& line = object_of((*lines)[j]);
      const std::string_view level = get_string(line, "level");
      print("  {:<8} {:<13} {}\n", level, get_string(line, "topic"), get_string(line, "text"));
      if (const std::string_view fix = get_string(line, "fix"); !fix.empty() && level != "ok") {
        print("{:25}{}\n", "", fix);
      }
    }
  }
  return ok ? kOk : kFailed;
}

}  // namespace

void add_check(CLI::App& app, Program& program) {
  CLI::App* verb =
      add_verb(app, program, "check", "What the machines have and lack for jobs, with the fixes");
  auto flags = std::make_shared<CheckFlags>();
  verb->add_option("--config", flags->config,
                   "Ask no server; look from here, as this configuration says");
  verb->add_option("--context", flags->context,
                   "Ask no server; look from here at this context of the kubeconfig");
  verb->add_flag("--permissions", flags->permissions,
                 "What a server may do in a cluster, and no more");
  verb->callback(
      [&program, flags] { program.chosen = [&program, flags] { return check(program, *flags); }; });
}

}  // namespace quad::cli
