// How tasks come in: POST /v1/jobs, /v1/jobs:bulk and /v1/validate.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <variant>

#include "control/cluster_changed.h"
#include "job/record.h"
#include "server/app.h"
#include "server/clusters.h"
#include "server/foresee.h"
#include "server/input.h"
#include "server/submit.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kMostAtOnce = 10'000;
constexpr std::uint64_t kTaskBytes = 8ULL << 20U;  // a text, written as JSON
constexpr std::uint64_t kBulkBytes = 64ULL << 20U;
/// Of one request together: alternatives of resources, each of which is weighed against the nodes,
/// and bytes that its tasks are when all is filled in.
constexpr std::size_t kMostAlternatives = 20'000;
constexpr std::size_t kMostMade = 128U << 20U;
/// A request up to this size is usually answered sooner than a thread is woken.
constexpr std::size_t kShortRequest = 4U << 10U;

bool is_blob_name(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Status read_overrides(const json::object& object, spec::Overrides& overrides) {
  ObjectReader reader(object, "overrides.");
  overrides.envs = reader.pairs("envs");
  overrides.secrets = reader.pairs("secrets");
  overrides.config = reader.pairs("config");
  overrides.name = reader.text("name");
  overrides.workdir = reader.text("workdir");
  overrides.cpus = reader.text("cpus");
  overrides.memory = reader.text("memory");
  overrides.gpus = reader.text("gpus");
  overrides.infra = reader.text("infra");
  overrides.image_id = reader.text("image_id");
  overrides.disk_size = reader.text("disk_size");
  overrides.git_url = reader.text("git_url");
  overrides.git_ref = reader.text("git_ref");
  overrides.instance_type = reader.text("instance_type");
  overrides.disk_tier = reader.text("disk_tier");
  overrides.network_tier = reader.text("network_tier");
  overrides.local_disk = reader.text("local_disk");
  overrides.ports = reader.texts("ports");
  overrides.use_spot = reader.flag("use_spot");
  if (const auto nodes = reader.integer("num_nodes", {1, 100'000})) {
    overrides.num_nodes = static_cast<int>(*nodes);
  }
  if (const auto priority = reader.integer("priority", {-1000, 1000})) {
    overrides.priority = static_cast<int>(*priority);
  }
  return reader.finish();
}

Status check_blob(const App& app, const std::string& hash, const std::string& where) {
  std::error_code failure;
  if (std::filesystem::exists(app.data_dir / "blobs" / hash, failure)) {
    return {};
  }
  return error(ErrorCode::kNotFound,
               fmt::format("Blob {} is not here; upload it first: PUT /v1/blobs/{}", hash, hash),
               where);
}

Status read_mount_blobs(const App& app, const json::object& blobs, SubmitContext& context) {
  for (const auto& member : blobs) {
    const std::string where = fmt::format("mount_blobs.{}.", excerpt(member.key()));
    const json::object* one = member.value().if_object();
    if (one == nullptr) {
      return error(ErrorCode::kInvalid,
                   "Each of mount_blobs must be an object with 'blob' and 'is_file'",
                   "mount_blobs");
    }
    ObjectReader reader(*one, where);
    const std::string blob = reader.text("blob").value_or("");
    const bool is_file = reader.flag("is_file").value_or(false);
    if (!is_blob_name(blob)) {
      reader.refuse("blob", "a SHA-256 in lower-case hexadecimal");
    }
    QUAD_TRY(reader.finish());
    QUAD_TRY(check_blob(app, blob, where + "blob"));
    context.mount_blobs[member.key()] = blob;
    context.mount_is_file[member.key()] = is_file;
  }
  return {};
}

/// One submission: its tasks as requests, or diagnostics that say what is wrong with them.
struct Taken {
  spec::TaskSet set;
  Prepared prepared;
  std::optional<control::ClusterUse> cluster;
  std::string client_key;
  bool dryrun = false;
};

/// `cluster`, `exec` and `autostop`.
Status read_cluster(App& app, const Caller& caller, const control::Snapshot& snapshot,
                    ObjectReader& reader, SubmitContext& context, Taken& taken) {
  const auto name = reader.text("cluster");
  const auto exec = reader.flag("exec");
  const json::object* autostop = reader.object("autostop");
  if (!name) {
    if (exec || autostop != nullptr) {
      return error(ErrorCode::kInvalid,
                   "'exec' and 'autostop' are about a 'cluster', whose name "
                   "is missing",
                   "cluster");
    }
    return {};
  }
  QUAD_TRY(control::check_cluster_name(*name));
  control::ClusterUse use;
  use.name = *name;
  use.exec = exec.value_or(false);
  use.by_admin = caller.role == Role::kAdmin;
  if (autostop != nullptr) {
    QUAD_ASSIGN(use.autostop, read_autostop(*autostop, "autostop."));
  }
  context.cluster = ClusterTarget{*name, use.exec, nullptr};
  if (const auto known = snapshot.clusters->find(*name); known != snapshot.clusters->end()) {
    const control::Cluster& cluster = known->second;
    context.cluster->holder = snapshot.find(cluster.holder);
    const bool stopped = control::status_of(cluster, context.cluster->holder.get()) == "STOPPED";
    if (stopped && !use.exec && context.cluster->holder != nullptr) {
      QUAD_ASSIGN(use.holder, holder_again(app, *context.cluster->holder));
    }
  } else if (use.exec) {
    // To be refused by control, unless it has been accepted before: all the same to whom it is
    // said.
    context.cluster->holder = nullptr;
  }
  taken.cluster = std::move(use);
  return {};
}

/// An Error is a fault of the message itself; faults of the task are in `prepared`. Any thread: of
/// the App it uses only what stays as it was at the start.
Result<Taken> take(App& app, const Caller& caller, const json::object& body,
                   const control::Snapshot& snapshot, bool only_validate) {
  Taken taken;
  SubmitContext context;
  context.owner = caller.user;
  context.now = app.clock->now().wall;
  context.secret_key = app.secret_key;
  context.snapshot = &snapshot;
  context.clusters = app.clusters;
  context.pods = &app.pods;
  context.has_local = app.has_local;
  ObjectReader reader(body);
  const auto yaml = reader.text("yaml");
  const auto command = reader.text("command");
  const json::object* given = reader.object("overrides");
  if (!only_validate) {
    const json::object* blobs = reader.object("mount_blobs");
    context.workdir_blob = reader.text("workdir_blob").value_or("");
    if (!context.workdir_blob.empty() && !is_blob_name(context.workdir_blob)) {
      reader.refuse("workdir_blob", "a SHA-256 in lower-case hexadecimal");
    }
    taken.client_key = reader.text("client_key").value_or("");
    if (characters_of(taken.client_key) > 200) {
      reader.refuse("client_key", "at most 200 characters long");
    }
    taken.dryrun = reader.flag("dryrun").value_or(false);
    QUAD_TRY(read_cluster(app, caller, snapshot, reader, context, taken));
    if (blobs != nullptr) {
      QUAD_TRY(read_mount_blobs(app, *blobs, context));
    }
  }
  QUAD_TRY(reader.finish());
  if (yaml.has_value() == command.has_value()) {
    return error(ErrorCode::kInvalid, "Give either 'yaml' or 'command', as text");
  }
  if (!context.workdir_blob.empty()) {
    QUAD_TRY(check_blob(app, context.workdir_blob, "workdir_blob"));
  }
  context.jobs = app.jobs;
  context.uploads_follow = only_validate || taken.dryrun;
  spec::Overrides overrides;
  if (given != nullptr) {
    QUAD_TRY(read_overrides(*given, overrides));
  }
  taken.set = yaml ? spec::parse(*yaml, overrides) : spec::from_command(*command, overrides);
  if (taken.set.ok()) {
    taken.prepared = prepare(taken.set, context);
    if (taken.cluster) {
      control::ClusterUse& use = *taken.cluster;
      if (!use.holder && !use.exec) {
        use.holder = std::move(taken.prepared.holder);
      }
      if (!use.autostop && !use.exec) {
        use.autostop = taken.prepared.autostop;
      }
    }
  } else {
    taken.prepared.errors = taken.set.errors;
    taken.prepared.warnings = taken.set.warnings;
  }
  return taken;
}

/// The usual error, and with it every diagnostic. `index`: which one of several submissions.
net::Response refusal(const Prepared& prepared, std::optional<std::size_t> index) {
  const spec::Diagnostic& first = prepared.errors.front();
  json::object inner{{"code", to_string(ErrorCode::kInvalid)}, {"message", first.message}};
  if (!first.key.empty()) {
    inner["where"] = first.key;
  }
  if (index) {
    inner["index"] = *index;
  }
  inner["errors"] = to_json(prepared.errors);
  inner["warnings"] = to_json(prepared.warnings);
  return json_answer(json::object{{"error", std::move(inner)}},
                     net::http_status(ErrorCode::kInvalid));
}

/// The same for a fault of the message itself, which has no diagnostics.
net::Response refusal(const Error& fault, std::optional<std::size_t> index) {
  json::object inner{{"code", to_string(fault.code)}, {"message", fault.message}};
  if (!fault.where.empty()) {
    inner["where"] = fault.where;
  }
  if (index) {
    inner["index"] = *index;
  }
  return json_answer(json::object{{"error", std::move(inner)}}, net::http_status(fault.code));
}

/// The submissions inside a POST body.
Result<std::vector<const json::object*>> bodies_of(const json::value& parsed, bool bulk) {
  std::vector<const json::object*> bodies;
  if (!parsed.is_object()) {
    return error(ErrorCode::kInvalid, "The body must be a JSON object");
  }
  if (!bulk) {
    bodies.push_back(&parsed.get_object());
    return bodies;
  }
  ObjectReader reader(parsed.get_object());
  const json::array* all = reader.array("jobs");
  QUAD_TRY(reader.finish());
  for (std::size_t i = 0; all != nullptr && i < all->size() && i <= kMostAtOnce; ++i) {
    bodies.push_back((*all)[i].if_object());
  }
  if (bodies.empty() || bodies.size() > kMostAtOnce ||
      std::count(bodies.begin(), bodies.end(), nullptr) > 0) {
    return error(ErrorCode::kInvalid,
                 fmt::format("'jobs' must be an array of 1 to {} objects", kMostAtOnce), "jobs");
  }
  return bodies;
}

json::object plan_of(const job::Request& request) {
  json::object plan = job::to_json(request);
  plan.erase("body");
  plan.erase("by_server_user");
  return plan;
}

/// A POST with submissions, read and checked piece by piece, and if it is a dry run also answered;
/// any thread, one at a time.
class SubmitWork {
 public:
  struct Accepted {
    std::vector<control::Submission> submissions;
    json::array warnings;
  };
  using Outcome = std::variant<net::Response, Accepted>;

  SubmitWork(App& app, Caller caller, std::string body, bool bulk)
      : app_(app),
        caller_(std::move(caller)),
        body_(std::move(body)),
        bulk_(bulk),
        snapshot_(app.control->snapshot()) {}

  std::optional<Outcome> step() {
    auto outcome = advance();
    if (outcome) {
      // Here, as to free a large request takes its time as well.
      bodies_ = std::vector<const json::object*>();
      parsed_.reset();
      requests_ = {};
      foreseen_.reset();
    }
    return outcome;
  }

 private:
  std::optional<Outcome> advance() {
    if (!parsed_) {
      parsed_.emplace(parse_json(body_));
      body_ = {};
      bodies_ = parsed_->ok() ? bodies_of(**parsed_, bulk_)
                              : Result<std::vector<const json::object*>>(parsed_->error());
      if (!bodies_.ok()) {
        return net::error_response(bodies_.error());
      }
    }
    const auto until = std::chrono::steady_clock::now() + kPiece;
    while (next_ < bodies_->size()) {
      if (auto refused = take_next()) {
        return std::move(*refused);
      }
      if (std::chrono::steady_clock::now() >= until && next_ < bodies_->size()) {
        return std::nullopt;
      }
    }
    if (dryrun_) {
      return foresee_next();
    }
    return Accepted{std::move(submissions_), std::move(warnings_)};
  }

  [[nodiscard]] std::optional<std::size_t> index() const {
    return bulk_ ? std::optional(next_) : std::nullopt;
  }

  /// Why the request may not have this one as well.
  Status count(const Taken& taken) {
    for (const spec::Task& task : taken.set.tasks) {
      alternatives_ += task.resources.size();
    }
    for (const job::Request& request : taken.prepared.requests) {
      made_ += request.body.size();
    }
    if (alternatives_ > kMostAlternatives) {
      return error(ErrorCode::kInvalid,
                   fmt::format("With this one the request has {} alternatives of resources; {} are "
                               "the most, so send fewer jobs at once, or fewer alternatives each",
                               alternatives_, kMostAlternatives),
                   "resources");
    }
    if (made_ > kMostMade) {
      return error(ErrorCode::kInvalid,
                   fmt::format("With this one the tasks of the request have more than {} MiB once "
                               "all is filled in; send fewer jobs at once",
                               kMostMade >> 20U));
    }
    return {};
  }

  /// Takes the next submission; an answer if that refuses all of them.
  std::optional<net::Response> take_next() {
    auto taken = take(app_, caller_, *(*bodies_)[next_], *snapshot_, false);
    if (!taken.ok()) {
      return refusal(taken.error(), index());
    }
    if (!taken->prepared.errors.empty()) {
      return refusal(taken->prepared, index());
    }
    if (bulk_ && taken->cluster) {
      return refusal(error(ErrorCode::kInvalid,
                           "Tasks for a cluster are submitted one at a time: POST them to /v1/jobs",
                           "cluster"),
                     index());
    }
    if (const Status counted = count(*taken); !counted.ok()) {
      return refusal(counted.error(), index());
    }
    ++next_;
    dryrun_ = dryrun_ || taken->dryrun;
    for (json::value& warning : to_json(taken->prepared.warnings)) {
      warnings_.push_back(std::move(warning));
    }
    for (job::Request& request : taken->prepared.requests) {
      if (!dryrun_) {
        submissions_.push_back({std::move(request), taken->client_key, taken->cluster});
        continue;
      }
      if (taken->cluster && taken->cluster->holder) {
        request = std::move(*taken->cluster->holder);  // whose place is the question
      }
      plans_.push_back(plan_of(request));
      requests_.push_back(std::move(request));
    }
    return std::nullopt;
  }

  std::optional<Outcome> foresee_next() {
    if (!foreseen_) {
      foreseen_ = foresee(*snapshot_, requests_);
      return std::nullopt;
    }
    const auto until = std::chrono::steady_clock::now() + kPiece;
    while (views_.size() < foreseen_->size()) {
      const std::size_t i = views_.size();
      const Foresight& one = (*foreseen_)[i];
      json::object view = to_json(one);
      if (!one.nodes.empty()) {
        auto manifests =
            app_.manifests(std::make_shared<const job::Job>(job_started(requests_[i], one)));
        if (!manifests.ok()) {
          return net::error_response(manifests.error());
        }
        view["manifests"] = std::move(manifests).value();
      }
      views_.push_back(std::move(view));
      if (std::chrono::steady_clock::now() >= until) {
        return std::nullopt;
      }
    }
    return json_answer(json::object{{"dryrun", true},
                                    {"requests", std::move(plans_)},
                                    {"plans", std::move(views_)},
                                    {"warnings", std::move(warnings_)}});
  }

  App& app_;
  const Caller caller_;
  std::string body_;
  const bool bulk_;
  const std::shared_ptr<const control::Snapshot> snapshot_;
  std::optional<Result<json::value>> parsed_;
  Result<std::vector<const json::object*>> bodies_ = std::vector<const json::object*>();
  std::size_t next_ = 0;
  std::size_t alternatives_ = 0;
  std::size_t made_ = 0;
  bool dryrun_ = false;
  std::vector<control::Submission> submissions_;
  json::array warnings_;
  json::array plans_;
  std::vector<job::Request> requests_;  // of a dry run
  std::optional<std::vector<Foresight>> foreseen_;
  json::array views_;
};

asio::awaitable<void> submit(App& app, net::Exchange& exchange, bool bulk, int tries = 1) {
  std::string& body = exchange.request().body;
  // What is for a cluster may have to be read again.
  const std::string kept =
      !bulk && body.find("\"cluster\"") != std::string::npos ? body : std::string();
  // A dry run asks what becomes of all that wait, however short it is.
  const bool is_short =
      body.size() <= kShortRequest && body.find("dryrun") == std::string::npos && !bulk;
  const auto work =
      std::make_shared<SubmitWork>(app, caller_of(exchange), std::exchange(body, {}), bulk);
  const std::function<std::optional<SubmitWork::Outcome>()> step = [work] { return work->step(); };
  auto outcome = co_await in_turn<SubmitWork::Outcome>(
      app, exchange, is_short ? Length::kShort : Length::kLong, step);
  if (!outcome.ok()) {
    respond_busy(exchange, outcome.error());
    co_return;
  }
  if (auto* answer = std::get_if<net::Response>(&*outcome)) {
    exchange.respond(std::move(*answer));
    co_return;
  }
  auto& accepted = std::get<SubmitWork::Accepted>(*outcome);
  const std::function<void(std::function<void(Result<std::vector<JobId>>)>)> start =
      [&app, &accepted](std::function<void(Result<std::vector<JobId>>)> done) {
        app.control->submit(std::move(accepted.submissions), std::move(done));
      };
  const auto ids = co_await ask<Result<std::vector<JobId>>>(app, exchange, start);
  constexpr int kMostTries = 10;
  if (!ids.ok() && control::is_cluster_changed(ids.error()) && !kept.empty() &&
      tries < kMostTries) {
    body = kept;
    co_await submit(app, exchange, bulk, tries + 1);  // from what is there now
    co_return;
  }
  if (!ids.ok()) {
    exchange.respond_error(ids.error());
    co_return;
  }
  const auto after = app.control->snapshot();
  json::array jobs;
  for (const JobId id : *ids) {
    json::object one{{"id", id.value()}};
    if (const auto job = after->find(id)) {
      one["name"] = job->request->name;
      one["status"] = to_string(job->status);
    }
    jobs.push_back(std::move(one));
  }
  exchange.respond(json_answer(
      json::object{{"jobs", std::move(jobs)}, {"warnings", std::move(accepted.warnings)}}, 201));
}

/// What a task's text means, and what is wrong with it. Any thread.
net::Response validated(App& app, const Caller& caller, std::string_view text) {
  const auto body = parse_json_object(text);
  const auto snapshot = app.control->snapshot();
  auto taken = body.ok() ? take(app, caller, *body, *snapshot, true) : Result<Taken>(body.error());
  if (!taken.ok()) {
    return net::error_response(taken.error());
  }
  json::object answer = spec::to_json(taken->set, "", spec::Redact::kYes);
  answer.erase("path");
  answer["ok"] = taken->prepared.errors.empty();
  answer["errors"] = to_json(taken->prepared.errors);
  answer["warnings"] = to_json(taken->prepared.warnings);
  json::array plans;
  if (taken->prepared.errors.empty()) {
    for (const job::Request& request : taken->prepared.requests) {
      plans.push_back(plan_of(request));
    }
  }
  answer["requests"] = std::move(plans);
  return json_answer(answer);
}

asio::awaitable<void> validate(App& app, net::Exchange& exchange) {
  const auto text = std::make_shared<const std::string>(std::move(exchange.request().body));
  const Length length = text->size() <= kShortRequest ? Length::kShort : Length::kLong;
  const std::function<std::optional<net::Response>()> work =
      [&app, caller = caller_of(exchange), text] { return validated(app, caller, *text); };
  co_await answer_in_turn(app, exchange, length, work);
}

}  // namespace

void add_submit_routes(App& app, net::Router& router) {
  router.post(
      "/v1/jobs", [&app](net::Exchange& e) { return submit(app, e, false); },
      for_role(Role::kUser, kTaskBytes));
  router.post(
      "/v1/jobs:bulk", [&app](net::Exchange& e) { return submit(app, e, true); },
      for_role(Role::kUser, kBulkBytes));
  router.post(
      "/v1/validate", [&app](net::Exchange& e) { return validate(app, e); },
      for_role(Role::kViewer, kTaskBytes));
}

}  // namespace quad::server
