#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/entrypoint.h"
#include "cli/follow.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/session.h"
#include "cli/task_input.h"
#include "cli/terminal.h"
#include "cli/uploads.h"
#include "spec/parse.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

/// The command line over the file: for spec here, and as JSON for spec in the server.
struct Given {
  spec::Overrides overrides;
  json::object json;

  void text(std::string_view key, const std::string& value, std::optional<std::string>& slot) {
    if (!value.empty()) {
      json[key] = value;
      slot = value;
    }
  }
  void pairs(std::string_view key, std::vector<spec::NamedValue> values,
             std::vector<spec::NamedValue>& slot) {
    json::array array;
    for (const auto& [name, value] : values) {
      array.push_back(json::array{name, value});
    }
    if (!array.empty()) {
      json[key] = std::move(array);
    }
    slot = std::move(values);
  }
};

/// --infra, or what --cloud, --region and --zone come to.
Result<std::string> infra_of(const LaunchOptions& options) {
  if (options.cloud.empty() && options.region.empty() && options.zone.empty()) {
    return options.infra;
  }
  if (!options.infra.empty()) {
    return error(ErrorCode::kInvalid, "Give either --infra, or --cloud, --region and --zone");
  }
  const auto or_any = [](const std::string& text) {
    return text.empty() ? std::string("*") : text;
  };
  std::string infra = or_any(options.cloud);
  if (!options.region.empty() || !options.zone.empty()) {
    infra += "/" + or_any(options.region);
  }
  return options.zone.empty() ? infra : infra + "/" + options.zone;
}

/// --config KEY.KEY=VALUE, or a file that holds what would stand under config:.
Result<std::vector<spec::NamedValue>> configs_of(const LaunchOptions& options) {
  std::vector<spec::NamedValue> configs;
  for (const std::string& text : options.configs) {
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos && equals > 0) {
      configs.emplace_back(text.substr(0, equals), text.substr(equals + 1));
      continue;
    }
    auto file = read_task_text(text);
    if (!file.ok()) {
      return error(ErrorCode::kInvalid,
                   fmt::format("--config takes KEY.KEY=VALUE or a file: {}", file.error().message));
    }
    configs.emplace_back("", std::move(*file));
  }
  return configs;
}

Result<Given> read_given(const LaunchOptions& options) {
  Given given;
  spec::Overrides& over = given.overrides;
  QUAD_ASSIGN(const std::string infra, infra_of(options));
  if (!options.workdir.empty() && (!options.git_url.empty() || !options.git_ref.empty())) {
    return error(ErrorCode::kInvalid, "Give either --workdir, or --git-url and --git-ref");
  }
  given.text("name", options.name, over.name);
  given.text("gpus", options.gpus, over.gpus);
  given.text("cpus", options.cpus, over.cpus);
  given.text("memory", options.memory, over.memory);
  given.text("workdir", options.workdir, over.workdir);
  given.text("git_url", options.git_url, over.git_url);
  given.text("git_ref", options.git_ref, over.git_ref);
  given.text("infra", infra, over.infra);
  given.text("image_id", options.image_id, over.image_id);
  given.text("disk_size", options.disk_size, over.disk_size);
  given.text("instance_type", options.instance_type, over.instance_type);
  given.text("disk_tier", options.disk_tier, over.disk_tier);
  given.text("network_tier", options.network_tier, over.network_tier);
  given.text("local_disk", options.local_disk, over.local_disk);
  if (options.num_nodes > 0) {
    given.json["num_nodes"] = options.num_nodes;
    over.num_nodes = options.num_nodes;
  }
  if (options.priority) {
    given.json["priority"] = *options.priority;
    over.priority = options.priority;
  }
  if (options.use_spot) {
    given.json["use_spot"] = *options.use_spot;
    over.use_spot = options.use_spot;
  }
  if (!options.ports.empty()) {
    given.json["ports"] = json::array(options.ports.begin(), options.ports.end());
    over.ports = options.ports;
  }
  QUAD_ASSIGN(auto envs, read_pairs(options.env_files, "--env-file", options.envs, "--env"));
  QUAD_ASSIGN(auto secrets,
              read_pairs(options.secret_files, "--secret-file", options.secrets, "--secret"));
  QUAD_ASSIGN(auto configs, configs_of(options));
  given.pairs("envs", std::move(envs), over.envs);
  given.pairs("secrets", std::move(secrets), over.secrets);
  given.pairs("config", std::move(configs), over.config);
  return given;
}

