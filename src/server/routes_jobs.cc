// Jobs as they stand: lists, one job, why it waits, its story; and their end on request.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <mutex>

#include "base/text.h"
#include "job/record.h"
#include "server/app.h"
#include "server/input.h"
#include "server/views.h"

namespace quad::server {

namespace asio = boost::asio;

net::Response json_answer(const json::value& value, int status) {
  return net::json_response(to_text(value), status);
}

std::shared_ptr<const job::Job> job_of(App& app, net::Exchange& exchange) {
  const std::string_view text = exchange.parameter("id");
  const auto id = parse_number(text);
  if (!id || *id < 1) {
    exchange.respond_error(
        error(ErrorCode::kInvalid, fmt::format("'{}' is not a job's number", excerpt(text)), "id"));
    return nullptr;
  }
  auto job = app.control->snapshot()->find(JobId(*id));
  if (job == nullptr) {
    exchange.respond_error(
        error(ErrorCode::kNotFound, fmt::format("There is no job {}", *id), "id"));
  }
  return job;
}

namespace {

constexpr std::array<std::string_view, 8> kStatuses = {"PENDING",    "STARTING",   "RUNNING",
                                                       "RECOVERING", "CANCELLING", "SUCCEEDED",
                                                       "FAILED",     "CANCELLED"};

/// Which jobs a list is of.
struct JobFilter {
  std::vector<std::string> statuses;  ///< any of these; empty: all
  bool active = false;
  bool finished = false;
  std::string owner, name, cluster;
  bool holders = false;  ///< also the jobs that hold clusters' nodes
  std::int64_t before = INT64_MAX;
  std::int64_t after = 0;
  std::size_t limit = 100;

