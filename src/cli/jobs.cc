#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/text.h"
#include "cli/answer.h"
#include "cli/clusters.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/output.h"
#include "cli/since.h"
#include "cli/terminal.h"
#include "net/message.h"

namespace quad::cli {

namespace {

struct ListOptions {
  std::vector<std::string> words;
  bool clusters = false;  ///< shown as well
  bool all_users = false;
  bool mine = false;
  bool active = false;
  bool all = false;
  bool ignored = false;
  std::string status, name;
  int limit = 50;
};

int list_jobs(Program& program, const ListOptions& options, const std::string& cluster) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  if (!cluster.empty()) {
    if (const auto known = cluster_named(*client, cluster); !known.ok()) {
      return fail(known.error());
    }
  }
  std::string target = fmt::format("/v1/jobs?limit={}", options.all ? 10'000 : options.limit);
  if (!options.status.empty()) {
    target += "&status=" + net::percent_encode(options.status);
  } else if (options.active) {
    target += "&status=active";
  }
  if (options.mine) {
    target += "&owner=me";
  }
  if (!options.name.empty()) {
    target += "&name=" + net::percent_encode(options.name);
  }
  if (!cluster.empty()) {
    target += "&cluster=" + net::percent_encode(cluster);
  }
  auto answer = client->get_list(target, "jobs");
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (options.clusters) {
    const auto clusters =
        client->get_list(options.mine ? "/v1/clusters?owner=me" : "/v1/clusters", "clusters");
    if (!clusters.ok()) {
      return fail(clusters.error());
    }
    (*answer)["clusters"] = list_of(*clusters, "clusters");
    if (!program.globals.json()) {
      print_clusters(list_of(*clusters, "clusters"));
    }
  }
  if (program.globals.json()) {
    print_json(*answer);
    return kOk;
  }
  Table table({{"ID"},
               {"NAME", true},
               {"USER", true, true},
               {"RESOURCES", true},
               {"SUBMITTED"},
               {"DURATION"},
               {"#RECOVERIES", false, true},
               {"STATUS"},
               {"PROGRESS", true}});
  for (const json::value& value : list_of(*answer, "jobs")) {
    const json::object& job = object_of(value);
    const std::string_view started = get_string(job, "started_at");
    const std::string progress = progress_text(job);
    table.add({std::to_string(get_int(job, "id")), get_string(job, "name"),
               get_string(job, "owner"), get_string(job, "resources"),
               ago(get_string(job, "submitted_at")),
               started.empty() ? "-" : between(started, get_string(job, "ended_at")),
               std::to_string(get_int(job, "recoveries")), coloured(get_string(job, "status")),
               progress.empty() ? "-" : progress});
  }
  const bool narrowed = options.active || options.mine || !options.status.empty() ||
                        !options.name.empty() || !cluster.empty();
  if (table.empty()) {
    print("No jobs{}. Run one: quad launch 'echo hello'\n",
          !narrowed                                  ? " yet"
          : options.active && options.status.empty() ? " wait or run"
                                                     : " like that");
  } else {
    table.print();
    if (has_number(*answer, "next")) {
      print("There are more; --all shows them, or --limit N.\n");
    }
  }
  if (const auto breaker = get_string(*answer, "breaker"); !breaker.empty()) {
    print("Attention: {}.\n", breaker);
  }
  return kOk;
}

/// `quad status` and `quad queue`: of all jobs, of a cluster's, or some in full.
int show_list(Program& program, const ListOptions& options) {
  const auto words = read_job_words(options.words);
  if (!words.ok()) {
    return fail(words.error());
  }
  if (!words->jobs.empty()) {
    if (!words->cluster.empty()) {
      return fail(error(ErrorCode::kInvalid, "Name either a cluster, or jobs by their numbers"));
    }
    return show_jobs(program, words->jobs);
  }
  return options.clusters && !words->cluster.empty() ? show_cluster(program, words->cluster)
                                                     : list_jobs(program, options, words->cluster);
}

struct JobLogOptions : LogOptions {
  std::vector<std::string> words;
  bool no_follow = false;
  std::string name;
};

/// The job that is meant: the one named, else the newest (of that name).
Result<std::int64_t> job_meant(Client& client, const JobWords& words, const std::string& name) {
  QUAD_TRY(check_jobs_of(client, words));
  if (!words.jobs.empty()) {
    return words.jobs.front();
  }
  const std::string filter =
      (name.empty() ? "" : "&name=" + net::percent_encode(name)) +
      (words.cluster.empty() ? "" : "&cluster=" + net::percent_encode(words.cluster));
  QUAD_ASSIGN(const json::object answer, client.get_list("/v1/jobs?limit=1" + filter, "jobs"));
  const json::array& jobs = list_of(answer, "jobs");
  if (jobs.empty()) {
    return error(ErrorCode::kNotFound,
                 !words.cluster.empty()
                     ? fmt::format("There are no jobs like that on cluster {}", words.cluster)
                 : name.empty() ? std::string("There are no jobs yet")
                                : fmt::format("There is no job named '{}'", name));
  }
  return get_int(object_of(jobs[0]), "id");
}

int show_logs(Program& program, JobLogOptions options) {
  const auto words = read_job_words(options.words);
  if (!words.ok() || words->jobs.size() > 1) {
    return fail(words.ok() ? error(ErrorCode::kInvalid, "Name one job") : words.error());
  }
  auto since = since_text(options.since, SystemClock().now().wall);
  if (!since.ok()) {
    return fail(since.error());
  }
  options.since = std::move(*since);
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto job = job_meant(*client, *words, options.name);
  if (!job.ok()) {
    return fail(job.error());
  }
  options.job = *job;
  options.follow = options.follow && !options.no_follow;
  return show_log(program.globals, *client, options);
}

struct CancelOptions {
  std::vector<std::string> words;
  bool mine = false;
  bool all_users = false;
  std::string name;
  bool ignored = false;
};

void say_cancelled(const json::object& job) {
  print("Job {} {}\n", get_int(job, "id"), outcome_text(job, 1));
}

int cancel(Program& program, const CancelOptions& options) {
  auto words = read_job_words(options.words);
  if (!words.ok()) {
    return fail(words.error());
  }
  const bool on_cluster = !words->cluster.empty();
  const bool newest = on_cluster && words->jobs.empty() && !options.mine && !options.all_users &&
                      options.name.empty();
  const int ways = (words->jobs.empty() && !newest ? 0 : 1) +
                   (options.mine || options.all_users ? 1 : 0) + (options.name.empty() ? 0 : 1);
  if (ways != 1) {
    return fail(error(
        ErrorCode::kInvalid,
        ways == 0 ? "Name the jobs to cancel: quad cancel 17, or --all for your own, or --name NAME"
                  : "Give either job numbers, or --all, or --name"));
  }
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  if (const Status known = check_jobs_of(*client, *words); !known.ok()) {
    return fail(known.error());
  }
  if (newest) {
    const auto answer = client->get_list(
        "/v1/jobs?limit=1&status=active&cluster=" + net::percent_encode(words->cluster), "jobs");
    if (!answer.ok()) {
      return fail(answer.error());
    }
    for (const json::value& job : list_of(*answer, "jobs")) {
      words->jobs.push_back(get_int(object_of(job), "id"));
    }
  }
  json::array cancelled;
  int code = kOk;
  if (!words->jobs.empty() || newest) {
    for (const std::int64_t id : words->jobs) {
      const auto answer = client->post(fmt::format("/v1/jobs/{}/cancel", id));
      if (answer.ok()) {
        cancelled.push_back(*answer);
      } else {
        code = fail(answer.error());
      }
    }
  } else {
    json::object what = !options.name.empty() ? json::object{{"name", options.name}}
                        : options.all_users   ? json::object{{"all", true}}
                                              : json::object{{"mine", true}};
    if (on_cluster) {
      what["cluster"] = words->cluster;
    }
    const auto answer = client->post("/v1/jobs:cancel", what);
    if (!answer.ok()) {
      return fail(answer.error());
    }
    cancelled = list_of(*answer, "jobs");
  }
  if (program.globals.json()) {
    json::array shown;
    for (const json::value& value : cancelled) {
      const json::object& one = object_of(value);
      shown.push_back(json::object{{"id", get_int(one, "id")},
                                   {"status", get_string(one, "status")},
                                   {"message", get_string(one, "message")}});
    }
    print_json(json::object{{"jobs", std::move(shown)}});
    return code;
  }
  for (const json::value& value : cancelled) {
    say_cancelled(object_of(value));
  }
  if (cancelled.empty() && code == kOk) {
    print("No job {}waits or runs.\n", options.name.empty() ? "" : "of that name ");
  }
  return code;
}

void add_list(CLI::App& app, Program& program, const char* name, const char* help, bool active) {
  auto options = std::make_shared<ListOptions>();
  options->active = active;
  options->clusters = std::string_view(name) == "status";
  CLI::App* verb = add_verb(app, program, name, help);
  verb->add_option("jobs", options->words,
                   options->clusters ? "These jobs, each in full, or a cluster"
                                     : "A cluster whose jobs to show, or jobs, each in full");
  verb->add_option("-s,--status", options->status,
                   "Only these: RUNNING, FAILED, active, finished, …");
  verb->add_option("-n,--name", options->name, "Only of this name");
  verb->add_option("-l,--limit", options->limit, "At most so many")->check(CLI::Range(1, 10'000));
  verb->add_flag("-a,--all", options->all, "However many there are");
  verb->add_flag("--mine", options->mine, "Only my own");
  verb->add_flag("-u,--all-users", options->all_users, "Everybody's; as it is anyway");
  verb->add_flag("-r,--refresh", options->ignored, "What is shown is always fresh");
  verb->add_flag("-v,--verbose", options->ignored, "One job in full: quad status JOB");
  verb->add_flag("--skip-finished", options->active, "Only jobs that wait or run");
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return show_list(program, *options); };
  });
}

void add_logs(CLI::App& app, Program& program, bool follow) {
  auto options = std::make_shared<JobLogOptions>();
  options->follow = follow;
  CLI::App* verb = add_verb(app, program, "logs", "A job's output, of all its attempts in order");
  verb->add_option("job", options->words,
                   "The job's number, or a cluster and one of its jobs; else the newest job");
  verb->add_option("-n,--name", options->name, "The newest job of this name");
  verb->add_flag("-f,--follow", options->follow,
                 follow ? "As it does anyway" : "Until the job ends, over all attempts");
  verb->add_flag("--no-follow", options->no_follow, "What there is now");
  verb->add_option("--rank,-w,--worker", options->rank, "One rank only")
      ->check(whole_number(0, "a rank's number, from 0"));
  verb->add_option("--attempt", options->attempt, "Of this attempt")
      ->check(whole_number(1, "an attempt's number, from 1"));
  verb->add_option("--tail", options->tail, "The last lines")
      ->check(whole_number(0, "a number of lines"));
  verb->add_option("--line", options->line, "From this line on")
      ->check(whole_number(1, "a line's number, from 1"));
  verb->add_option("--since", options->since,
                   "From a time on, as quad story shows it, or since so long ago: 10m");
  verb->add_option("--grep", options->grep, "Only lines with this text");
  verb->add_flag("--raw", options->raw, "On a terminal, its escape sequences too");
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return show_logs(program, *options); };
  });
}

