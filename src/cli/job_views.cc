// What the command line shows of one job: everything about it, why it waits, what happened to it,
// its checkpoints.

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/text.h"
#include "base/time.h"
#include "cli/answer.h"
#include "cli/clusters.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/output.h"
#include "cli/terminal.h"

namespace quad::cli {

namespace {

std::string words_of(const json::object& object, std::string_view key) {
  std::vector<std::string_view> words;
  if (const auto* array = get_array(object, key)) {
    for (const json::value& value : *array) {
      if (value.is_string() &&
          std::find(words.begin(), words.end(), value.get_string()) == words.end()) {
        words.emplace_back(value.get_string());
      }
    }
  }
  return join_words(words);
}

/// "  Started    12 min ago (14:05:09.123)"
void print_fact(std::string_view what, const std::string& value) {
  if (!value.empty()) {
    print("  {:<12}{}\n", what, value);
  }
}

std::string moment(const json::object& row, std::string_view key) {
  const std::string_view time = get_string(row, key);
  if (time.empty()) {
    return {};
  }
  std::string day;
  return fmt::format("{} ({})", ago(time), local_time(time, day).substr(0, 19));
}

std::string metrics_text(const json::object& row) {
  const json::object* progress = get_object(row, "progress");
  const json::object* metrics = progress == nullptr ? nullptr : get_object(*progress, "metrics");
  std::string text;
  if (metrics != nullptr) {
    for (const auto& metric : *metrics) {
      text += fmt::format("{}{} {:.6g}", text.empty() ? "" : ", ", std::string_view(metric.key()),
                          metric.value().is_number() ? metric.value().to_number<double>() : 0.0);
    }
  }
  return text;
}

/// The ranks of a live attempt, a row each.
void print_ranks(const json::object& attempt) {
  Table table({{"  RANK"}, {"NODE", true}, {"PHASE"}, {"GPUS"}, {"CPU"}, {"MEMORY"}, {"HEARD"}});
  for (const json::value& value : list_of(attempt, "ranks")) {
    const json::object& rank = object_of(value);
    std::string gpus;
    for (const json::value& gpu : list_of(rank, "gpus")) {
      gpus += (gpus.empty() ? "" : ",") + to_text(gpu);
    }
    const bool heard = rank.contains("heard_at");
    table.add({fmt::format("  {}", get_int(rank, "rank")), std::string(get_string(rank, "node")),
               std::string(get_string(rank, "phase")), gpus.empty() ? "-" : gpus,
               heard ? fmt::format("{:.0f} %", get_double(rank, "cpu_percent")) : "-",
               heard ? fmt::format("{:.0f} MB", get_double(rank, "rss_bytes") / 1e6) : "-",
               !heard ? "-"
               : get_bool(rank, "connected")
                   ? ago(get_string(rank, "heard_at"))
                   : ago(get_string(rank, "heard_at")) + ", no connection"});
  }
  table.print();
}

void print_attempts(const json::object& job) {
  const json::array& attempts = list_of(job, "attempts");
  if (attempts.empty()) {
    return;
  }
  print("  Attempts\n");
  for (const json::value& value : attempts) {
    const json::object& attempt = object_of(value);
    const bool over = !get_string(attempt, "ended_at").empty();
    std::string text =
        fmt::format("    {}  on {}", get_int(attempt, "epoch"), words_of(attempt, "nodes"));
    if (has_number(attempt, "resumed_step")) {
      text += fmt::format(", from step {}", get_int(attempt, "resumed_step"));
    }
    const std::string_view running = get_string(attempt, "running_at");
    if (!running.empty()) {
      text += fmt::format(", {} {}", over ? "ran" : "running for",
                          between(running, get_string(attempt, "ended_at")));
    }
    if (has_number(attempt, "checkpoint_step")) {
      text += fmt::format(", newest checkpoint at step {}", get_int(attempt, "checkpoint_step"));
    }
    if (over) {
      text += fmt::format(": {}", get_string(attempt, "reason"));
    }
    print("{}\n", text);
  }
  const json::object& last = object_of(attempts.back());
  if (get_string(last, "ended_at").empty()) {
    print_ranks(last);
  }
}

void print_why(const json::object& why) {
  const auto* funnel = get_array(why, "funnel");
  if (funnel == nullptr || funnel->empty()) {
    return;
  }
  print("Of all nodes, so many are left after each condition:\n");
  for (const json::value& step : *funnel) {
    print("  {:>6}  {}\n", get_int(object_of(step), "nodes"),
          get_string(object_of(step), "condition"));
  }
}

std::string place_in_queue(const json::object& why) {
  const std::int64_t ahead = get_int(why, "ahead");
  return ahead == 0 ? "It is the first in the queue."
                    : fmt::format(
                          "It is number {} in the queue; {} ahead of it.", get_int(why, "position"),
                          ahead == 1 ? std::string("1 job is") : fmt::format("{} jobs are", ahead));
}

int print_job(Client& client, const json::object& job) {
  const std::int64_t id = get_int(job, "id");
  print("Job {} ({}) {}\n", id, get_string(job, "name"), outcome_text(job, STDOUT_FILENO));
  print_fact("User", std::string(get_string(job, "owner")));
  print_fact("Resources", fmt::format("{} on {}", get_string(job, "resources"),
                                      counted(get_int(job, "num_nodes"), "node")));
  if (const std::int64_t priority = get_int(job, "priority"); priority != 0) {
    print_fact("Priority", std::to_string(priority));
  }
  print_fact("Submitted", moment(job, "submitted_at"));
  print_fact("Started", moment(job, "started_at"));
  const std::string_view ended = get_string(job, "ended_at");
  print_fact("Ended", moment(job, "ended_at"));
  if (!get_string(job, "started_at").empty()) {
    print_fact("Duration", between(get_string(job, "started_at"), ended));
  }
  if (has_number(job, "exit_code") && get_string(job, "status") == "FAILED") {
    print_fact("Exit code", std::to_string(get_int(job, "exit_code")));
    print_fact("Cause", std::string(get_string(job, "cause")));
  }
  if (const std::int64_t recoveries = get_int(job, "recoveries"); recoveries > 0) {
    print_fact("Recoveries", std::to_string(recoveries));
  }
  print_fact("Progress", progress_text(job));
  print_fact("Metrics", metrics_text(job));
  print_attempts(job);
  if (list_of(job, "attempts").empty() && ended.empty()) {
    if (const auto why = client.get(fmt::format("/v1/jobs/{}/why", id));
        why.ok() && why->contains("position")) {
      print_fact("Waits", fmt::format("{} {}", get_string(*why, "message"), place_in_queue(*why)));
    }
  }
  print("  Output: quad logs {0}    What happened: quad story {0}\n", id);
  return kOk;
}

int show_why(Program& program, Client& client, std::int64_t id) {
  const auto why = client.get(fmt::format("/v1/jobs/{}/why", id));
  if (!why.ok()) {
    return fail(why.error());
  }
  if (program.globals.json()) {
    print_json(*why);
    return kOk;
  }
  const std::string_view message = get_string(*why, "message");
  if (!why->contains("position")) {
    print("Job {} does not wait. It is {}\n", id, outcome_text(*why, STDOUT_FILENO));
    return kOk;
  }
  print("Job {} is {} and waits for a place. {}\n{}\n", id, coloured(get_string(*why, "status")),
        message, place_in_queue(*why));
  print_why(*why);
  return kOk;
}

int show_story(Program& program, Client& client, std::int64_t id) {
  const auto story = client.get_list(fmt::format("/v1/jobs/{}/story", id), "lines");
  if (!story.ok()) {
    return fail(story.error());
  }
  if (program.globals.json()) {
    print_json(*story);
    return kOk;
  }
  json::object row = *story;
  row["message"] = get_string(*story, "headline");
  print("Job {} ({}) is {}\n", id, get_string(*story, "name"), outcome_text(row, STDOUT_FILENO));
  constexpr std::size_t kClock = 12;  // "14:05:09.123"
  std::string day;
  for (const json::value& line : list_of(*story, "lines")) {
    const std::string before = day;
    const std::string at = local_time(get_string(object_of(line), "at"), day);
    if (day != before) {
      print("{}\n", day);
    }
    print("  {}  {}\n", at.size() < kClock ? at : at.substr(at.size() - kClock),
          get_string(object_of(line), "message"));
  }
  return kOk;
}

int show_checkpoints(Program& program, Client& client, std::int64_t id) {
  const auto answer = client.get_list(fmt::format("/v1/jobs/{}/checkpoints", id), "checkpoints");
  if (!answer.ok()) {
    return fail(answer.error());
  }
  if (program.globals.json()) {
    print_json(*answer);
    return kOk;
  }
  Table table({{"STEP"}, {"ATTEMPT"}, {"COMPLETE"}, {"MB"}, {"PATH", true}});
  std::size_t gone = 0;
  for (const json::value& value : list_of(*answer, "checkpoints")) {
    const json::object& one = object_of(value);
    if (get_bool(one, "gone")) {
      ++gone;
      continue;
    }
    const std::int64_t step = get_int(one, "step", -1);
    table.add(
        {step < 0 ? "-" : std::to_string(step), std::to_string(get_int(one, "epoch")),
         ago(get_string(one, "at")),
         get_int(one, "bytes") > 0 ? fmt::format("{:.1f}", get_double(one, "bytes") / 1e6) : "-",
         get_string(one, "path")});
  }
  if (!table.empty()) {
    table.print();
  } else if (gone == 0) {
    print("Job {} has written no complete checkpoint.\n", id);
  }
  if (gone > 0) {
    print("{} earlier: deleted or written over since.\n", gone);
  }
  return kOk;
}

void add_one_job_verb(CLI::App& app, Program& program, const char* name, const char* help,
                      int (*run)(Program&, Client&, std::int64_t)) {
  auto word = std::make_shared<std::string>();
  CLI::App* verb = add_verb(app, program, name, help);
  add_job_or_cluster(*verb, *word)->required();
  verb->callback([&program, word, run] {
    program.chosen = [&program, word, run] {
      auto client = Client::connect(program.globals);
      const auto id =
          client.ok() ? job_named(*client, *word) : Result<std::int64_t>(client.error());
      return id.ok() ? run(program, *client, *id) : fail(id.error());
    };
  });
}

}  // namespace

int show_jobs(Program& program, const std::vector<std::int64_t>& ids) {
  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  json::array jobs;
  int code = kOk;
  for (const std::int64_t id : ids) {
    const auto job = client->get(fmt::format("/v1/jobs/{}", id));
    if (!job.ok()) {
      code = fail(job.error());
      continue;
    }
    if (program.globals.json()) {
      jobs.push_back(*job);
    } else {
      print_job(*client, *job);
    }
  }
  if (program.globals.json() && (code == kOk || !jobs.empty())) {
    print_json(json::object{{"jobs", std::move(jobs)}});  // the same shape as for many
  }
  return code;
}

void add_job_views(CLI::App& app, Program& program) {
  add_one_job_verb(app, program, "why", "Why a job waits, and for what", show_why);
  add_one_job_verb(app, program, "story", "What happened to a job, in sentences", show_story);
  add_one_job_verb(app, program, "checkpoints", "A job's complete checkpoints", show_checkpoints);
}

}  // namespace quad::cli
