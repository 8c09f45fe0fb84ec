#include "server/views.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "engine/clusters.h"
#include "engine/kubernetes/views/node_view.h"
#include "job/record.h"
#include "server/foresee.h"

namespace quad::server {

namespace {

json::value time_or_null(const std::optional<WallTime>& time) {
  return time ? json::value(format_rfc3339(*time)) : json::value(nullptr);
}

json::array node_names(const job::Attempt& attempt) {
  json::array names;
  for (const job::RankRecord& rank : attempt.ranks) {
    names.emplace_back(rank.holding.node.value());
  }
  return names;
}

/// Progress as rank 0 reports it, or whoever reports the furthest step.
json::value progress_of(const std::vector<control::RankLive>& live) {
  const control::RankLive* best = nullptr;
  for (const control::RankLive& rank : live) {
    if (rank.step >= 0 && (best == nullptr || rank.step > best->step)) {
      best = &rank;
    }
  }
  if (best == nullptr) {
    return nullptr;
  }
  json::object progress;
  progress["step"] = best->step;
  progress["total"] = best->total >= 0 ? json::value(best->total) : json::value(nullptr);
  progress["metrics"] = best->metrics;
  // From the first report to the newest: what came before was imports and the reading of a
  // checkpoint.
  const double seconds =
      static_cast<double>((best->step_at - best->first_step_at).count()) / 1000.0;
  if (seconds > 0) {
    const double rate = static_cast<double>(best->step - best->first_step) / seconds;
    progress["rate"] = rate;
    if (rate > 0 && best->total > best->step) {
      progress["eta_s"] = static_cast<double>(best->total - best->step) / rate;
    }
  }
  return progress;
}

}  // namespace

std::string resources_text(const job::Job& job) {
  const job::Request& request = *job.request;
  const auto chosen =
      static_cast<std::size_t>(job.attempts.empty() ? 0 : job.attempts.back().shape);
  const job::Shape& shape = request.shapes[std::min(chosen, request.shapes.size() - 1)];
  if (shape.per_rank.gpus > 0) {
    return fmt::format("{}x[{}:{}]", request.ranks,
                       shape.gpu_model.empty() ? "GPU" : shape.gpu_model, shape.per_rank.gpus);
  }
  if (!shape.per_rank.devices.empty()) {
    const auto& [name, count] = *shape.per_rank.devices.begin();
    return fmt::format("{}x[{}:{}]", request.ranks, kubernetes::device_name(name), count);
  }
  return fmt::format("{}x[CPU:{:g}]", request.ranks,
                     static_cast<double>(shape.per_rank.cpu_milli) / 1000.0);
}

json::object job_row(const job::Job& job, const std::vector<control::RankLive>& live) {
  json::object row;
  row["id"] = job.id.value();
  row["name"] = job.request->name;
  row["owner"] = job.request->owner;
  row["cluster"] =
      job.request->cluster.empty() ? json::value(nullptr) : json::value(job.request->cluster);
  row["status"] = to_string(job.status);
  row["skypilot_status"] = skypilot_status(job);
  row["cause"] = to_string(job.cause);
  row["message"] = job.message;
  row["submitted_at"] = format_rfc3339(job.submitted_at);
  row["started_at"] = time_or_null(job.started_at);
  row["ended_at"] = time_or_null(job.ended_at);
  row["epoch"] = job.epoch().value();
  row["recoveries"] = job.recoveries;
  row["num_nodes"] = job.request->ranks;
  row["resources"] = resources_text(job);
  row["priority"] = job.request->priority;
  row["nodes"] = job.attempts.empty() ? json::array() : node_names(job.attempts.back());
  row["progress"] = progress_of(live);
  row["exit_code"] = is_terminal(job.status) ? json::value(job.exit_code) : json::value(nullptr);
  return row;
}

json::object job_detail(const job::Job& job, const std::vector<control::RankLive>& live) {
  json::object detail = job_row(job, live);
  json::array attempts;
  for (const job::Attempt& attempt : job.attempts) {
    json::object one;
    one["epoch"] = attempt.epoch.value();
    one["placed_at"] = format_rfc3339(attempt.placed_at);
    one["running_at"] = time_or_null(attempt.running_at);
    one["ended_at"] = time_or_null(attempt.ended_at);
    one["nodes"] = node_names(attempt);
    one["verdict"] = to_string(attempt.verdict);
    one["reason"] = attempt.reason;
    one["resumed_from"] = attempt.resume && !attempt.resume->path.empty()
                              ? json::value(attempt.resume->path)
                              : json::value(nullptr);
    one["resumed_step"] = attempt.resume && attempt.resume->step >= 0
                              ? json::value(attempt.resume->step)
                              : json::value(nullptr);
    one["checkpoint_step"] =
        attempt.checkpoint_step ? json::value(*attempt.checkpoint_step) : json::value(nullptr);
    json::array ranks;
    std::size_t heard_of = 0;
    for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
      const job::RankRecord& rank = attempt.ranks[i];
      json::object view;
      view["rank"] = static_cast<std::int64_t>(i);
      view["node"] = rank.holding.node.value();
      view["phase"] = to_string(rank.phase);
      view["address"] = rank.address;
      view["pid"] = rank.pid > 0 ? json::value(rank.pid) : json::value(nullptr);
      view["gpus"] = json::array(rank.holding.gpu_indices.begin(), rank.holding.gpu_indices.end());
      view["end"] = rank.end ? json::value(job::to_json(*rank.end)) : json::value(nullptr);
      if (&attempt == job.live()) {
        // In the order of ranks, without those of which nothing was heard.
        for (;
             heard_of < live.size() && live[heard_of].rank.value() <= static_cast<std::int32_t>(i);
             ++heard_of) {
          const control::RankLive& heard = live[heard_of];
          if (heard.rank.value() == static_cast<std::int32_t>(i)) {
            view["connected"] = heard.connected;
            view["heard_at"] = format_rfc3339(heard.heard_at);
            view["rss_bytes"] = heard.rss_bytes;
            view["cpu_percent"] = heard.cpu_percent;
          }
        }
      }
      ranks.push_back(std::move(view));
    }
    one["ranks"] = std::move(ranks);
    attempts.push_back(std::move(one));
  }
  detail["attempts"] = std::move(attempts);
  return detail;
}

