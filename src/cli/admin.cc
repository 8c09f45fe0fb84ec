#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/text.h"
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/server_flags.h"
#include "cli/task_input.h"
#include "server/server.h"

namespace quad::cli {

namespace {

std::string text_of(const json::object& object, std::string_view key) {
  return std::string(get_string(object, key));
}

Result<json::object> call(Program& program, bool post, const std::string& target,
                          const json::object& body = {}) {
  QUAD_ASSIGN(Client client, Client::connect(program.globals));
  return post ? client.post(target, body) : client.get(target);
}

Result<json::object> get_list(Program& program, const std::string& target, std::string_view key) {
  QUAD_ASSIGN(Client client, Client::connect(program.globals));
  return client.get_list(target, key);
}

int list_nodes(Program& program) {
  const auto answer = get_list(program, "/v1/nodes", "nodes");
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json()) {
    print_json(*answer);
    return kOk;
  }
  Table table({{"NODE"},
               {"HEALTH"},
               {"GPUS FREE"},
               {"CPUS FREE"},
               {"GIB FREE"},
               {"JOBS", true},
               {"NOTE", true}});
  for (const json::value& value : list_of(*answer, "nodes")) {
    const json::object& node = object_of(value);
    std::string jobs;
    for (const json::value& job : list_of(node, "jobs")) {
      jobs += (jobs.empty() ? "" : " ") + to_text(job);
    }
    constexpr double kGiB = 1024.0 * 1024 * 1024;
    table.add({text_of(node, "name"),
               safe_text("{}{}", coloured(get_string(node, "health")),
                         get_bool(node, "drained") ? ", drained" : ""),
               get_int(node, "gpus") == 0
                   ? "-"
                   : fmt::format("{} of {} {}", get_int(node, "gpus_free"), get_int(node, "gpus"),
                                 get_string(node, "gpu_model")),
               fmt::format("{:g} of {:g}", get_double(node, "cpus_free"), get_double(node, "cpus")),
               fmt::format("{:.1f} of {:.1f}", get_double(node, "memory_free_bytes") / kGiB,
                           get_double(node, "memory_bytes") / kGiB),
               jobs.empty() ? "-" : jobs,
               text_of(node, "reason") +
                   (get_bool(node, "pretend")
                        ? (get_string(node, "reason").empty() ? "pretend" : "; pretend")
                        : "")});
  }
  table.print();
  return kOk;
}

int act_on_node(Program& program, const std::string& name, const std::string& verb) {
  const auto answer =
      call(program, true, fmt::format("/v1/nodes/{}/{}", net::percent_encode(name), verb));
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json()) {
    print_json(*answer);
  } else {
    const std::string_view done = verb == "fail"     ? "is powered off"
                                  : verb == "return" ? "is powered on again"
                                  : verb == "freeze" ? "is frozen"
                                  : verb == "thaw"   ? "goes on"
                                  : verb == "drain"  ? "starts nothing new; what runs there goes on"
                                                     : "takes work again";
    print("Node {} {}.\n", name, done);
  }
  return kOk;
}

int list_gpus(Program& program, const std::string& wanted) {
  // As SkyPilot: MODEL or MODEL:COUNT, for the models that have so many on one node.
  const std::size_t colon = wanted.find(':');
  const std::string model = wanted.substr(0, colon);
  const auto count = colon == std::string::npos ? std::optional<std::int64_t>(0)
                                                : parse_number(wanted.substr(colon + 1));
  if (!count) {
    return fail(
        error(ErrorCode::kInvalid,
              fmt::format("'{}' is neither a model nor MODEL:COUNT, such as H100:8", wanted)));
  }
  auto answer = get_list(program, "/v1/gpus", "gpus");
  if (!answer.ok()) {
    return fail(answer.error());
  }
  json::array kept;
  for (const json::value& value : list_of(*answer, "gpus")) {
    const json::object& gpu = object_of(value);
    if ((model.empty() || net::equal_ignoring_case(get_string(gpu, "gpu"), model)) &&
        get_int(gpu, "most_per_node") >= *count) {
      kept.push_back(gpu);
    }
  }
  (*answer)["gpus"] = kept;
  if (program.globals.json()) {
    print_json(*answer);
    return kOk;
  }
  Table table({{"GPU"}, {"FREE"}, {"TOTAL"}, {"MOST ON ONE NODE"}, {"NODES"}});
  for (const json::value& value : kept) {
    const json::object& gpu = object_of(value);
    table.add({text_of(gpu, "gpu"), std::to_string(get_int(gpu, "free")),
               std::to_string(get_int(gpu, "total")), std::to_string(get_int(gpu, "most_per_node")),
               std::to_string(get_int(gpu, "nodes"))});
  }
  if (table.empty()) {
    print("No node has {}.\n", wanted.empty() ? "GPUs" : wanted);
  } else {
    table.print();
  }
  return kOk;
}

int show(Program& program, const Result<json::object>& answer, const std::string& sentence) {
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json() || sentence.empty()) {
    print_json(*answer);
  } else {
    print("{}\n", sentence);
  }
  return kOk;
}

