#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/text.h"
#include "job/record.h"
#include "server/app.h"
#include "server/submit.h"
#include "server/views.h"

namespace quad::server {

namespace asio = boost::asio;

net::Response json_answer(const json::value& value, int status) { return net::json_response(to_text(value), status); }

std::shared_ptr<const job::Job> job_of(App& app, net::Exchange& exchange) {
  const std::string_view text = exchange.parameter("id");
  std::int64_t id = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (failure != std::errc() || end != text.data() + text.size() || id < 1) {
    exchange.respond_error(error(ErrorCode::kInvalid, fmt::format("'{}' is not a job's number", text), "id"));
    return nullptr;
  }
  auto job = app.control->snapshot()->find(JobId(id));
  if (job == nullptr) {
    exchange.respond_error(error(ErrorCode::kNotFound, fmt::format("There is no job {}", id), "id"));
  }
  return job;
}

namespace {

json::array to_json(const std::vector<spec::Diagnostic>& diagnostics) {
  json::array array;
  for (const spec::Diagnostic& one : diagnostics) {
    array.push_back(json::object{{"message", one.message},
                                 {"key", one.key},
                                 {"line", one.line},
                                 {"column", one.column},
                                 {"hint", one.hint}});
  }
  return array;
}

std::vector<spec::NamedValue> pairs_from(const json::object& object, std::string_view key) {
  std::vector<spec::NamedValue> pairs;
  if (const auto* array = get_array(object, key)) {
    for (const json::value& item : *array) {
      const auto* pair = item.if_array();
      if (pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_string()) {
        pairs.emplace_back(std::string((*pair)[0].get_string()), std::string((*pair)[1].get_string()));
      }
    }
  }
  return pairs;
}

std::optional<std::string> optional_text(const json::object& object, std::string_view key) {
  return object.contains(key) && object.at(key).is_string() ? std::optional(std::string(get_string(object, key)))
                                                            : std::nullopt;
}

std::optional<int> optional_int(const json::object& object, std::string_view key) {
  return object.contains(key) && object.at(key).is_int64() ? std::optional(static_cast<int>(get_int(object, key)))
                                                           : std::nullopt;
}

spec::Overrides overrides_from(const json::object& object) {
  spec::Overrides overrides;
  overrides.envs = pairs_from(object, "envs");
  overrides.secrets = pairs_from(object, "secrets");
  overrides.config = pairs_from(object, "config");
  overrides.name = optional_text(object, "name");
  overrides.workdir = optional_text(object, "workdir");
  overrides.cpus = optional_text(object, "cpus");
  overrides.memory = optional_text(object, "memory");
  overrides.gpus = optional_text(object, "gpus");
  overrides.infra = optional_text(object, "infra");
  overrides.image_id = optional_text(object, "image_id");
  overrides.disk_size = optional_text(object, "disk_size");
  overrides.num_nodes = optional_int(object, "num_nodes");
  overrides.priority = optional_int(object, "priority");
  if (object.contains("use_spot") && object.at("use_spot").is_bool()) {
    overrides.use_spot = object.at("use_spot").get_bool();
  }
  return overrides;
}

bool is_blob_name(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// One submission of a POST body: its tasks as requests, or what is wrong with it.
struct Taken {
  Prepared prepared;
  std::optional<Error> failure;
  std::string client_key;
};

Taken take(App& app, const Caller& caller, const json::object& body, const control::Snapshot& snapshot) {
  Taken taken;
  const bool has_yaml = body.contains("yaml");
  const bool has_command = body.contains("command");
  if (has_yaml == has_command || (has_yaml && !body.at("yaml").is_string()) ||
      (has_command && !body.at("command").is_string())) {
    taken.failure = error(ErrorCode::kInvalid, "Give either 'yaml' or 'command', as text");
    return taken;
  }
  const json::object none;
  const json::object* given = get_object(body, "overrides");
  const spec::Overrides overrides = overrides_from(given == nullptr ? none : *given);
  const spec::TaskSet set = has_yaml ? spec::parse(get_string(body, "yaml"), overrides)
                                     : spec::from_command(get_string(body, "command"), overrides);
  if (!set.ok()) {
    taken.prepared.errors = set.errors;
    taken.prepared.warnings = set.warnings;
    return taken;
  }
  SubmitContext context;
  context.owner = caller.user;
  context.secret_key = app.secret_key;
  context.snapshot = &snapshot;
  context.workdir_blob = get_string(body, "workdir_blob");
  if (!context.workdir_blob.empty() && !is_blob_name(context.workdir_blob)) {
    taken.failure = error(ErrorCode::kInvalid, "workdir_blob must be a SHA-256 in lower-case hexadecimal", "workdir_blob");
    return taken;
  }
  if (const auto* blobs = get_object(body, "mount_blobs")) {
    for (const auto& member : *blobs) {
      const auto* one = member.value().if_object();
      const std::string blob(one == nullptr ? "" : get_string(*one, "blob"));
      if (!is_blob_name(blob)) {
        taken.failure = error(ErrorCode::kInvalid, "Each of mount_blobs needs a 'blob' with a SHA-256", "mount_blobs");
        return taken;
      }
      context.mount_blobs[member.key()] = blob;
      context.mount_is_file[member.key()] = get_bool(*one, "is_file");
    }
  }
  taken.client_key = get_string(body, "client_key");
  taken.prepared = prepare(set, context);
  return taken;
}

asio::awaitable<void> submit(App& app, net::Exchange& exchange, bool bulk) {
  if (!require(exchange, Role::kUser)) {
    co_return;
  }
  const Caller caller = caller_of(exchange);
  const auto parsed = parse_json(exchange.request().body);
  if (!parsed.ok()) {
    exchange.respond_error(parsed.error());
    co_return;
  }
  std::vector<const json::object*> bodies;
  if (bulk) {
    const auto* all = parsed->is_object() ? get_array(parsed->get_object(), "jobs") : nullptr;
    for (std::size_t i = 0; all != nullptr && i < all->size(); ++i) {
      bodies.push_back((*all)[i].if_object());
    }
  } else {
    bodies.push_back(parsed->if_object());
  }
  constexpr std::size_t kMostAtOnce = 10'000;
  if (bodies.empty() || bodies.size() > kMostAtOnce || std::count(bodies.begin(), bodies.end(), nullptr) > 0) {
    exchange.respond_error(error(ErrorCode::kInvalid, bulk ? "Give 'jobs': from 1 to 10,000 objects"
                                                           : "A JSON object is expected"));
    co_return;
  }
  const auto snapshot = app.control->snapshot();
  std::vector<control::Submission> submissions;
  std::vector<spec::Diagnostic> warnings;
  bool dryrun = false;
  json::array plans;
  for (const json::object* body : bodies) {
    Taken taken = take(app, caller, *body, *snapshot);
    if (taken.failure) {
      exchange.respond_error(*taken.failure);
      co_return;
    }
    if (!taken.prepared.errors.empty()) {
      json::object answer = *get_object(parse_json_object(net::error_response(
                                             error(ErrorCode::kInvalid, taken.prepared.errors.front().message,
                                                   taken.prepared.errors.front().key)).body).value(), "error");
      answer["errors"] = to_json(taken.prepared.errors);
      answer["warnings"] = to_json(taken.prepared.warnings);
      exchange.respond(json_answer(json::object{{"error", std::move(answer)}}, 400));
      co_return;
    }
    dryrun = dryrun || get_bool(*body, "dryrun");
    warnings.insert(warnings.end(), taken.prepared.warnings.begin(), taken.prepared.warnings.end());
    for (job::Request& request : taken.prepared.requests) {
      if (dryrun) {
        json::object plan = job::to_json(request);
        plan.erase("body");
        plans.push_back(std::move(plan));
      }
      submissions.push_back({std::move(request), taken.client_key});
    }
  }
  if (dryrun) {
    exchange.respond(json_answer(json::object{{"dryrun", true}, {"requests", std::move(plans)}, {"warnings", to_json(warnings)}}));
    co_return;
  }
  const std::function<void(std::function<void(Result<std::vector<JobId>>)>)> start =
      [&app, &submissions](std::function<void(Result<std::vector<JobId>>)> done) {
        app.control->submit(std::move(submissions), std::move(done));
      };
  const auto ids = co_await ask<Result<std::vector<JobId>>>(app, exchange, start);
  if (!ids.ok()) {
    exchange.respond_error(ids.error());
    co_return;
  }
  json::array jobs;
  for (const JobId id : *ids) {
    jobs.push_back(json::object{{"id", id.value()}});
  }
  exchange.respond(json_answer(json::object{{"jobs", std::move(jobs)}, {"warnings", to_json(warnings)}}, 201));
}

asio::awaitable<void> list_jobs(App& app, net::Exchange& exchange) {
  const net::Request& request = exchange.request();
  const auto snapshot = app.control->snapshot();
  const std::string status = request.query_value("status").value_or("");
  const std::string owner = request.query_value("owner").value_or("");
  const std::string name = request.query_value("name").value_or("");
  const auto integer = [&](std::string_view key, std::int64_t fallback) {
    const std::string text = request.query_value(key).value_or("");
    std::int64_t value = fallback;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  };
  const std::int64_t limit = std::clamp<std::int64_t>(integer("limit", 100), 1, 10'000);
  const std::int64_t before = integer("before", snapshot->last_job() + 1);
  json::array rows;
  std::int64_t live = 0;
  for (std::int64_t id = std::min(before - 1, snapshot->last_job()); id > 0; --id) {
    const auto job = snapshot->find(JobId(id));
    if (job == nullptr || (!owner.empty() && job->request->owner != owner) || (!name.empty() && job->request->name != name)) {
      continue;
    }
    const bool active = !job::is_terminal(job->status);
    if (!(status.empty() || status == to_string(job->status) || (status == "active" && active))) {
      continue;
    }
    live += active ? 1 : 0;
    rows.push_back(job_row(*job, active ? app.control->live(JobId(id)) : std::vector<control::RankLive>()));
    if (static_cast<std::int64_t>(rows.size()) >= limit) {
      break;
    }
  }
  json::object answer;
  answer["revision"] = snapshot->revision.value();
  answer["breaker"] = snapshot->breaker;
  answer["jobs"] = std::move(rows);
  exchange.respond(json_answer(answer));
  co_return;
}

bool may_touch(net::Exchange& exchange, const job::Job& job) {
  const Caller& caller = caller_of(exchange);
  if (caller.role == Role::kAdmin || (caller.role == Role::kUser && caller.user == job.request->owner)) {
    return true;
  }
  exchange.respond_error(error(ErrorCode::kDenied, fmt::format("Job {} belongs to {}", job.id.value(), job.request->owner)));
  return false;
}

asio::awaitable<void> cancel_job(App& app, net::Exchange& exchange) {
  const auto job = job_of(app, exchange);
  if (job == nullptr || !may_touch(exchange, *job)) {
    co_return;
  }
  const std::string by = caller_of(exchange).user;
  const std::function<void(std::function<void(Status)>)> start = [&](std::function<void(Status)> done) {
    app.control->cancel(job->id, by, std::move(done));
  };
  const Status status = co_await ask<Status>(app, exchange, start);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  const auto after = app.control->snapshot()->find(job->id);
  exchange.respond(json_answer(job_row(*after, {})));
}

asio::awaitable<void> job_events(App& app, net::Exchange& exchange, bool story) {
  const auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  store::EventFilter filter;
  filter.job = job->id;
  filter.limit = 10'000;
  const auto events = app.store->events(filter);
  if (!events.ok()) {
    exchange.respond_error(events.error());
    co_return;
  }
  if (story) {
    exchange.respond(json_answer(story_view(*job, *events)));
    co_return;
  }
  json::array checkpoints;
  for (const job::Event& event : *events) {
    if (event.kind == "checkpoint.complete") {
      json::object one = event.data;
      one["at"] = format_rfc3339(event.at);
      one["epoch"] = event.epoch.value();
      checkpoints.push_back(std::move(one));
    }
  }
  exchange.respond(json_answer(json::object{{"id", job->id.value()}, {"checkpoints", std::move(checkpoints)}}));
}

asio::awaitable<void> show_task(App& app, net::Exchange& exchange) {
  const auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  const auto body = app.store->body(job->id);
  const auto object = body.ok() ? parse_json_object(*body) : Result<json::object>(body.error());
  if (!object.ok()) {
    exchange.respond_error(object.error());
    co_return;
  }
  exchange.respond(json_answer(object->contains("task") ? object->at("task") : json::value(json::object())));
}

}  // namespace

void add_job_routes(App& app, net::Router& router) {
  router.post("/v1/jobs", [&app](net::Exchange& e) { return submit(app, e, false); });
  router.post("/v1/jobs/bulk", [&app](net::Exchange& e) { return submit(app, e, true); });
  router.get("/v1/jobs", [&app](net::Exchange& e) { return list_jobs(app, e); });
  router.get("/v1/jobs/{id}", [&app](net::Exchange& e) -> asio::awaitable<void> {
    if (const auto job = job_of(app, e)) {
      e.respond(json_answer(job_detail(*job, app.control->live(job->id))));
    }
    co_return;
  });
  router.post("/v1/jobs/{id}/cancel", [&app](net::Exchange& e) { return cancel_job(app, e); });
  router.get("/v1/jobs/{id}/why", [&app](net::Exchange& e) -> asio::awaitable<void> {
    if (const auto job = job_of(app, e)) {
      e.respond(json_answer(why_view(*job, *app.control->snapshot())));
    }
    co_return;
  });
  router.get("/v1/jobs/{id}/story", [&app](net::Exchange& e) { return job_events(app, e, true); });
  router.get("/v1/jobs/{id}/checkpoints", [&app](net::Exchange& e) { return job_events(app, e, false); });
  router.get("/v1/jobs/{id}/task", [&app](net::Exchange& e) { return show_task(app, e); });
}

}  // namespace quad::server