std::vector<spec::Diagnostic> problems_of(const json::object& answer, std::string_view member) {
  std::vector<spec::Diagnostic> problems;
  if (const auto* array = get_array(answer, member)) {
    for (const json::value& value : *array) {
      if (const auto* one = value.if_object()) {
        problems.push_back({.message = std::string(get_string(*one, "message")),
                            .key = std::string(get_string(*one, "key")),
                            .hint = std::string(get_string(*one, "hint")),
                            .line = static_cast<int>(get_int(*one, "line")),
                            .column = static_cast<int>(get_int(*one, "column"))});
      }
    }
  }
  return problems;
}

/// Where a command would find what it names.
WorkFolder work_folder_of(const LaunchOptions& options) {
  if (!options.workdir.empty()) {
    return {WorkFolder::Kind::kLocal, local_path(options.workdir)};
  }
  const bool elsewhere = !options.git_url.empty() || !options.cluster.empty();
  return {elsewhere ? WorkFolder::Kind::kUnknown : WorkFolder::Kind::kNone, {}};
}

void tell(const Uploads& uploads) {
  for (const std::string& line : uploads.lines()) {
    complain("{}\n", line);
  }
}

/// Submits. The client's key makes it one job however often it is sent: a server that goes away in
/// the middle is asked again.
Result<json::object> submit(const Globals& globals, Client& client, const json::object& body,
                            json::object& refused) {
  auto answer = client.post("/v1/jobs", body, &refused);
  for (int tries = 0; tries < 3 && !answer.ok() && refused.empty() &&
                      answer.error().code == ErrorCode::kUnavailable;
       ++tries) {
    QUAD_ASSIGN(client, Client::connect(globals));
    answer = client.post("/v1/jobs", body, &refused);
  }
  return answer;
}

std::string shape_text(const json::object& shape) {
  std::string text;
  if (const std::int64_t gpus = get_int(shape, "gpus"); gpus > 0) {
    text = fmt::format("{} {}, ", gpus, get_string(shape, "gpu_model", "GPUs"));
  }
  return text + fmt::format("{:g} CPUs and {:.1f} GB of memory", get_double(shape, "cpu") / 1000,
                            get_double(shape, "memory") / 1e9);
}

/// The plan of one task, for people.
void print_plan(const json::object& request, const json::object& plan) {
  const std::int64_t ranks = get_int(request, "ranks", 1);
  print("Job '{}' on {}{}:\n", get_string(request, "name"), counted(ranks, "node"),
        ranks == 1 ? "" : ", all at once");
  const json::array& shapes = list_of(request, "shapes");
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    print("  {}{}{}\n", i == 0 ? "" : "or ", shape_text(object_of(shapes[i])),
          ranks == 1 ? "" : " on each");
  }
  if (const std::int64_t restarts = get_int(request, "max_restarts_on_errors"); restarts > 0) {
    print("  started again up to {} after an error of its own\n", counted(restarts, "time"));
  }
  if (const auto* nodes = get_array(plan, "nodes"); nodes != nullptr && !nodes->empty()) {
    std::vector<std::string_view> names;
    for (const json::value& node : *nodes) {
      if (std::find(names.begin(), names.end(), string_of(node)) == names.end()) {
        names.emplace_back(string_of(node));
      }
    }
    print("It would start at once on {}.\n", join_words(names));
  } else if (const auto* why = get_object(plan, "why")) {
    print("It would wait. {}\n", get_string(*why, "message"));
    if (const std::int64_t ahead = get_int(*why, "ahead"); ahead > 0) {
      print("{} ahead of it in the queue.\n",
            ahead == 1 ? std::string("1 job would be") : fmt::format("{} jobs would be", ahead));
    }
    print("Of all nodes, so many are left after each condition:\n");
    for (const json::value& step : list_of(*why, "funnel")) {
      print("  {:>6}  {}\n", get_int(object_of(step), "nodes"),
            get_string(object_of(step), "condition"));
    }
  }
}