/// One object, or a sentence.
int say(Program& program, const json::object& object, const std::string& sentence) {
  if (program.globals.json()) {
    print_json(object);
  } else {
    print("{}\n", sentence);
  }
  return kOk;
}

int run_server(Program& program, const ServerFlags& flags, bool quiet, bool accept_lost) {
  const config::Source source = flags.source(program.globals);
  config::Loaded loaded = config::load(source, flags.given());
  if (!loaded.ok()) {
    // Whoever starts a server in the background tells of its last line alone.
    const std::size_t count = loaded.errors.size();
    const std::string first = line_of(loaded.errors.front(), "error", source.path.string());
    if (count > 1) {
      print_faults(loaded, source);
    }
    return fail(error(ErrorCode::kInvalid,
                      count == 1 ? fmt::format("The configuration cannot be used: {}", first)
                                 : fmt::format("The configuration has {} errors; the first is {}",
                                               count, first)));
  }
  print_faults(loaded, source);
  server::ServeOptions options;
  options.data_dir = data_dir_of(program.globals);
  std::error_code failure;
  options.runner =
      std::filesystem::read_symlink("/proc/self/exe", failure).parent_path() / "quad-runner";
  options.config = std::move(loaded.config);
  options.quiet = quiet;
  options.accept_lost_records = accept_lost;
  const Status status = server::serve(options);
  if (status.ok()) {
    return kOk;
  }
  const int code = fail(status.error());
  const bool refused = status.error().code == ErrorCode::kInvalid || code == kExists;
  return refused ? code : kUnreachable;  // no server can be started here, whatever the reason
}

int start_local(Program& program) {
  const bool ran = Client::connect(program.globals, false).ok();
  const auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  return say(program, {{"running", true}, {"started", !ran}},
             ran ? "The server runs already." : "The server has started.");
}

int stop_server(Program& program) {
  const auto data_dir = data_dir_of(program.globals);
  const auto endpoint = server::read_endpoint(data_dir);
  if (!endpoint.ok() || !Client::connect(program.globals, false).ok()) {
    return say(program, {{"running", false}, {"stopped", false}},
               fmt::format("No server runs on {}.", data_dir.string()));
  }
  if (::kill(endpoint->pid, SIGTERM) != 0) {
    return fail(errno_error("The server cannot be stopped", errno));
  }
  constexpr int kTries = 3000;
  for (int i = 0; i < kTries && ::kill(endpoint->pid, 0) == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (::kill(endpoint->pid, 0) == 0) {
    return fail(error(ErrorCode::kInternal,
                      fmt::format("The server (process {}) has not ended yet", endpoint->pid)));
  }
  return say(program, {{"running", false}, {"stopped", true}},
             "The server has stopped. Jobs run on; the next quad command starts it again, and it "
             "finds them.");
}

/// `status`: whether one runs, never starting one. `info`: which it is, and who I am there.
int show_server(Program& program, bool only_status) {
  auto client = Client::connect(program.globals, !only_status);
  if (!client.ok()) {
    if (only_status && program.globals.json() && client.error().code == ErrorCode::kUnavailable) {
      print_json(json::object{{"running", false}});
      return kUnreachable;
    }
    return fail(client.error());
  }
  auto info = client->get("/v1/info");
  if (!info.ok()) {
    return fail(info.error());
  }
  (*info)["running"] = true;
  if (program.globals.json()) {
    print_json(*info);
    return kOk;
  }
  Table table({{"Quad"}, {text_of(*info, "version")}});
  for (const auto& member : *info) {
    if (member.key() != "version" && member.key() != "running" && !member.value().is_object() &&
        !member.value().is_array()) {
      const json::value& value = member.value();
      table.add({std::string(member.key()),
                 value.is_string() ? std::string(value.get_string()) : to_text(value)});
    }
  }
  table.print();
  return kOk;
}

int check_store(Program& program) {
  const auto answer = call(program, true, "/v1/admin/check");
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json()) {
    print_json(*answer);
  } else if (get_bool(*answer, "ok")) {
    print("The store is sound.\n");
  } else {
    for (const json::value& fault : list_of(*answer, "faults")) {
      print("{}\n", string_of(fault));
    }
  }
  return get_bool(*answer, "ok") ? kOk : kFailed;
}

template <typename Run>
void on_chosen(CLI::App* verb, Program& program, Run run) {
  verb->callback([&program, run] { program.chosen = run; });
}

}  // namespace

