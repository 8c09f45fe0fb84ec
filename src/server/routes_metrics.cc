// GET /metrics, in Prometheus' text format. docs/operating.md lists what is told.

#include <fmt/format.h>

#include <array>

#include "server/app.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

/// Writes families one after the other: begin(), then the samples.
class MetricsText {
 public:
  using Labels = std::vector<std::pair<std::string_view, std::string_view>>;

  void begin(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }
  template <typename Number>
  void sample(Number value, const Labels& labels = {}) {
    line("", labels, value);
  }
  template <typename Number>
  void single(std::string_view name, std::string_view type, std::string_view help, Number value) {
    begin(name, type, help);
    sample(value);
  }
  void histogram(std::string_view name, std::string_view help, const Histogram& given) {
    begin(name, "histogram", help);
    std::uint64_t within = 0;
    for (std::size_t i = 0; i < Histogram::kSeconds.size(); ++i) {
      within += given.within[i];
      const std::string bound = fmt::format("{:g}", Histogram::kSeconds[i]);
      line("_bucket", {{"le", bound}}, within);
    }
    within += given.within.back();
    line("_bucket", {{"le", "+Inf"}}, within);
    line("_sum", {}, given.seconds.load());
    line("_count", {}, within);
  }
  std::string take() { return std::move(text_); }

 private:
  template <typename Number>
  void line(std::string_view suffix, const Labels& labels, Number value) {
    text_ += name_;
    text_ += suffix;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      text_ += fmt::format("{}{}=\"", i == 0 ? '{' : ',', labels[i].first);
      for (const char c : labels[i].second) {
        text_ += c == '\n' ? "\\n" : c == '"' ? "\\\"" : c == '\\' ? "\\\\" : std::string(1, c);
      }
      text_ += '"';
    }
    text_ += fmt::format("{} {}\n", labels.empty() ? "" : "}", value);
  }

  std::string name_;
  std::string text_;
};

void put_jobs(MetricsText& out, const control::Snapshot& snapshot) {
  std::map<std::string_view, std::int64_t> by_status;
  for (int status = 0; status < 8; ++status) {
    by_status[to_string(static_cast<job::Status>(status))] = 0;
  }
  std::map<std::string_view, std::int64_t> recoveries;
  for (std::size_t i = 0; i < job::kVerdicts; ++i) {
    const auto verdict = static_cast<job::Verdict>(i);
    if (job::cause_of(verdict) != job::Cause::kNone) {
      recoveries[to_string(verdict)] = 0;
    }
  }
  for (const auto& chunk : snapshot.chunks) {
    for (const auto& job : *chunk) {
      if (job == nullptr) {
        continue;
      }
      ++by_status[to_string(job->status)];
      for (std::size_t i = 0; i + 1 < job->attempts.size(); ++i) {
        ++recoveries[to_string(job->attempts[i].verdict)];
      }
    }
  }
  out.begin("quad_jobs", "gauge", "Jobs by status.");
  for (const auto& [status, count] : by_status) {
    out.sample(count, {{"status", status}});
  }
  out.single("quad_jobs_waiting", "gauge", "Jobs that wait for a place.",
             snapshot.queue == nullptr ? 0 : snapshot.queue->order.size());
  out.begin("quad_recoveries_total", "counter",
            "Attempts that another one followed, by why they ended.");
  for (const auto& [verdict, count] : recoveries) {
    out.sample(count, {{"verdict", verdict}});
  }
}

void put_nodes(MetricsText& out, const control::Snapshot& snapshot) {
  struct Gpus {
    std::int64_t free = 0;
    std::int64_t held = 0;
    std::int64_t closed = 0;
  };
  std::map<std::string_view, std::int64_t> by_health = {{"ready", 0}, {"suspect", 0}, {"lost", 0}};
  std::map<std::string_view, Gpus> by_model;
  std::int64_t drained = 0;
  for (const auto& [id, node] : snapshot.pool.nodes()) {
    if (node.spec.by_name) {
      continue;  // of a cluster, which is on one of the others
    }
    ++by_health[to_string(node.health)];
    drained += node.drained ? 1 : 0;
    if (node.spec.capacity.gpus > 0) {
      Gpus& gpus = by_model[node.spec.gpu_model];
      gpus.held += node.spec.capacity.gpus - node.free.gpus;
      (node.schedulable() ? gpus.free : gpus.closed) += node.free.gpus;
    }
  }
  out.begin("quad_nodes", "gauge", "Nodes by health.");
  for (const auto& [health, count] : by_health) {
    out.sample(count, {{"health", health}});
  }
  out.single("quad_nodes_drained", "gauge",
             "Nodes that were taken out of service, whatever their health.", drained);
  out.begin("quad_gpus", "gauge",
            "GPUs by model: held by jobs, free, or idle on a node that takes no work (closed).");
  for (const auto& [model, gpus] : by_model) {
    out.sample(gpus.free, {{"model", model}, {"state", "free"}});
    out.sample(gpus.held, {{"model", model}, {"state", "held"}});
    out.sample(gpus.closed, {{"model", model}, {"state", "closed"}});
  }
  out.single("quad_breaker_open", "gauge",
             "1 while nothing is started because too many nodes fell silent at once.",
             snapshot.breaker.empty() ? 0 : 1);
}

asio::awaitable<void> metrics(App& app, net::Exchange& exchange) {
  const auto snapshot = app.control->snapshot();
  MetricsText out;
  out.begin("quad_build_info", "gauge", "1, with the version as a label.");
  out.sample(1, {{"version", QUAD_VERSION}});
  out.single("process_start_time_seconds", "gauge", "When this server began.",
             static_cast<double>(app.started_at.millis) / 1000);
  put_jobs(out, *snapshot);
  put_nodes(out, *snapshot);
  out.histogram("quad_commit_seconds", "Time to make a batch of records durable.",
                app.commit_seconds);
  out.single("quad_inbox_length", "gauge", "Messages that wait for the control thread.",
             app.control->inbox_length());
  out.single("quad_events_total", "counter", "Events recorded, over all of this store's life.",
             snapshot->revision.value());
  out.single("quad_event_streams", "gauge", "Followers of events.", app.event_streams);
  out.single("quad_log_streams", "gauge", "Readers of output.", app.log_streams);
  out.single("quad_log_bytes_total", "counter", "Bytes of output taken since this server began.",
             app.logs->bytes_taken());
  out.single("quad_log_lost_bytes_total", "counter",
             "Bytes of output lost since this server began.", app.logs->bytes_lost());
  out.single("quad_runner_sessions", "gauge", "Runners that are connected.", app.sessions.size());
  const net::ServerCounters http =
      app.http == nullptr ? net::ServerCounters() : app.http->counters();
  out.single("quad_http_connections", "gauge", "Open connections, runners' too.", http.connections);
  out.single("quad_http_rejected_total", "counter", "Connections turned away for want of room.",
             http.rejected);
  out.begin("quad_http_requests_total", "counter", "Requests answered, by class of status.");
  for (const auto& [status, count] : app.answers) {
    const std::string name = status == 0 ? "none" : fmt::format("{}xx", status);
    out.sample(count, {{"status", name}});
  }
  out.histogram("quad_http_request_seconds",
                "Time from a request's head to the last byte of its answer.", app.request_seconds);
  net::Response response = net::text_response(out.take());
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  exchange.respond(std::move(response));
  co_return;
}

}  // namespace

void add_metrics_routes(App& app, net::Router& router) {
  router.get("/metrics", [&app](net::Exchange& e) { return metrics(app, e); });
}

}  // namespace quad::server
