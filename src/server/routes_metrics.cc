#include <fmt/format.h>

#include <algorithm>

#include "server/app.h"

namespace quad::server {

namespace asio = boost::asio;

void HttpCounts::count(int status, double took) {
  ++by_class[status / 100];
  ++within[static_cast<std::size_t>(std::lower_bound(kSeconds.begin(), kSeconds.end(), took) - kSeconds.begin())];
  seconds += took;
}

namespace {

asio::awaitable<void> metrics(App& app, net::Exchange& exchange) {
  std::map<std::string_view, std::int64_t> by_status;
  const auto snapshot = app.control->snapshot();
  for (int status = 0; status < 8; ++status) {
    by_status[to_string(static_cast<job::Status>(status))] = 0;
  }
  for (const auto& chunk : snapshot->chunks) {
    for (const auto& job : *chunk) {
      if (job != nullptr) {
        ++by_status[to_string(job->status)];
      }
    }
  }
  std::map<std::string_view, std::int64_t> by_health = {{"ready", 0}, {"suspect", 0}, {"lost", 0}};
  std::int64_t gpus_total = 0;
  std::int64_t gpus_free = 0;
  for (const auto& [id, node] : snapshot->pool.nodes()) {
    ++by_health[to_string(node.health)];
    gpus_total += node.spec.capacity.gpus;
    gpus_free += node.schedulable() ? node.free.gpus : 0;
  }
  std::string out;
  const auto head = [&out](std::string_view name, std::string_view type, std::string_view help) {
    out += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  };
  head("quad_jobs", "gauge", "Jobs by status.");
  for (const auto& [status, count] : by_status) {
    out += fmt::format("quad_jobs{{status=\"{}\"}} {}\n", status, count);
  }
  head("quad_nodes", "gauge", "Nodes by health.");
  for (const auto& [health, count] : by_health) {
    out += fmt::format("quad_nodes{{health=\"{}\"}} {}\n", health, count);
  }
  head("quad_gpus", "gauge", "GPUs there are.");
  out += fmt::format("quad_gpus {}\n", gpus_total);
  head("quad_gpus_free", "gauge", "GPUs free on nodes that take work.");
  out += fmt::format("quad_gpus_free {}\n", gpus_free);
  head("quad_jobs_waiting", "gauge", "Jobs that wait for a place.");
  out += fmt::format("quad_jobs_waiting {}\n", snapshot->queue == nullptr ? 0 : snapshot->queue->order.size());
  head("quad_event_revision", "counter", "Number of the last event.");
  out += fmt::format("quad_event_revision {}\n", snapshot->revision.value());
  head("quad_runner_sessions", "gauge", "Runners that are connected.");
  out += fmt::format("quad_runner_sessions {}\n", app.sessions.size());
  head("quad_breaker_open", "gauge", "1 while nothing is started because too many nodes fell silent at once.");
  out += fmt::format("quad_breaker_open {}\n", snapshot->breaker.empty() ? 0 : 1);
  head("quad_http_requests_total", "counter", "Requests answered, by class of status.");
  for (const auto& [status, count] : app.http.by_class) {
    out += fmt::format("quad_http_requests_total{{status=\"{}xx\"}} {}\n", status, count);
  }
  head("quad_http_request_seconds", "histogram", "Time from a request's head to the last byte of its answer.");
  std::uint64_t within = 0;
  for (std::size_t i = 0; i < HttpCounts::kSeconds.size(); ++i) {
    within += app.http.within[i];
    out += fmt::format("quad_http_request_seconds_bucket{{le=\"{:g}\"}} {}\n", HttpCounts::kSeconds[i], within);
  }
  within += app.http.within.back();
  out += fmt::format("quad_http_request_seconds_bucket{{le=\"+Inf\"}} {}\n", within);
  out += fmt::format("quad_http_request_seconds_sum {:.6f}\nquad_http_request_seconds_count {}\n", app.http.seconds, within);
  net::Response response = net::text_response(std::move(out));
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  exchange.respond(std::move(response));
  co_return;
}

}  // namespace

void add_metrics_routes(App& app, net::Router& router) {
  router.get("/metrics", [&app](net::Exchange& e) { return metrics(app, e); });
}

}  // namespace quad::server
