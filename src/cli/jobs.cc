#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/text.h"
#include "base/time.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/output.h"

namespace quad::cli {

namespace {

std::string text_of(const json::object& object, std::string_view key) { return std::string(get_string(object, key)); }

std::string progress_text(const json::object& job) {
  const auto* progress = get_object(job, "progress");
  if (progress == nullptr) {
    return "-";
  }
  std::string text = fmt::format("step {}", get_int(*progress, "step"));
  if (const std::int64_t total = get_int(*progress, "total", -1); total >= 0) {
    text += fmt::format("/{}", total);
  }
  if (const double rate = get_double(*progress, "rate"); rate > 0) {
    text += fmt::format(" {:.3g}/s", rate);
  }
  if (const double eta = get_double(*progress, "eta_s", -1); eta >= 0) {
    text += fmt::format(", {} left", format_duration(Millis(std::llround(eta * 1000))));
  }
  return text;
}

struct ListOptions {
  bool all_users = false;
  bool active = false;
  std::string status;
  int limit = 50;
};

int list_jobs(Program& program, const ListOptions& options) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  std::string target = fmt::format("/v1/jobs?limit={}", options.limit);
  if (options.active) {
    target += "&status=active";
  } else if (!options.status.empty()) {
    target += "&status=" + net::percent_encode(options.status);
  }
  const auto answer = client->get(target);
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json()) {
    print_json(*answer);
    return kOk;
  }
  std::vector<std::vector<std::string>> rows = {
      {"ID", "NAME", "USER", "RESOURCES", "SUBMITTED", "DURATION", "#RECOVERIES", "STATUS", "PROGRESS"}};
  for (const json::value& value : *get_array(*answer, "jobs")) {
    const json::object& job = value.as_object();
    rows.push_back({std::to_string(get_int(job, "id")), text_of(job, "name"), text_of(job, "owner"), text_of(job, "resources"),
                    ago(get_string(job, "submitted_at")),
                    get_string(job, "started_at").empty() ? "-" : between(get_string(job, "started_at"), get_string(job, "ended_at")),
                    std::to_string(get_int(job, "recoveries")), coloured(get_string(job, "status")), progress_text(job)});
  }
  if (rows.size() == 1) {
    fmt::print("No jobs{}. Run one: quad launch 'echo hello'\n", options.active ? " are waiting or running" : " yet");
    return kOk;
  }
  print_table(rows);
  if (const auto breaker = get_string(*answer, "breaker"); !breaker.empty()) {
    fmt::print("Attention: {}.\n", breaker);
  }
  return kOk;
}

int show_job(Program& program, std::int64_t id) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto job = client->get(fmt::format("/v1/jobs/{}", id));
  if (!job.ok()) {
    return fail(job.error());
  }
  if (program.globals.json()) {
    print_json(json::object{{"jobs", json::array{*job}}});  // the same shape as for many
    return kOk;
  }
  fmt::print("Job {} ({}): {}  {}\n", id, get_string(*job, "name"), coloured(get_string(*job, "status")), get_string(*job, "message"));
  if (job->at("progress").is_object()) {
    fmt::print("  {}\n", progress_text(*job));
  }
  for (const json::value& value : *get_array(*job, "attempts")) {
    const json::object& attempt = value.as_object();
    std::vector<std::string_view> nodes;
    for (const json::value& node : *get_array(attempt, "nodes")) {
      nodes.push_back(node.as_string());
    }
    fmt::print("  attempt {} on {}: {}{}\n", get_int(attempt, "epoch"), join_words(nodes),
               get_string(attempt, "ended_at").empty() ? std::string("live") : text_of(attempt, "reason"),
               attempt.at("resumed_step").is_int64() ? fmt::format(" (resumed from step {})", get_int(attempt, "resumed_step")) : "");
  }
  return kOk;
}