void print_dryrun(const json::object& answer, const Entry& entry, const Uploads& uploads) {
  print("{}\n", entry.file.empty() ? fmt::format("Read as a command: {}", entry.text)
                                   : fmt::format("Read as a task file: {}", entry.file));
  for (const std::string& line : uploads.lines()) {
    print("{}\n", line);
  }
  const json::array& requests = list_of(answer, "requests");
  const json::array& plans = list_of(answer, "plans");
  for (std::size_t i = 0; i < requests.size() && i < plans.size(); ++i) {
    print_plan(object_of(requests[i]), object_of(plans[i]));
  }
  print("Nothing was submitted.\n");
}

int show_submitted(Program& program, Client& client, const LaunchOptions& options,
                   const json::object& answer) {
  json::array jobs = list_of(answer, "jobs");
  const std::int64_t id = jobs.empty() ? 0 : get_int(object_of(jobs.front()), "id");
  if (id < 1) {
    return fail(error(ErrorCode::kInternal, not_as_promised("jobs")));
  }
  const bool as_json = program.globals.json();
  if (!as_json) {
    complain("Job {} submitted.\n", id);
  }
  LogOptions log;
  log.job = id;
  log.follow = true;
  log.quiet = as_json;  // one object is promised, and nothing beside it
  int code = kOk;
  if (!options.detach) {
    json::object last;
    code = show_log(program.globals, client, log, &last);
    if (as_json && !last.empty()) {
      json::object& job = jobs.front().get_object();
      job["status"] = get_string(last, "status");
      job["message"] = get_string(last, "message");
      job["exit_code"] = last["exit_code"];
    }
  }
  if (as_json) {
    print_json(json::object{{"job", id},
                            {"jobs", std::move(jobs)},
                            {"uploads", list_of(answer, "uploads")},
                            {"warnings", list_of(answer, "warnings")}});
  } else if (options.detach) {
    print("quad logs -f {}   # to see its output\n", id);
  }
  return code;
}

void add_place_options(CLI::App& verb, LaunchOptions& options) {
  verb.add_option("--gpus", options.gpus, "GPUs of each node, such as H100:8");
  verb.add_option("--cpus", options.cpus, "CPUs of each node, such as 4 or 4+");
  verb.add_option("--memory", options.memory, "Memory of each node in GB, such as 32 or 32+");
  verb.add_option("--num-nodes", options.num_nodes, "How many nodes")
      ->check(CLI::Range(1, 100'000));
  verb.add_option("--infra", options.infra, "Where: k8s/CONTEXT, aws/REGION/ZONE, …");
  verb.add_option("--cloud", options.cloud, "The first part of --infra");
  verb.add_option("--region", options.region, "Its second part");
  verb.add_option("--zone", options.zone, "Its third part");
  verb.add_option("-t,--instance-type", options.instance_type, "A cloud's instance type");
  verb.add_option("--image-id", options.image_id, "The image, such as docker:ubuntu:22.04");
  verb.add_option("--disk-size", options.disk_size, "Disk of each node in GB");
  verb.add_option("--disk-tier", options.disk_tier, "low, medium, high, ultra or best");
  verb.add_option("--network-tier", options.network_tier, "standard or best");
  verb.add_option("--local-disk", options.local_disk, "Local disks, such as nvme:100+");
  verb.add_option("--ports", options.ports, "A port or a range to open, such as 8080 or 9000-9010")
      ->allow_extra_args(false);
  verb.add_flag_callback(
      "--use-spot", [&options] { options.use_spot = true; }, "On nodes that may be reclaimed");
  verb.add_flag_callback(
      "--no-use-spot", [&options] { options.use_spot = false; }, "On nodes that are not");
  verb.add_option("--priority", options.priority, "-1000 to 1000, higher first")
      ->check(CLI::Range(-1000, 1000));
}

/// The idle time in whole minutes: "10", "10m", "2h", "1d", "1w".
Result<std::int64_t> minutes_of(const std::string& text) {
  std::int64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const std::int64_t factor = unit.empty() || unit == "m" ? 1
                              : unit == "h"               ? 60
                              : unit == "d"               ? 24 * 60
                              : unit == "w"               ? 7 * 24 * 60
                                                          : 0;
  if (failure != std::errc() || number < 0 || number > 1'000'000 || factor == 0) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("'{}' is no idle time: give minutes, or 10m, 2h, 1d", printable(text)));
  }
  return number * factor;
}