  [[nodiscard]] bool takes(const job::Job& job) const {
    if ((!owner.empty() && job.request->owner != owner) ||
        (!name.empty() && job.request->name != name) ||
        (!cluster.empty() && job.request->cluster != cluster) ||
        (!holders && job.request->kind == job::Kind::kHolder)) {
      return false;
    }
    const bool over = job::is_terminal(job.status);
    return (statuses.empty() && !active && !finished) || (active && !over) || (finished && over) ||
           std::find(statuses.begin(), statuses.end(), to_string(job.status)) != statuses.end();
  }
};

Result<JobFilter> read_filter(const net::Request& request, const Caller& caller) {
  JobFilter filter;
  QueryReader query(request);
  const auto statuses = query.text("status");
  for (const std::string_view status :
       statuses ? split(*statuses, ',') : std::vector<std::string_view>()) {
    if (status == "active") {
      filter.active = true;
    } else if (status == "finished") {
      filter.finished = true;
    } else if (std::find(kStatuses.begin(), kStatuses.end(), status) != kStatuses.end()) {
      filter.statuses.emplace_back(status);
    } else {
      query.refuse("status", *statuses,
                   fmt::format("active, finished, or some of {}, separated by commas",
                               join_words({kStatuses.begin(), kStatuses.end()})));
    }
  }
  filter.owner = query.text("owner").value_or("");
  filter.name = query.text("name").value_or("");
  filter.cluster = query.text("cluster").value_or("");
  filter.holders = query.flag("holders");
  if (filter.owner == "me") {
    filter.owner = caller.user;
  }
  filter.limit = static_cast<std::size_t>(query.integer("limit", {1, 10'000}).value_or(100));
  filter.before = query.integer("before", {1, INT64_MAX}).value_or(INT64_MAX);
  filter.after = query.integer("after", {0, INT64_MAX}).value_or(0);
  QUAD_TRY(query.finish());
  return filter;
}

/// A list of jobs, some milliseconds of it at a time; any thread, one at a time.
class ListWork {
 public:
  ListWork(const control::Control& control, JobFilter filter)
      : control_(control),
        filter_(std::move(filter)),
        snapshot_(control.snapshot()),
        id_(std::min(filter_.before, snapshot_->last_job() + 1) - 1) {}

  std::optional<net::Response> step() {
    constexpr std::int64_t kLooked = 256;  // between two looks at the clock
    const auto until = std::chrono::steady_clock::now() + kPiece;
    while (id_ > filter_.after && rows_.size() < filter_.limit) {
      add(JobId(id_--));
      if (id_ % kLooked == 0 && std::chrono::steady_clock::now() >= until) {
        return std::nullopt;
      }
    }
    json::object answer;
    answer["revision"] = snapshot_->revision.value();
    answer["breaker"] = snapshot_->breaker;
    answer["next"] = id_ > filter_.after ? json::value(id_ + 1) : json::value(nullptr);
    answer["jobs"] = std::move(rows_);
    return json_answer(answer);
  }

 private:
  void add(JobId id) {
    const auto job = snapshot_->find(id);
    if (job != nullptr && filter_.takes(*job)) {
      rows_.push_back(job_row(*job, job::is_terminal(job->status) ? std::vector<control::RankLive>()
                                                                  : control_.live(id)));
    }
  }

  const control::Control& control_;
  const JobFilter filter_;
  const std::shared_ptr<const control::Snapshot> snapshot_;
  std::int64_t id_;
  json::array rows_;
};

asio::awaitable<void> list_jobs(App& app, net::Exchange& exchange) {
  constexpr std::size_t kShortList = 200;
  auto filter = read_filter(exchange.request(), caller_of(exchange));
  if (!filter.ok()) {
    exchange.respond_error(filter.error());
    co_return;
  }
  const Length length = filter->limit <= kShortList ? Length::kShort : Length::kLong;
  const auto work = std::make_shared<ListWork>(*app.control, std::move(filter).value());
  const std::function<std::optional<net::Response>()> step = [work] { return work->step(); };
  co_await answer_in_turn(app, exchange, length, step);
}

/// Whether the caller may change what is this job's, or reach into it.
bool may_touch(const Caller& caller, const job::Job& job) {
  return caller.role == Role::kAdmin ||
         (caller.role == Role::kUser && caller.user == job.request->owner);
}

Error not_yours(const job::Job& job) {
  return error(ErrorCode::kDenied,
               fmt::format("Job {} belongs to {}", job.id.value(), job.request->owner));
}

}  // namespace

std::shared_ptr<const job::Job> own_job_of(App& app, net::Exchange& exchange) {
  auto job = job_of(app, exchange);
  if (job != nullptr && !may_touch(caller_of(exchange), *job)) {
    exchange.respond_error(not_yours(*job));
    return nullptr;
  }
  return job;
}

namespace {

/// Asks for the end of all of them, and waits until it is recorded. The first error, if there was
/// one.
asio::awaitable<Status> cancel_all(App& app, net::Exchange& exchange, std::vector<JobId> jobs) {
  if (jobs.empty()) {
    co_return Status();
  }
  struct Progress {
    std::atomic<std::size_t> left;
    std::mutex
        mutex;  // an answer that control gives at once comes on this thread, the others on its own
    Status first;
  };
  const std::string by = caller_of(exchange).user;
  const std::function<void(std::function<void(Status)>)> start =
      [&](const std::function<void(Status)>& done) {
        auto progress = std::make_shared<Progress>();
        progress->left = jobs.size();
        for (const JobId id : jobs) {
          app.control->cancel(id, by, [progress, done](const Status& status) {
            {
              const std::lock_guard lock(progress->mutex);
              if (!status.ok() && progress->first.ok()) {
                progress->first = status;
              }
            }
            if (--progress->left == 0) {
              done(progress->first);
            }
          });
        }
      };
  co_return co_await ask<Status>(app, exchange, start);
}

asio::awaitable<void> cancel_job(App& app, net::Exchange& exchange) {
  const auto job = own_job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  std::vector<JobId> one(1, job->id);
  const Status status = co_await cancel_all(app, exchange, std::move(one));
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  exchange.respond(json_answer(job_row(*app.control->snapshot()->find(job->id), {})));
}

/// The jobs that a POST to /v1/jobs:cancel names, which the caller may all cancel. Any thread.
Result<std::vector<JobId>> read_cancel(std::string_view text, const Caller& caller,
                                       const control::Snapshot& snapshot) {
  constexpr std::size_t kMostIds = 10'000;
  QUAD_ASSIGN(const json::object body, parse_json_object(text));
  ObjectReader reader(body);
  const json::array* ids = reader.array("ids");
  const auto name = reader.text("name");
  const bool mine = reader.flag("mine").value_or(false);
  const bool all = reader.flag("all").value_or(false);
  const auto cluster = reader.text("cluster");  // only those on it
  if ((ids != nullptr ? 1 : 0) + (name ? 1 : 0) + (mine ? 1 : 0) + (all ? 1 : 0) != 1) {
    reader.fail(error(ErrorCode::kInvalid, "Give one of 'ids', 'name', 'mine' and 'all'"));
  }
  if (ids != nullptr && ids->size() > kMostIds) {
    reader.refuse("ids", fmt::format("at most {} numbers", kMostIds));
  }
  QUAD_TRY(reader.finish());
  std::vector<JobId> jobs;
  if (ids != nullptr) {
    for (const json::value& value : *ids) {
      const auto job = value.is_int64() && value.get_int64() > 0
                           ? snapshot.find(JobId(value.get_int64()))
                           : nullptr;
      if (job == nullptr) {
        return error(ErrorCode::kNotFound,
                     fmt::format("There is no job {}", excerpt(to_text(value))), "ids");
      }
      if (!may_touch(caller, *job)) {
        return not_yours(*job);
      }
      if (cluster && job->request->cluster != *cluster) {
        return error(ErrorCode::kInvalid,
                     fmt::format("Job {} is not on cluster {}", job->id.value(), excerpt(*cluster)),
                     "cluster");
      }
      jobs.push_back(job->id);
    }
    return jobs;
  }
  if (all && caller.role != Role::kAdmin) {
    return error(ErrorCode::kDenied,
                 "Only an administrator can cancel everybody's jobs; give 'mine' for your own",
                 "all");
  }
  for (std::int64_t id = 1; id <= snapshot.last_job(); ++id) {
    const auto job = snapshot.find(JobId(id));
    const bool wanted = job != nullptr && !job::is_terminal(job->status) &&
                        job->request->kind != job::Kind::kHolder &&
                        (!cluster || job->request->cluster == *cluster) &&
                        (all || (mine && job->request->owner == caller.user) ||
                         (name && job->request->name == *name && may_touch(caller, *job)));
    if (wanted) {
      jobs.push_back(job->id);
    }
  }
  return jobs;
}

asio::awaitable<void> cancel_many(App& app, net::Exchange& exchange) {
  constexpr std::size_t kShortRequest = 4U << 10U;
  const auto text = std::make_shared<const std::string>(std::move(exchange.request().body));
  const std::function<std::optional<Result<std::vector<JobId>>>()> work =
      [text, caller = caller_of(exchange), snapshot = app.control->snapshot()] {
        return read_cancel(*text, caller, *snapshot);
      };
  const auto read = co_await in_turn<Result<std::vector<JobId>>>(
      app, exchange, text->size() <= kShortRequest ? Length::kShort : Length::kLong, work);
  if (!read.ok()) {
    respond_busy(exchange, read.error());
    co_return;
  }
  const Result<std::vector<JobId>>& jobs = *read;
  if (!jobs.ok()) {
    exchange.respond_error(jobs.error());
    co_return;
  }
  const Status status = co_await cancel_all(app, exchange, *jobs);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  const auto after = app.control->snapshot();
  json::array list;
  for (const JobId id : *jobs) {
    const auto job = after->find(id);
    list.push_back(json::object{
        {"id", id.value()}, {"status", to_string(job->status)}, {"message", job->message}});
  }
  exchange.respond(json_answer(json::object{{"jobs", std::move(list)}}));
}

asio::awaitable<void> job_events(App& app, net::Exchange& exchange, bool story) {
  const auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  store::EventFilter filter;
  filter.job = job->id;
  filter.limit = 10'000;
  filter.kind_prefix = story ? "" : "checkpoint.";
  const EventsAnswer told = [job, story](const std::vector<job::Event>& events) {
    return json_answer(
        story ? story_view(*job, events)
              : json::object{{"id", job->id.value()}, {"checkpoints", checkpoints_view(events)}});
  };
  co_await answer_events(app, exchange, std::move(filter), told);
}

asio::awaitable<void> show_task(App& app, net::Exchange& exchange) {
  const auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  const std::function<std::optional<net::Response>()> work = [store = app.store, id = job->id] {
    const auto body = store->body(id);
    const auto object = body.ok() ? parse_json_object(*body) : Result<json::object>(body.error());
    if (!object.ok()) {
      return net::error_response(object.error());
    }
    const json::object* task = get_object(*object, "task");
    return json_answer(task == nullptr ? json::object() : *task);
  };
  co_await answer_in_turn(app, exchange, Length::kLong, work);
}

asio::awaitable<void> show_job(App& app, net::Exchange& exchange) {
  constexpr std::size_t kFewRanks = 256;
  const auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  const std::size_t ranks =
      job->attempts.size() * static_cast<std::size_t>(std::max(job->request->ranks, 1));
  const std::function<std::optional<net::Response>()> work = [control = app.control, job] {
    return json_answer(job_detail(*job, control->live(job->id)));
  };
  co_await answer_in_turn(app, exchange, ranks <= kFewRanks ? Length::kShort : Length::kLong, work);
}

}  // namespace

void add_job_routes(App& app, net::Router& router) {
  router.get("/v1/jobs", [&app](net::Exchange& e) { return list_jobs(app, e); });
  router.get("/v1/jobs/{id}", [&app](net::Exchange& e) { return show_job(app, e); });
  constexpr std::uint64_t kCancelBytes = 1ULL << 20U;
  router.post(
      "/v1/jobs:cancel", [&app](net::Exchange& e) { return cancel_many(app, e); },
      for_role(Role::kUser, kCancelBytes));
  router.post(
      "/v1/jobs/{id}/cancel", [&app](net::Exchange& e) { return cancel_job(app, e); },
      for_role(Role::kUser));
  router.get("/v1/jobs/{id}/why", [&app](net::Exchange& e) -> asio::awaitable<void> {
    if (const auto job = job_of(app, e)) {
      e.respond(json_answer(why_view(*job, *app.control->snapshot())));
    }
    co_return;
  });
  router.get("/v1/jobs/{id}/story", [&app](net::Exchange& e) { return job_events(app, e, true); });
  router.get("/v1/jobs/{id}/checkpoints",
             [&app](net::Exchange& e) { return job_events(app, e, false); });
  router.get("/v1/jobs/{id}/task", [&app](net::Exchange& e) { return show_task(app, e); });
}

}  // namespace quad::server