struct LogOptions {
  std::int64_t job = 0;
  bool follow = false;
  bool no_follow = false;
  int rank = -1;
  int attempt = 0;
  std::int64_t tail = -1;
  std::int64_t line = 0;
  std::string since, grep;
};

int show_logs(Program& program, const LogOptions& options) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  std::string target;
  const auto put = [&target](std::string_view key, const std::string& value) {
    target += fmt::format("&{}={}", key, net::percent_encode(value));
  };
  if (options.rank >= 0) {
    put("rank", std::to_string(options.rank));
  }
  if (options.attempt > 0) {
    put("attempt", std::to_string(options.attempt));
  }
  if (options.tail >= 0) {
    put("tail", std::to_string(options.tail));
  }
  if (options.line > 0) {
    put("line", std::to_string(options.line));
  }
  if (!options.since.empty()) {
    put("since", options.since);
  }
  if (!options.grep.empty()) {
    put("grep", options.grep);
  }
  const Status status = print_log(program.globals, *client, options.job, target,
                                  options.follow && !options.no_follow);
  return status.ok() ? kOk : fail(status.error());
}

struct CancelOptions {
  std::vector<std::int64_t> jobs;
  bool all = false;
  std::string name;
  bool yes = false;
};

int cancel(Program& program, const CancelOptions& options) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  std::vector<std::int64_t> jobs = options.jobs;
  if (options.all || !options.name.empty()) {
    const auto list = client->get("/v1/jobs?status=active&limit=10000" +
                                  (options.name.empty() ? "" : "&name=" + net::percent_encode(options.name)));
    if (!list.ok()) {
      return fail(list.error());
    }
    for (const json::value& job : *get_array(*list, "jobs")) {
      jobs.push_back(get_int(job.as_object(), "id"));
    }
  }
  if (jobs.empty() && !options.all && options.name.empty()) {
    return fail(error(ErrorCode::kInvalid, "Name the jobs to cancel, or give --all or --name"));
  }
  json::array cancelled;
  int code = kOk;
  for (const std::int64_t id : jobs) {
    const auto answer = client->post(fmt::format("/v1/jobs/{}/cancel", id));
    if (!answer.ok()) {
      code = fail(answer.error());
      continue;
    }
    cancelled.push_back(*answer);
    if (!program.globals.json()) {
      fmt::print("Job {}: {}\n", id, get_string(*answer, "message"));
    }
  }
  if (program.globals.json()) {
    print_json(json::object{{"jobs", std::move(cancelled)}});
  }
  return code;
}

int show_why(Program& program, std::int64_t id) {
  auto client = Client::connect(program.globals);
  const auto why = client.ok() ? client->get(fmt::format("/v1/jobs/{}/why", id)) : Result<json::object>(client.error());
  if (!why.ok()) {
    return fail(why.error());
  }
  if (program.globals.json()) {
    print_json(*why);
    return kOk;
  }
  fmt::print("Job {} is {}: {}\n", id, coloured(get_string(*why, "status")), get_string(*why, "message"));
  if (const auto* funnel = get_array(*why, "funnel")) {
    fmt::print("Number {} in the queue, {} ahead.\n", get_int(*why, "position"), get_int(*why, "ahead"));
    for (const json::value& step : *funnel) {
      fmt::print("  {:>6}  {}\n", get_int(step.as_object(), "nodes"), get_string(step.as_object(), "condition"));
    }
  }
  return kOk;
}

int show_story(Program& program, std::int64_t id) {
  auto client = Client::connect(program.globals);
  const auto story = client.ok() ? client->get(fmt::format("/v1/jobs/{}/story", id)) : Result<json::object>(client.error());
  if (!story.ok()) {
    return fail(story.error());
  }
  if (program.globals.json()) {
    print_json(*story);
    return kOk;
  }
  fmt::print("Job {} ({}) is {}. {}\n", id, get_string(*story, "name"), coloured(get_string(*story, "status")),
             get_string(*story, "headline"));
  for (const json::value& line : *get_array(*story, "lines")) {
    fmt::print("  {}  {}\n", get_string(line.as_object(), "at").substr(11, 12), get_string(line.as_object(), "message"));
  }
  return kOk;
}

