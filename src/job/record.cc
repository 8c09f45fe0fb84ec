#include "job/record.h"

#include <fmt/format.h>

#include <concepts>

namespace quad::job {

namespace {

/// The value whose name is `text`, among the first `count` enumerators, if one has it.
template <typename Enum, std::size_t count>
std::optional<Enum> from_name(std::string_view text) {
  for (std::size_t i = 0; i < count; ++i) {
    if (to_string(static_cast<Enum>(i)) == text) {
      return static_cast<Enum>(i);
    }
  }
  return std::nullopt;
}

void put(json::object& object, std::string_view key, const std::string& value) {
  if (!value.empty()) {
    object[key] = value;
  }
}

void put(json::object& object, std::string_view key, std::int64_t value, std::int64_t usual = 0) {
  if (value != usual) {
    object[key] = value;
  }
}

void put(json::object& object, std::string_view key, std::same_as<bool> auto value) {
  if (value) {
    object[key] = true;
  }
}

void put(json::object& object, std::string_view key, const std::optional<WallTime>& value) {
  if (value) {
    object[key] = value->millis;
  }
}

std::optional<WallTime> get_time(const json::object& object, std::string_view key) {
  return object.contains(key) ? std::optional(WallTime{get_int(object, key)}) : std::nullopt;
}

std::string get_text(const json::object& object, std::string_view key) {
  return std::string(get_string(object, key));
}

json::array to_json(const std::vector<NodeId>& nodes) {
  json::array array;
  for (const NodeId& node : nodes) {
    array.emplace_back(node.value());
  }
  return array;
}

std::vector<NodeId> nodes_from(const json::array* array) {
  std::vector<NodeId> nodes;
  for (std::size_t i = 0; array != nullptr && i < array->size(); ++i) {
    if (const auto* text = (*array)[i].if_string()) {
      nodes.emplace_back(std::string(*text));
    }
  }
  return nodes;
}

template <typename Integer>
std::vector<Integer> integers_from(const json::array* array) {
  std::vector<Integer> values;
  for (std::size_t i = 0; array != nullptr && i < array->size(); ++i) {
    if ((*array)[i].is_int64()) {
      values.push_back(static_cast<Integer>((*array)[i].get_int64()));
    }
  }
  return values;
}

void put_resources(json::object& object, const pool::Resources& amount) {
  put(object, "cpu", amount.cpu_milli);
  put(object, "memory", amount.memory_bytes);
  put(object, "gpus", amount.gpus);
  if (!amount.devices.empty()) {
    json::object devices;
    for (const auto& [name, count] : amount.devices) {
      devices[name] = count;
    }
    object["devices"] = std::move(devices);
  }
}

pool::Resources resources_from(const json::object& object) {
  pool::Resources amount{get_int(object, "cpu"),
                         get_int(object, "memory"),
                         static_cast<std::int32_t>(get_int(object, "gpus")),
                         {}};
  if (const json::object* devices = get_object(object, "devices")) {
    for (const auto& one : *devices) {
      amount.devices[one.key()] = get_int(*devices, one.key());
    }
  }
  return amount;
}

}  // namespace

json::object to_json(const RankEnd& end) {
  json::object object;
  object["how"] = to_string(end.how);
  put(object, "code", end.code);
  put(object, "by_quad", end.by_quad);
  put(object, "out_of_memory", end.out_of_memory);
  put(object, "in_setup", end.in_setup);
  if (!end.confirmed) {
    object["confirmed"] = false;
  }
  put(object, "verdict", std::string(to_string(end.verdict)));
  put(object, "detail", end.detail);
  put(object, "at", end.at.millis);
  return object;
}

namespace {

/// One that is not known is none that could be acted upon.
Verdict verdict_from(const json::object& object) {
  return from_name<Verdict, kVerdicts>(get_string(object, "verdict")).value_or(Verdict::kUnknown);
}

}  // namespace

RankEnd rank_end_from_json(const json::object& object) {
  RankEnd end;
  // Never a success by mistake: an end that does not say how it came is one that left no result.
  end.how = from_name<RankEnd::How, 5>(get_string(object, "how")).value_or(RankEnd::How::kGone);
  end.code = static_cast<std::int32_t>(get_int(object, "code"));
  end.by_quad = get_bool(object, "by_quad");
  end.out_of_memory = get_bool(object, "out_of_memory");
  end.in_setup = get_bool(object, "in_setup");
  end.confirmed = get_bool(object, "confirmed", true);
  end.verdict = verdict_from(object);
  end.detail = get_text(object, "detail");
  end.at = WallTime{get_int(object, "at")};
  return end;
}

namespace {

json::object to_json(const RankRecord& rank) {
  json::object object;
  object["node"] = rank.holding.node.value();
  put_resources(object, rank.holding.amount);
  if (!rank.holding.gpu_indices.empty()) {
    object["gpu_indices"] =
        json::array(rank.holding.gpu_indices.begin(), rank.holding.gpu_indices.end());
  }
  object["phase"] = to_string(rank.phase);
  put(object, "nonce", rank.nonce);
  put(object, "address", rank.address);
  put(object, "port", rank.port);
  put(object, "pid", rank.pid);
  if (rank.taken) {
    object["taken"] =
        json::object{{"verdict", to_string(rank.taken->verdict)}, {"detail", rank.taken->detail}};
  }
  if (rank.end) {
    object["end"] = to_json(*rank.end);
  }
  return object;
}

RankRecord rank_from(const json::object& object) {
  RankRecord rank;
  rank.holding.node = NodeId(get_text(object, "node"));
  rank.holding.amount = resources_from(object);
  rank.holding.gpu_indices = integers_from<std::int32_t>(get_array(object, "gpu_indices"));
  rank.phase = from_name<RankPhase, 6>(get_string(object, "phase")).value_or(RankPhase::kOrdered);
  rank.nonce = get_text(object, "nonce");
  rank.address = get_text(object, "address");
  rank.port = static_cast<std::int32_t>(get_int(object, "port"));
  rank.pid = static_cast<std::int32_t>(get_int(object, "pid"));
  if (const auto* taken = get_object(object, "taken")) {
    rank.taken = Taken{verdict_from(*taken), get_text(*taken, "detail")};
  }
  if (const auto* end = get_object(object, "end")) {
    rank.end = rank_end_from_json(*end);
  }
  return rank;
}

json::object to_json(const Attempt& attempt) {
  json::object object;
  object["epoch"] = attempt.epoch.value();
  json::array ranks;
  for (const RankRecord& rank : attempt.ranks) {
    ranks.push_back(to_json(rank));
  }
  object["ranks"] = std::move(ranks);
  put(object, "shape", attempt.shape);
  put(object, "placed_at", attempt.placed_at.millis);
  put(object, "running_at", attempt.running_at);
  put(object, "ended_at", attempt.ended_at);
  put(object, "fence_wait", attempt.fence_wait.count());
  put(object, "lease", attempt.lease.count());
  if (attempt.resume) {
    json::object resume;
    resume["path"] = attempt.resume->path;
    put(resume, "step", attempt.resume->step, -1);
    put(resume, "note", attempt.resume->note);
    object["resume"] = std::move(resume);
  }
  if (attempt.checkpoint_step) {
    object["checkpoint_step"] = *attempt.checkpoint_step;
  }
  put(object, "wrote_checkpoint", attempt.wrote_checkpoint);
  put(object, "stopping", attempt.stopping);
  put(object, "verdict", std::string(to_string(attempt.verdict)));
  put(object, "reason", attempt.reason);
  return object;
}

Attempt attempt_from(const json::object& object) {
  Attempt attempt;
  attempt.epoch = Epoch(static_cast<std::int32_t>(get_int(object, "epoch")));
  if (const auto* ranks = get_array(object, "ranks")) {
    for (const json::value& rank : *ranks) {
      if (const auto* members = rank.if_object()) {
        attempt.ranks.push_back(rank_from(*members));
      }
    }
  }
  attempt.shape = static_cast<std::int32_t>(get_int(object, "shape"));
  attempt.placed_at = WallTime{get_int(object, "placed_at")};
  attempt.running_at = get_time(object, "running_at");
  attempt.ended_at = get_time(object, "ended_at");
  attempt.fence_wait = Millis(get_int(object, "fence_wait"));
  attempt.lease = Millis(get_int(object, "lease"));
  if (const auto* resume = get_object(object, "resume")) {
    attempt.resume =
        Resume{get_text(*resume, "path"), get_int(*resume, "step", -1), get_text(*resume, "note")};
  }
  if (object.contains("checkpoint_step")) {
    attempt.checkpoint_step = get_int(object, "checkpoint_step");
  }
  attempt.wrote_checkpoint = get_bool(object, "wrote_checkpoint");
  attempt.stopping = get_bool(object, "stopping");
  attempt.verdict = verdict_from(object);
  attempt.reason = get_text(object, "reason");
  return attempt;
}

}  // namespace

json::object to_json(const Request& request) {
  json::object object;
  object["name"] = request.name;
  object["owner"] = request.owner;
  if (request.by_server_user) {
    object["by_server_user"] = *request.by_server_user;
  }
  if (request.kind != Kind::kBatch) {
    object["kind"] = to_string(request.kind);
  }
  put(object, "cluster", request.cluster);
  put(object, "ranks", request.ranks, 1);
  json::array shapes;
  for (const Shape& shape : request.shapes) {
    json::object one;
    put_resources(one, shape.per_rank);
    put(one, "gpu_model", shape.gpu_model);
    put(one, "engine", shape.engine);
    shapes.push_back(std::move(one));
  }
  object["shapes"] = std::move(shapes);
  put(object, "priority", request.priority);
  put(object, "max_restarts_on_errors", request.recovery.max_restarts_on_errors);
  if (!request.recovery.recover_on_exit_codes.empty()) {
    object["recover_on_exit_codes"] = json::array(request.recovery.recover_on_exit_codes.begin(),
                                                  request.recovery.recover_on_exit_codes.end());
  }
  put(object, "max_without_progress", request.recovery.max_without_progress, 3);
  put(object, "strict_fence", request.recovery.strict_fence);
  if (!request.exclude_nodes.empty()) {
    object["exclude_nodes"] = to_json(request.exclude_nodes);
  }
  put(object, "stop_grace", request.stop_grace.count(), 30'000);
  if (request.max_duration) {
    object["max_duration"] = request.max_duration->count();
  }
  put(object, "body", request.body);
  return object;
}

Result<Request> request_from_json(const json::object& object) {
  Request request;
  request.name = get_text(object, "name");
  request.owner = get_text(object, "owner");
  if (object.contains("by_server_user")) {
    request.by_server_user = get_bool(object, "by_server_user");
  }
  request.kind = from_name<Kind, 4>(get_string(object, "kind", to_string(Kind::kBatch)))
                     .value_or(Kind::kBatch);
  request.cluster = get_text(object, "cluster");
  request.ranks = static_cast<std::int32_t>(get_int(object, "ranks", 1));
  if (const auto* shapes = get_array(object, "shapes")) {
    for (const json::value& shape : *shapes) {
      if (const auto* one = shape.if_object()) {
        request.shapes.push_back(
            {resources_from(*one), get_text(*one, "gpu_model"), get_text(*one, "engine")});
      }
    }
  }
  if (request.shapes.empty() || request.ranks < 1) {
    return error(ErrorCode::kInvalid, "The record of a request has no shape or no rank");
  }
  request.priority = static_cast<std::int32_t>(get_int(object, "priority"));
  request.recovery.max_restarts_on_errors =
      static_cast<std::int32_t>(get_int(object, "max_restarts_on_errors"));
  request.recovery.recover_on_exit_codes =
      integers_from<std::int32_t>(get_array(object, "recover_on_exit_codes"));
  request.recovery.max_without_progress =
      static_cast<std::int32_t>(get_int(object, "max_without_progress", 3));
  request.recovery.strict_fence = get_bool(object, "strict_fence");
  request.exclude_nodes = nodes_from(get_array(object, "exclude_nodes"));
  request.stop_grace = Millis(get_int(object, "stop_grace", 30'000));
  if (object.contains("max_duration")) {
    request.max_duration = Millis(get_int(object, "max_duration"));
  }
  request.body = get_text(object, "body");
  return request;
}

json::object to_json(const Job& job) {
  json::object object;
  object["id"] = job.id.value();
  object["status"] = to_string(job.status);
  put(object, "cause", std::string(to_string(job.cause)));
  put(object, "message", job.message);
  object["submitted_at"] = job.submitted_at.millis;
  put(object, "started_at", job.started_at);
  put(object, "ended_at", job.ended_at);
  put(object, "recoveries", job.recoveries);
  put(object, "recoveries_without_progress", job.recoveries_without_progress);
  put(object, "restarts_on_errors", job.restarts_on_errors);
  put(object, "exit_code", job.exit_code);
  if (!job.avoid_nodes.empty()) {
    object["avoid_nodes"] = to_json(job.avoid_nodes);
  }
  put(object, "cancelled_by", job.cancelled_by);
  json::array attempts;
  for (const Attempt& attempt : job.attempts) {
    attempts.push_back(to_json(attempt));
  }
  if (!attempts.empty()) {
    object["attempts"] = std::move(attempts);
  }
  return object;
}

Result<Job> job_from_json(const json::object& object, std::shared_ptr<const Request> request) {
  Job job;
  job.id = JobId(get_int(object, "id"));
  if (job.id.value() < 1) {
    return error(ErrorCode::kInvalid, "The record of a job has no id");
  }
  job.request = std::move(request);
  // A guess here could start a job again that is over.
  const auto status = from_name<Status, 8>(get_string(object, "status"));
  if (!status) {
    return error(ErrorCode::kInvalid,
                 fmt::format("The record of job {} has the status \"{}\", which is none",
                             job.id.value(), get_string(object, "status")));
  }
  job.status = *status;
  job.cause = from_name<Cause, 8>(get_string(object, "cause")).value_or(Cause::kInternal);
  job.message = get_text(object, "message");
  job.submitted_at = WallTime{get_int(object, "submitted_at")};
  job.started_at = get_time(object, "started_at");
  job.ended_at = get_time(object, "ended_at");
  job.recoveries = static_cast<std::int32_t>(get_int(object, "recoveries"));
  job.recoveries_without_progress =
      static_cast<std::int32_t>(get_int(object, "recoveries_without_progress"));
  job.restarts_on_errors = static_cast<std::int32_t>(get_int(object, "restarts_on_errors"));
  job.exit_code = static_cast<std::int32_t>(get_int(object, "exit_code"));
  job.avoid_nodes = nodes_from(get_array(object, "avoid_nodes"));
  job.cancelled_by = get_text(object, "cancelled_by");
  if (const auto* attempts = get_array(object, "attempts")) {
    for (const json::value& attempt : *attempts) {
      if (const auto* members = attempt.if_object()) {
        job.attempts.push_back(attempt_from(*members));
      }
    }
  }
  return job;
}

json::object to_json(const Event& event) {
  json::object object;
  object["revision"] = event.revision.value();
  object["at"] = format_rfc3339(event.at);
  if (event.job.value() != 0) {
    object["job"] = event.job.value();
  }
  if (event.epoch.value() != 0) {
    object["epoch"] = event.epoch.value();
  }
  if (event.rank.value() >= 0) {
    object["rank"] = event.rank.value();
  }
  put(object, "node", event.node);
  object["kind"] = event.kind;
  object["actor"] = event.actor;
  object["message"] = event.message;
  if (!event.data.empty()) {
    object["data"] = event.data;
  }
  return object;
}

}  // namespace quad::job