void add_node_commands(CLI::App& app, Program& program) {
  CLI::App* node = app.add_subcommand("node", "Nodes, and what can be done to them");
  node->require_subcommand(1);
  on_chosen(add_verb(*node, program, "list", "The nodes"), program,
            [&program] { return list_nodes(program); });
  const std::vector<std::pair<const char*, const char*>> verbs = {
      {"fail", "Power a pretend node off: everything on it dies with no goodbye"},
      {"return", "Power it on again"},
      {"freeze", "Stop everything on it, and its lease, as a machine that hangs"},
      {"thaw", "Let it go on"},
      {"drain", "Start nothing new there"},
      {"resume", "Take work again"}};
  for (const auto& [verb_name, help] : verbs) {
    auto name = std::make_shared<std::string>();
    CLI::App* verb = add_verb(*node, program, verb_name, help);
    verb->add_option("node", *name, "The node's name")->required();
    on_chosen(verb, program, [&program, name, what = std::string(verb_name)] {
      return act_on_node(program, *name, what);
    });
  }
  CLI::App* gpus = app.add_subcommand("gpus", "GPUs");
  gpus->require_subcommand(1);
  auto wanted = std::make_shared<std::string>();
  CLI::App* list = add_verb(*gpus, program, "list", "Which GPUs there are, and how many are free");
  list->add_option("gpu", *wanted, "Only this model, or MODEL:COUNT");
  on_chosen(list, program, [&program, wanted] { return list_gpus(program, *wanted); });
}

void add_server_commands(CLI::App& app, Program& program) {
  CLI::App* serve = add_verb(app, program, "serve", "Run the server");
  auto flags = std::make_shared<ServerFlags>(*serve);
  auto quiet = std::make_shared<bool>(false);
  serve->add_flag("-q,--quiet", *quiet, "Only warnings and errors");
  auto accept_lost = std::make_shared<bool>(false);
  serve->add_flag("--accept-lost-records", *accept_lost,
                  "Start although records are missing or were put back from a backup; no job's "
                  "number is given out again");
  on_chosen(serve, program, [&program, flags, quiet, accept_lost] {
    return run_server(program, *flags, *quiet, *accept_lost);
  });

  CLI::App* api = app.add_subcommand("api", "The server of this user");
  api->require_subcommand(1);
  on_chosen(add_verb(*api, program, "start", "Start it in the background"), program,
            [&program] { return start_local(program); });
  on_chosen(add_verb(*api, program, "stop", "Stop it; jobs run on"), program,
            [&program] { return stop_server(program); });
  on_chosen(add_verb(*api, program, "status", "Whether it runs; starts none"), program,
            [&program] { return show_server(program, true); });
  on_chosen(add_verb(*api, program, "info", "Which server, and who I am there"), program,
            [&program] { return show_server(program, false); });

  CLI::App* token =
      app.add_subcommand("token", "Tokens, by which people and programs reach the server");
  token->require_subcommand(1);
  auto user = std::make_shared<std::string>();
  auto role = std::make_shared<std::string>("user");
  CLI::App* create = add_verb(*token, program, "create", "Make one; it is shown once");
  create->add_option("user", *user, "For whom")->required();
  create->add_option("--role", *role, "admin, user or viewer")
      ->check(CLI::IsMember({"admin", "user", "viewer"}));
  on_chosen(create, program, [&program, user, role] {
    const auto answer = call(program, true, "/v1/tokens", {{"user", *user}, {"role", *role}});
    return show(program, answer, answer.ok() ? text_of(*answer, "token") : "");
  });
  on_chosen(add_verb(*token, program, "list", "Who has one"), program, [&program] {
    const auto answer = get_list(program, "/v1/tokens", "tokens");
    if (!answer.ok() || program.globals.json()) {
      return show(program, answer, "");
    }
    Table table({{"ID"}, {"USER"}, {"ROLE"}, {"NAME"}, {"MADE"}});
    for (const json::value& value : list_of(*answer, "tokens")) {
      const json::object& one = object_of(value);
      table.add({text_of(one, "id"), text_of(one, "user"), text_of(one, "role"),
                 text_of(one, "name"), ago(get_string(one, "created_at"))});
    }
    table.print();
    return kOk;
  });
  auto id = std::make_shared<std::string>();
  CLI::App* revoke = add_verb(*token, program, "revoke", "Take one back");
  revoke->add_option("id", *id, "Its short id")->required();
  on_chosen(revoke, program, [&program, id] {
    auto client = Client::connect(program.globals);
    const auto answer = client.ok() ? client->remove("/v1/tokens/" + net::percent_encode(*id))
                                    : Result<json::object>(client.error());
    return show(program, answer, fmt::format("Token {} is void.", *id));
  });

  CLI::App* admin = app.add_subcommand("admin", "Care of the server's records");
  admin->require_subcommand(1);
  on_chosen(add_verb(*admin, program, "check", "Look for faults in the store"), program,
            [&program] { return check_store(program); });
  auto file = std::make_shared<std::string>();
  CLI::App* backup = add_verb(*admin, program, "backup", "Copy the store while it is in use");
  backup->add_option("file", *file, "Where to")->required();
  on_chosen(backup, program, [&program, file] {
    const std::string path = std::filesystem::absolute(*file).string();
    return show(program, call(program, true, "/v1/admin/backup", {{"file", path}}),
                fmt::format("Copied to {}.", path));
  });
}

}  // namespace quad::cli