int show_checkpoints(Program& program, std::int64_t id) {
  auto client = Client::connect(program.globals);
  const auto answer = client.ok() ? client->get(fmt::format("/v1/jobs/{}/checkpoints", id)) : Result<json::object>(client.error());
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json()) {
    print_json(*answer);
    return kOk;
  }
  std::vector<std::vector<std::string>> rows = {{"STEP", "ATTEMPT", "COMPLETE", "MB", "PATH"}};
  for (const json::value& value : *get_array(*answer, "checkpoints")) {
    const json::object& one = value.as_object();
    rows.push_back({std::to_string(get_int(one, "step")), std::to_string(get_int(one, "epoch")), ago(get_string(one, "at")),
                    fmt::format("{:.1f}", get_double(one, "bytes") / 1e6), text_of(one, "path")});
  }
  print_table(rows);
  return kOk;
}

struct EventOptions {
  std::int64_t after = 0;
  std::int64_t job = 0;
  bool follow = false;
  std::string kind;
};

int show_events(Program& program, const EventOptions& options) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  EventQuery query;
  query.after = options.after;
  query.follow = options.follow;
  query.filter = options.job > 0 ? fmt::format("&job={}", options.job) : "";
  query.filter += options.kind.empty() ? "" : "&kind=" + net::percent_encode(options.kind);
  const bool as_json = program.globals.json();
  const std::function<void(const json::object&)> print = [as_json](const json::object& event) {
    if (as_json) {
      fmt::print("{}\n", to_text(event));
    } else {
      fmt::print("{:>7}  {}  {:<20} {}{}\n", get_int(event, "revision"), get_string(event, "at").substr(0, 23),
                 get_string(event, "kind"), event.contains("job") ? fmt::format("job {}: ", get_int(event, "job")) : "",
                 get_string(event, "message"));
    }
    std::fflush(stdout);
  };
  const Status status = print_events(program.globals, *client, query, print);
  return status.ok() ? kOk : fail(status.error());
}

}  // namespace

int follow_job(const Globals& globals, Client& client, std::int64_t id) {
  const Status streamed = print_log(globals, client, id, "", true);
  if (!streamed.ok()) {
    fmt::print(stderr, "The log is cut off, the job goes on: quad logs {} --follow\n", id);
    return fail(streamed.error());
  }
  const auto job = client.get(fmt::format("/v1/jobs/{}", id));
  if (!job.ok()) {
    return fail(job.error());
  }
  const std::string_view status = get_string(*job, "status");
  fmt::print(stderr, "Job {} {}: {}\n", id, coloured(status), get_string(*job, "message"));
  if (status == "SUCCEEDED") {
    return kOk;
  }
  const auto code = static_cast<int>(get_int(*job, "exit_code"));
  return code > 0 && code < 256 ? code : kFailed;
}

CLI::App* add_verb(CLI::App& app, Program& program, const char* name, const char* help) {
  CLI::App* verb = app.add_subcommand(name, help);
  verb->add_option("-o,--output", program.globals.output, "json for programs")->check(CLI::IsMember({"json", "table"}));
  return verb;
}