json::object node_view(const pool::Node& node) {
  json::object view;
  view["name"] = node.spec.id.value();
  view["health"] = to_string(node.health);
  view["drained"] = node.drained;
  view["reason"] = node.reason;
  view["pretend"] = node.spec.pretend;
  view["address"] = node.spec.address;
  view["gpu_model"] = node.spec.gpu_model;
  view["gpus"] = node.spec.capacity.gpus;
  view["gpus_free"] = node.free.gpus;
  json::object devices;
  for (const auto& [name, count] : node.spec.capacity.devices) {
    const auto free = node.free.devices.find(name);
    devices[name] = json::object{{"total", count},
                                 {"free", free == node.free.devices.end() ? 0 : free->second}};
  }
  view["devices"] = std::move(devices);
  view["cpus"] = static_cast<double>(node.spec.capacity.cpu_milli) / 1000.0;
  view["cpus_free"] = static_cast<double>(node.free.cpu_milli) / 1000.0;
  view["memory_bytes"] = node.spec.capacity.memory_bytes;
  view["memory_free_bytes"] = node.free.memory_bytes;
  json::array jobs;
  for (const auto& [key, holding] : node.holdings) {
    if (jobs.empty() || jobs.back().as_int64() != key.job.value()) {
      jobs.emplace_back(key.job.value());
    }
  }
  view["jobs"] = std::move(jobs);
  return view;
}

json::object why_view(const job::Job& job, const control::Snapshot& snapshot) {
  json::object view;
  view["id"] = job.id.value();
  view["status"] = to_string(job.status);
  view["message"] = job.message;
  const auto why = snapshot.queue == nullptr ? std::nullopt : snapshot.queue->why(job.id);
  if (!why) {
    const job::Attempt* attempt = job.live();
    if (attempt != nullptr && attempt->fence_wait > Millis(0) && !attempt->resume &&
        !attempt->stopping) {
      view["code"] = "waiting_behind_the_fence";
    }
    return view;
  }
  put_why(view, *why);
  std::string message(get_string(view, "message"));
  for (const auto& [engine, reason] : snapshot.away) {
    const auto& shapes = job.request->shapes;
    if (std::any_of(shapes.begin(), shapes.end(), [&, &name = engine](const job::Shape& shape) {
          return shape.engine.empty() || shape.engine == name;
        })) {
      message += fmt::format(" Nothing new starts on {} now: {}.", engine, reason);
    }
  }
  for (const auto& [id, node] : snapshot.pool.nodes()) {
    if (node.spec.by_name && !node.spec.closed.empty() &&
        node.spec.engine == engine::cluster_engine(job.request->cluster)) {
      message += fmt::format(" Nothing new starts on {}: {}.", id.value(), node.spec.closed);
    }
  }
  view["message"] = message;
  return view;
}

json::array checkpoints_view(const std::vector<job::Event>& events) {
  json::array checkpoints;
  std::map<std::string, std::size_t, std::less<>> there;  // by path
  const auto mark_gone = [&](std::string_view path) {
    if (const auto known = there.find(path); known != there.end()) {
      checkpoints[known->second].as_object()["gone"] = true;
      there.erase(known);
    }
  };
  for (const job::Event& event : events) {
    if (event.kind == "checkpoint.complete") {
      json::object one = event.data;
      one["at"] = format_rfc3339(event.at);
      one["epoch"] = event.epoch.value();
      one["gone"] = false;
      const std::string path(get_string(one, "path"));
      mark_gone(path);  // it was written over
      there[path] = checkpoints.size();
      checkpoints.push_back(std::move(one));
    } else if (const json::array* paths = get_array(event.data, "paths")) {
      for (const json::value& path : *paths) {
        mark_gone(path.is_string() ? std::string_view(path.get_string()) : std::string_view());
      }
    }
  }
  return checkpoints;
}

json::object story_view(const job::Job& job, const std::vector<job::Event>& events) {
  json::array lines;
  for (const job::Event& event : events) {
    const bool detail = event.kind.starts_with("session.") || event.kind == "rank.setup" ||
                        event.kind == "checkpoint.gone" ||
                        (event.kind == "checkpoint.complete" && event.data.size() == 3 &&
                         event.message.find(". ") == std::string::npos);
    if (!detail) {
      lines.push_back(json::object{{"at", format_rfc3339(event.at)},
                                   {"epoch", event.epoch.value()},
                                   {"kind", event.kind},
                                   {"message", event.message}});
    }
  }
  json::object view;
  view["id"] = job.id.value();
  view["name"] = job.request->name;
  view["status"] = to_string(job.status);
  view["headline"] = job.message;
  view["lines"] = std::move(lines);
  return view;
}

}  // namespace quad::server