void add_cancel(CLI::App& app, Program& program) {
  auto options = std::make_shared<CancelOptions>();
  CLI::App* verb = add_verb(app, program, "cancel", "Stop jobs");
  verb->add_option(
      "jobs", options->words,
      "Their numbers, or a cluster, of which the newest is meant, or some of its jobs");
  verb->add_flag("-a,--all", options->mine, "All of mine that wait or run");
  verb->add_flag("-u,--all-users", options->all_users, "Everybody's");
  verb->add_option("-n,--name", options->name, "All of this name");
  verb->add_flag("-y,--yes", options->ignored, "Nothing is asked anyway");
  verb->callback([&program, options] {
    program.chosen = [&program, options] { return cancel(program, *options); };
  });
}

}  // namespace

CLI::App* add_verb(CLI::App& app, Program& program, const char* name, const char* help) {
  CLI::App* verb = app.add_subcommand(name, help);
  verb->add_option("-o,--output", program.globals.output, "json for programs")
      ->check(CLI::IsMember({"json", "table"}));
  return verb;
}

CLI::Validator whole_number(std::int64_t least, const char* what) {
  const auto check = [least, what](const std::string& text) {
    const auto value = parse_number(text);
    return value && *value >= least ? std::string()
                                    : fmt::format("'{}' is not {}", printable(text), what);
  };
  return CLI::Validator(check, "");
}

CLI::Option* add_job_argument(CLI::App& verb, std::int64_t& id) {
  return verb.add_option("job", id, "The job's number")->check(whole_number(1, kJobNumber));
}

CLI::Option* add_job_or_cluster(CLI::App& verb, std::string& word) {
  return verb.add_option("job", word, "The job's number, or a cluster's name");
}

void add_job_commands(CLI::App& app, Program& program) {
  add_list(app, program, "status", "Jobs, newest first; with numbers, those in full", false);
  add_list(app, program, "queue", "Jobs that wait or run", true);
  add_logs(app, program, false);
  add_cancel(app, program);
  CLI::App* jobs =
      app.add_subcommand("jobs", "The same verbs, as SkyPilot spells them for managed jobs");
  jobs->require_subcommand(1);
  add_launch(*jobs, program);
  add_list(*jobs, program, "queue", "Jobs, newest first", false);
  add_logs(*jobs, program, true);
  add_cancel(*jobs, program);
}

}  // namespace quad::cli
