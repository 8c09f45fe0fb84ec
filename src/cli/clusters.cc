// Clusters on the command line: exec, stop, start, down, autostop, and how they are shown.

#include "cli/clusters.h"
#include "base/text.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/answer.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "net/message.h"

namespace quad::cli {

namespace {

struct ChangeOptions {
  std::vector<std::string> names;
  bool all = false;
  bool ignored = false;
  std::string idle, wait_for;
  bool down = false;
  bool cancel = false;
};

bool is_number(const std::string& word) {
  return !word.empty() && std::all_of(word.begin(), word.end(),
                                      [](unsigned char c) { return c >= '0' && c <= '9'; });
}

std::string target_of(const std::string& name, const char* verb = nullptr) {
  return fmt::format("/v1/clusters/{}{}{}", net::percent_encode(name), verb == nullptr ? "" : "/",
                     verb == nullptr ? "" : verb);
}

std::string autostop_text(const json::object& cluster) {
  const json::object* autostop = get_object(cluster, "autostop");
  if (autostop == nullptr) {
    return "-";
  }
  return fmt::format("{}m{}", get_int(*autostop, "idle_minutes"),
                     get_bool(*autostop, "down") ? " (down)" : "");
}

/// Those named, or with --all my own.
Result<std::vector<std::string>> names_meant(Client& client, const ChangeOptions& options,
                                             const char* verb) {
  if (options.names.empty() == !options.all) {
    return error(ErrorCode::kInvalid,
                 fmt::format("Name the clusters: quad {} NAME, or --all for your own", verb));
  }
  if (!options.all) {
    return options.names;
  }
  QUAD_ASSIGN(const json::object answer, client.get_list("/v1/clusters?owner=me", "clusters"));
  std::vector<std::string> names;
  for (const json::value& cluster : list_of(answer, "clusters")) {
    names.emplace_back(get_string(object_of(cluster), "name"));
  }
  return names;
}

void say_changed(const json::object& cluster, const std::string& verb) {
  const std::string_view name = get_string(cluster, "name");
  const std::string_view status = get_string(cluster, "status");
  if (status == "GONE") {
    print("Cluster {} is gone.\n", name);
  } else if (verb == "autostop") {
    const json::object* autostop = get_object(cluster, "autostop");
    if (autostop == nullptr) {
      print("Cluster {} stays up until it is stopped.\n", name);
    } else {
      print("Cluster {} will be {} when it has been idle for {} min.\n", name,
            get_bool(*autostop, "down") ? "taken down" : "stopped",
            get_int(*autostop, "idle_minutes"));
    }
  } else {
    print("Cluster {} is {}. {}\n", name, coloured(status), get_string(cluster, "message"));
  }
}

int change(Program& program, const ChangeOptions& options, const std::string& verb) {
  json::object body;
  if (verb == "autostop") {
    if (options.cancel == !options.idle.empty()) {
      return fail(error(ErrorCode::kInvalid,
                        "Give the idle time, -i MINUTES, or --cancel for a cluster that is to "
                        "stay up"));
    }
    if (options.cancel) {
      body["cancel"] = true;
    } else {
      const auto autostop = autostop_body(options.idle, options.down, options.wait_for);
      if (!autostop.ok()) {
        return fail(autostop.error());
      }
      body = autostop->as_object();
    }
  }
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto names = names_meant(*client, options, verb.c_str());
  if (!names.ok()) {
    return fail(names.error());
  }
  json::array changed;
  int code = kOk;
  for (const std::string& name : *names) {
    const auto answer = client->post(target_of(name, verb.c_str()), body);
    if (!answer.ok()) {
      code = tell_refused(answer.error());
      continue;
    }
    changed.push_back(*answer);
    if (!program.globals.json()) {
      say_changed(*answer, verb);
    }
  }
  if (program.globals.json()) {
    print_json(json::object{{"clusters", std::move(changed)}});
  } else if (names->empty()) {
    print("You have no clusters.\n");
  }
  return code;
}

CLI::App* add_change(CLI::App& app, Program& program, const char* name, const char* help) {
  auto options = std::make_shared<ChangeOptions>();
  CLI::App* verb = add_verb(app, program, name, help);
  verb->add_option("clusters", options->names, "Their names");
  verb->add_flag("-a,--all", options->all, "All of mine");
  verb->add_flag("-y,--yes", options->ignored, "Nothing is asked anyway");
  if (std::string_view(name) == "autostop") {
    verb->add_option("-i,--idle-minutes", options->idle,
                     "When it has been idle for so long: 10, 2h");
    verb->add_flag("--down", options->down, "Take it down then, rather than stop it");
    verb->add_flag("--cancel", options->cancel, "It stays up until it is stopped");
    verb->add_option("--wait-for", options->wait_for, "What keeps it: jobs_and_ssh, jobs or none")
        ->check(CLI::IsMember({"jobs_and_ssh", "jobs", "none"}));
  }
  verb->callback([&program, options, word = std::string(name)] {
    program.chosen = [&program, options, word] { return change(program, *options, word); };
  });
  return verb;
}

void add_exec(CLI::App& app, Program& program) {
  auto options = std::make_shared<LaunchOptions>();
  options->exec = true;
  CLI::App* verb =
      add_verb(app, program, "exec", "Run a task file, or a command, on a cluster that is up");
  program.command_verbs.push_back(verb);
  verb->add_option("cluster", options->cluster, "The cluster's name")->required();
  verb->add_option("entrypoint", options->entrypoint,
                   "A task file, of which run is run, or a command: -- python x.py --lr 1");
  add_task_options(*verb, *options);
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return launch(program, *options); };
  });
}