/// What is about the cluster.
Status put_cluster(const LaunchOptions& options, json::object& body) {
  if (options.cluster.empty()) {
    if (!options.idle_minutes.empty() || !options.wait_for.empty()) {
      return error(ErrorCode::kInvalid, "-i and --wait-for are about a cluster; name it with -c");
    }
    return {};
  }
  body["cluster"] = options.cluster;
  body["exec"] = options.exec;
  if (options.idle_minutes.empty() && !options.down) {
    return options.wait_for.empty()
               ? Status()
               : Status(error(ErrorCode::kInvalid, "--wait-for needs the idle time, -i"));
  }
  QUAD_ASSIGN(body["autostop"],
              autostop_body(options.idle_minutes, options.down, options.wait_for));
  return {};
}

}  // namespace

Result<json::value> autostop_body(const std::string& idle, bool down, const std::string& wait_for) {
  // --down alone: as soon as nothing runs there.
  QUAD_ASSIGN(const std::int64_t minutes, minutes_of(idle.empty() ? "0" : idle));
  json::object autostop{{"idle_minutes", minutes}, {"down", down}};
  if (!wait_for.empty()) {
    autostop["wait_for"] = wait_for;
  }
  return json::value(std::move(autostop));
}

int launch(Program& program, const LaunchOptions& options) {
  auto given = read_given(options);
  if (!given.ok()) {
    return fail(given.error());
  }
  const auto entry = read_entry({options.entrypoint, program.command}, work_folder_of(options));
  if (!entry.ok()) {
    return fail(entry.error());
  }
  const bool is_command = entry->file.empty();
  const spec::TaskSet set = is_command ? spec::from_command(entry->text, given->overrides)
                                       : spec::parse(entry->text, given->overrides);
  if (!set.ok()) {
    print_problems(set.errors, "error", entry->file);
    return kUsage;
  }
  Uploads uploads(set, options.exec);
  if (const auto faults = uploads.faults(); !faults.empty()) {
    print_problems(faults, "error", entry->file);
    return kUsage;
  }
  json::object body;
  if (const Status put = put_cluster(options, body); !put.ok()) {
    return fail(put.error());
  }
  body[is_command ? "command" : "yaml"] = entry->text;
  body["overrides"] = std::move(given->json);
  body["dryrun"] = options.dryrun;
  body["client_key"] = options.client_key.empty() ? random_hex(12) : options.client_key;

  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  if (const Status looked = uploads.survey(); !looked.ok()) {
    return fail(looked.error());
  }
  std::vector<spec::Diagnostic> doubts = uploads.warnings();
  if (!entry->warning.empty()) {
    doubts.push_back({.message = entry->warning});
  }
  const bool as_json = program.globals.json();
  if (!as_json) {
    print_problems(doubts, "warning", entry->file);
  }
  if (!options.dryrun) {
    if (!as_json) {
      tell(uploads);
    }
    const auto sent = uploads.send(*client, body);
    if (!sent.ok()) {
      return fail(sent.error());
    }
    if (!as_json) {
      print_problems(*sent, "warning", entry->file);
    }
    doubts.insert(doubts.end(), sent->begin(), sent->end());
  }
  json::object refused;
  auto answer = submit(program.globals, *client, body, refused);
  if (!answer.ok()) {
    const auto problems = problems_of(refused, "errors");
    if (problems.empty()) {
      return tell_refused(answer.error());
    }
    print_problems(problems, "error", entry->file);
    print_problems(problems_of(refused, "warnings"), "warning", entry->file);
    return kUsage;
  }
  if (as_json) {
    json::array warnings = list_of(*answer, "warnings");
    for (json::value& doubt : to_json(doubts)) {
      warnings.push_back(std::move(doubt));
    }
    (*answer)["warnings"] = std::move(warnings);
    (*answer)["uploads"] = uploads.to_json();
  } else {
    print_problems(problems_of(*answer, "warnings"), "warning", entry->file);
  }
  if (!options.dryrun) {
    return show_submitted(program, *client, options, *answer);
  }
  if (as_json) {
    print_json(*answer);
  } else {
    print_dryrun(*answer, *entry, uploads);
  }
  return kOk;
}