namespace {

void add_one_job_verb(CLI::App& app, Program& program, const char* name, const char* help,
                      int (*run)(Program&, std::int64_t)) {
  auto id = std::make_shared<std::int64_t>(0);
  CLI::App* verb = add_verb(app, program, name, help);
  verb->add_option("job", *id, "The job's number")->required();
  verb->callback([&program, id, run] { program.chosen = [&program, id, run] { return run(program, *id); }; });
}

void add_list(CLI::App& app, Program& program, const char* name, const char* help, bool active) {
  auto options = std::make_shared<ListOptions>();
  options->active = active;
  auto id = std::make_shared<std::int64_t>(0);
  CLI::App* verb = add_verb(app, program, name, help);
  verb->add_option("job", *id, "One job, in full");
  verb->add_option("-s,--status", options->status, "Only these: RUNNING, FAILED, active, …");
  verb->add_option("--limit", options->limit, "At most so many")->check(CLI::Range(1, 10'000));
  verb->add_flag("-u,--all-users", options->all_users, "Everybody's; the default here");
  verb->add_flag("-r,--refresh", options->all_users, "What is shown is always fresh");
  verb->add_flag("--skip-finished", options->active, "Only jobs that wait or run");
  verb->callback([&program, options, id] {
    program.chosen = [&program, options, id] {
      options->active = options->active && options->status.empty();
      return *id > 0 ? show_job(program, *id) : list_jobs(program, *options);
    };
  });
}

void add_logs(CLI::App& app, Program& program, bool follow) {
  auto options = std::make_shared<LogOptions>();
  options->follow = follow;
  CLI::App* verb = add_verb(app, program, "logs", "A job's output, of all its attempts in order");
  verb->add_option("job", options->job, "The job's number")->required();
  verb->add_flag("-f,--follow", options->follow, "Until the job ends, over all attempts");
  verb->add_flag("--no-follow", options->no_follow, "What there is now");
  verb->add_option("--rank,-w,--worker", options->rank, "One rank only");
  verb->add_option("--attempt", options->attempt, "Of this attempt");
  verb->add_option("--tail", options->tail, "The last lines");
  verb->add_option("--line", options->line, "From this line on");
  verb->add_option("--since", options->since, "From a time on, or since so long ago: 10m");
  verb->add_option("--grep", options->grep, "Only lines with this text");
  verb->callback([&program, options] { program.chosen = [&program, options] { return show_logs(program, *options); }; });
}

void add_cancel(CLI::App& app, Program& program) {
  auto options = std::make_shared<CancelOptions>();
  CLI::App* verb = add_verb(app, program, "cancel", "Stop jobs");
  verb->add_option("jobs", options->jobs, "Their numbers");
  verb->add_flag("-a,--all", options->all, "All that wait or run");
  verb->add_option("-n,--name", options->name, "All of this name");
  verb->add_flag("-y,--yes", options->yes, "Nothing is asked anyway");
  verb->callback([&program, options] { program.chosen = [&program, options] { return cancel(program, *options); }; });
}

}  // namespace

void add_job_commands(CLI::App& app, Program& program) {
  add_list(app, program, "status", "Jobs, newest first", false);
  add_list(app, program, "queue", "Jobs that wait or run", true);
  add_logs(app, program, false);
  add_cancel(app, program);
  add_one_job_verb(app, program, "why", "Why a job waits, and for what", show_why);
  add_one_job_verb(app, program, "story", "What happened to a job, in sentences", show_story);
  add_one_job_verb(app, program, "checkpoints", "A job's complete checkpoints", show_checkpoints);
  auto events = std::make_shared<EventOptions>();
  CLI::App* verb = add_verb(app, program, "events", "Everything that happens, as it happens");
  verb->add_option("--after", events->after, "After this revision");
  verb->add_option("--job", events->job, "About this job");
  verb->add_option("--kind", events->kind, "Kinds that begin so, such as node.");
  verb->add_flag("-f,--follow", events->follow, "Go on until interrupted");
  verb->callback([&program, events] { program.chosen = [&program, events] { return show_events(program, *events); }; });

  CLI::App* jobs = app.add_subcommand("jobs", "The same verbs, as SkyPilot spells them for managed jobs");
  jobs->require_subcommand(1);
  add_launch(*jobs, program);
  add_list(*jobs, program, "queue", "Jobs, newest first", false);
  add_logs(*jobs, program, true);
  add_cancel(*jobs, program);
}

}  // namespace quad::cli