void print_fact(std::string_view what, const std::string& value) {
  if (!value.empty()) {
    print("  {:<12}{}\n", what, value);
  }
}

}  // namespace

Result<JobWords> read_job_words(const std::vector<std::string>& words) {
  JobWords read;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i == 0 && !is_number(words[0])) {
      read.cluster = words[0];
      continue;
    }
    const auto id = parse_number(words[i]);
    if (!id || *id < 1) {
      return error(ErrorCode::kInvalid, fmt::format("'{}' is not {}", words[i], kJobNumber));
    }
    read.jobs.push_back(*id);
  }
  return read;
}

Result<json::object> cluster_named(Client& client, const std::string& name) {
  auto cluster = client.get(target_of(name));
  if (!cluster.ok() && cluster.error().code == ErrorCode::kNotFound) {
    return error(
        ErrorCode::kNotFound,
        fmt::format("'{}' is not {}, and there is no cluster of that name", name, kJobNumber));
  }
  return cluster;
}

Result<std::int64_t> job_named(Client& client, const std::string& word) {
  QUAD_ASSIGN(const JobWords words, read_job_words({word}));
  if (words.cluster.empty()) {
    return words.jobs.front();
  }
  QUAD_ASSIGN(const json::object cluster, cluster_named(client, word));
  return get_int(cluster, "job");
}

Status check_jobs_of(Client& client, const JobWords& words) {
  if (words.cluster.empty()) {
    return {};
  }
  QUAD_TRY(cluster_named(client, words.cluster));
  for (const std::int64_t id : words.jobs) {
    QUAD_ASSIGN(const json::object job, client.get(fmt::format("/v1/jobs/{}", id)));
    if (get_string(job, "cluster") != words.cluster) {
      return error(ErrorCode::kInvalid,
                   fmt::format("Job {} is not on cluster {}", id, words.cluster));
    }
  }
  return {};
}

void print_clusters(const json::array& clusters) {
  Table table({{"CLUSTER", true},
               {"USER", true, true},
               {"RESOURCES", true},
               {"STATUS"},
               {"AUTOSTOP"},
               {"LAUNCHED"}});
  for (const json::value& value : clusters) {
    const json::object& cluster = object_of(value);
    table.add({get_string(cluster, "name"), get_string(cluster, "owner"),
               get_string(cluster, "resources"), coloured(get_string(cluster, "status")),
               autostop_text(cluster), ago(get_string(cluster, "launched_at"))});
  }
  if (!table.empty()) {
    table.print();
    print("\n");
  }
}

int show_cluster(Program& program, const std::string& name) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto cluster = cluster_named(*client, name);
  if (!cluster.ok()) {
    return fail(cluster.error());
  }
  if (program.globals.json()) {
    print_json(json::object{{"clusters", json::array{*cluster}}});
    return kOk;
  }
  print("Cluster {} {}. {}\n", name, coloured(get_string(*cluster, "status")),
        get_string(*cluster, "message"));
  print_fact("User", std::string(get_string(*cluster, "owner")));
  print_fact("Resources", std::string(get_string(*cluster, "resources")));
  std::string nodes;
  for (const json::value& node : list_of(*cluster, "nodes")) {
    nodes += (nodes.empty() ? "" : ", ") + std::string(string_of(node));
  }
  print_fact("Nodes", nodes);
  print_fact("Autostop", autostop_text(*cluster));
  print_fact("Launched", ago(get_string(*cluster, "launched_at")));
  if (const std::int64_t recoveries = get_int(*cluster, "recoveries"); recoveries > 0) {
    print_fact("Recoveries", std::to_string(recoveries));
  }
  print("  Its jobs: quad queue {}    What happened: quad story {}\n", name,
        get_int(*cluster, "job"));
  return kOk;
}

bool execs_on_cluster(const std::vector<std::string>& words) {
  auto word = std::find(words.begin(), words.end(), "exec");
  if (word == words.end()) {
    return false;
  }
  bool after_flag = false;  // then it may be the flag's value
  for (++word; word != words.end() && *word != "--"; ++word) {
    const bool flag = word->starts_with('-');
    if (!flag && !after_flag) {
      return !is_number(*word);
    }
    after_flag = flag && word->find('=') == std::string::npos;
  }
  return false;
}

void add_cluster_commands(CLI::App& app, Program& program) {
  if (program.exec_on_cluster) {
    add_exec(app, program);
  }
  add_change(app, program, "stop", "Free a cluster's nodes; its name and settings stay");
  add_change(app, program, "start", "Give a stopped cluster nodes again");
  add_change(app, program, "down", "Free a cluster's nodes, and forget it");
  add_change(app, program, "autostop", "When a cluster ends by itself");
}

}  // namespace quad::cli