void add_launch(CLI::App& app, Program& program) {
  auto options = std::make_shared<LaunchOptions>();
  CLI::App* verb = add_verb(app, program, "launch", "Run a task file, or a command, as a job");
  program.command_verbs.push_back(verb);
  verb->add_option("entrypoint", options->entrypoint,
                   "A task file (- is standard input), or a command: -- python x.py --lr 1");
  verb->add_option("-c,--cluster", options->cluster,
                   "Run it on this cluster, which is made, or started, if it is not there");
  add_task_options(*verb, *options);
  verb->add_option("-i,--idle-minutes-to-autostop", options->idle_minutes,
                   "Stop the cluster when it has been idle for so long: 10, 2h");
  verb->add_flag("--down", options->down, "Take it down then, or as soon as nothing runs there");
  verb->add_option("--wait-for", options->wait_for, "What keeps it: jobs_and_ssh, jobs or none")
      ->check(CLI::IsMember({"jobs_and_ssh", "jobs", "none"}));
  verb->add_flag("-r,--retry-until-up", options->ignored, "A job waits for its place anyway");
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return launch(program, *options); };
  });
}

void add_task_options(CLI::App& app, LaunchOptions& task) {
  CLI::App* verb = &app;
  LaunchOptions* options = &task;
  verb->add_option("-n,--name", options->name, "The job's name");
  add_place_options(app, task);
  verb->add_option("--workdir", options->workdir, "The folder that becomes ~/sky_workdir");
  verb->add_option("--git-url", options->git_url, "A git repository that becomes ~/sky_workdir");
  verb->add_option("--git-ref", options->git_ref, "A branch, tag or commit of it");
  verb->add_option("--env", options->envs, "NAME=VALUE, or NAME for this shell's value")
      ->allow_extra_args(false);
  verb->add_option("--env-file", options->env_files, "A dotenv file")->allow_extra_args(false);
  verb->add_option("--secret", options->secrets, "As --env, never shown again")
      ->allow_extra_args(false);
  verb->add_option("--secret-file", options->secret_files, "A dotenv file of secrets")
      ->allow_extra_args(false);
  verb->add_option("--config", options->configs, "KEY.KEY=VALUE under config:, or a file of that")
      ->allow_extra_args(false);
  verb->add_option("--client-key", options->client_key, "The same key again is the same job");
  verb->add_flag("-d,--detach-run,--detach,--async", options->detach,
                 "Do not wait for the job's end");
  verb->add_flag("--dryrun", options->dryrun, "Show what would happen, and submit nothing");
  verb->add_flag("-y,--yes", options->ignored, "Nothing is asked anyway");
}

}  // namespace quad::cli
