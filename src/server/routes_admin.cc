#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "server/app.h"
#include "server/views.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

asio::awaitable<void> nodes(App& app, net::Exchange& exchange) {
  json::array list;
  const auto snapshot = app.control->snapshot();
  for (const auto& [id, node] : snapshot->pool.nodes()) {
    list.push_back(node_view(node));
  }
  exchange.respond(json_answer(json::object{{"breaker", snapshot->breaker}, {"nodes", std::move(list)}}));
  co_return;
}

asio::awaitable<void> act_on_node(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const std::string verb(exchange.parameter("verb"));
  const NodeId node{std::string(exchange.parameter("name"))};
  const std::string by = caller_of(exchange).user;
  constexpr std::array<std::string_view, 6> kVerbs = {"fail", "return", "freeze", "thaw", "drain", "resume"};
  if (std::find(kVerbs.begin(), kVerbs.end(), verb) == kVerbs.end()) {
    exchange.respond_error(error(ErrorCode::kNotFound,
                                 fmt::format("'{}' cannot be done to a node; there are fail, return, freeze, thaw, "
                                             "drain and resume",
                                             verb)));
    co_return;
  }
  const std::function<void(std::function<void(Status)>)> start = [&](std::function<void(Status)> done) {
    if (verb == "drain" || verb == "resume") {
      app.control->drain(node, verb == "drain", by, std::move(done));
    } else {
      app.control->node_action(node, verb, by, std::move(done));
    }
  };
  const Status status = co_await ask<Status>(app, exchange, start);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  const pool::Node* found = app.control->snapshot()->pool.find(node);
  exchange.respond(json_answer(found == nullptr ? json::object() : node_view(*found)));
}

asio::awaitable<void> gpus(App& app, net::Exchange& exchange) {
  struct Sum {
    std::int64_t total = 0;
    std::int64_t free = 0;
    std::int64_t most = 0;
    std::int64_t nodes = 0;
  };
  std::map<std::string, Sum> models;
  for (const auto& [id, node] : app.control->snapshot()->pool.nodes()) {
    if (node.spec.capacity.gpus > 0) {
      Sum& sum = models[node.spec.gpu_model];
      sum.total += node.spec.capacity.gpus;
      sum.free += node.schedulable() ? node.free.gpus : 0;
      sum.most = std::max<std::int64_t>(sum.most, node.spec.capacity.gpus);
      ++sum.nodes;
    }
  }
  json::array list;
  for (const auto& [model, sum] : models) {
    list.push_back(json::object{
        {"gpu", model}, {"total", sum.total}, {"free", sum.free}, {"most_per_node", sum.most}, {"nodes", sum.nodes}});
  }
  exchange.respond(json_answer(json::object{{"gpus", std::move(list)}}));
  co_return;
}

asio::awaitable<void> list_tokens(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  json::array list;
  for (const auto& [hash, token] : app.tokens) {
    list.push_back(json::object{{"id", token.id},
                                {"name", token.name},
                                {"user", token.user},
                                {"role", to_string(token.role)},
                                {"created_at", token.created_at}});
  }
  exchange.respond(json_answer(json::object{{"tokens", std::move(list)}}));
}

job::Event token_event(const Token& token, std::string kind, const std::string& by, std::string_view what) {
  job::Event event;
  event.kind = std::move(kind);
  event.actor = by;
  event.message = fmt::format("{} {} token {} of {} ({}).", by, what, token.id, token.user, to_string(token.role));
  return event;
}

asio::awaitable<void> create_token(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const auto body = parse_json_object(exchange.request().body);
  if (!body.ok()) {
    exchange.respond_error(body.error());
    co_return;
  }
  Token token;
  token.user = get_string(*body, "user");
  token.name = get_string(*body, "name", token.user);
  const std::string_view role = get_string(*body, "role", "user");
  if (token.user.empty() || token.user.size() > 64 || (role != "admin" && role != "user" && role != "viewer")) {
    exchange.respond_error(
        error(ErrorCode::kInvalid, "Give 'user', and a 'role' of admin, user or viewer", token.user.empty() ? "user" : "role"));
    co_return;
  }
  token.role = role == "admin" ? Role::kAdmin : role == "user" ? Role::kUser : Role::kViewer;
  token.created_at = format_rfc3339(app.clock->now().wall);
  const std::string secret = make_token(token);
  const job::Event event = token_event(token, "token.created", caller_of(exchange).user, "made");
  const std::function<void(std::function<void(Status)>)> start = [&](std::function<void(Status)> done) {
    app.control->set_setting("token/" + token.id, token_record(token), event, std::move(done));
  };
  const Status status = co_await ask<Status>(app, exchange, start);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  load_tokens(app);
  exchange.respond(json_answer(
      json::object{{"id", token.id}, {"token", secret}, {"user", token.user}, {"role", to_string(token.role)}}, 201));
}

asio::awaitable<void> revoke_token(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const std::string id(exchange.parameter("id"));
  const auto it = std::find_if(app.tokens.begin(), app.tokens.end(), [&](const auto& one) { return one.second.id == id; });
  if (it == app.tokens.end()) {
    exchange.respond_error(error(ErrorCode::kNotFound, fmt::format("There is no token '{}'", id)));
    co_return;
  }
  const job::Event event = token_event(it->second, "token.revoked", caller_of(exchange).user, "revoked");
  const std::function<void(std::function<void(Status)>)> start = [&](std::function<void(Status)> done) {
    app.control->set_setting("token/" + id, "", event, std::move(done));
  };
  const Status status = co_await ask<Status>(app, exchange, start);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  load_tokens(app);
  exchange.respond(json_answer(json::object{{"id", id}, {"revoked", true}}));
}

asio::awaitable<void> check_store(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const auto faults = app.store->check();
  if (!faults.ok()) {
    exchange.respond_error(faults.error());
    co_return;
  }
  json::array list(faults->begin(), faults->end());
  exchange.respond(json_answer(json::object{{"ok", faults->empty()}, {"faults", std::move(list)}}));
}

asio::awaitable<void> backup(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const auto body = parse_json_object(exchange.request().body);
  const std::string file(body.ok() ? get_string(*body, "file") : "");
  if (file.empty() || file.front() != '/') {
    exchange.respond_error(error(ErrorCode::kInvalid, "Give 'file': an absolute path on the server", "file"));
    co_return;
  }
  const Status status = app.store->backup(file);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  exchange.respond(json_answer(json::object{{"file", file}}, 201));
}

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
  head("quad_event_revision", "counter", "Number of the last event.");
  out += fmt::format("quad_event_revision {}\n", snapshot->revision.value());
  head("quad_runner_sessions", "gauge", "Runners that are connected.");
  out += fmt::format("quad_runner_sessions {}\n", app.sessions.size());
  head("quad_breaker_open", "gauge", "1 while nothing is started because too many nodes fell silent at once.");
  out += fmt::format("quad_breaker_open {}\n", snapshot->breaker.empty() ? 0 : 1);
  head("quad_http_requests_total", "counter", "Requests answered, by class of status.");
  for (const auto& [status, count] : app.answers) {
    out += fmt::format("quad_http_requests_total{{status=\"{}xx\"}} {}\n", status, count);
  }
  head("quad_http_request_seconds_total", "counter", "Time spent answering.");
  out += fmt::format("quad_http_request_seconds_total {:.6f}\n", app.seconds);
  net::Response response = net::text_response(std::move(out));
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  exchange.respond(std::move(response));
  co_return;
}

}  // namespace

void add_admin_routes(App& app, net::Router& router) {
  router.get("/healthz", [](net::Exchange& e) -> asio::awaitable<void> {
    e.respond(json_answer(json::object{{"status", "ok"}}));
    co_return;
  });
  router.get("/metrics", [&app](net::Exchange& e) { return metrics(app, e); });
  router.get("/v1/info", [&app](net::Exchange& e) -> asio::awaitable<void> {
    const Caller& caller = caller_of(e);
    e.respond(json_answer(json::object{{"version", QUAD_VERSION},
                                       {"url", app.url},
                                       {"engine", "local"},
                                       {"started_at", format_rfc3339(app.started_at)},
                                       {"user", caller.user},
                                       {"role", to_string(caller.role)},
                                       {"revision", app.control->snapshot()->revision.value()}}));
    co_return;
  });
  router.get("/v1/nodes", [&app](net::Exchange& e) { return nodes(app, e); });
  router.post("/v1/nodes/{name}/{verb}", [&app](net::Exchange& e) { return act_on_node(app, e); });
  router.get("/v1/gpus", [&app](net::Exchange& e) { return gpus(app, e); });
  router.get("/v1/tokens", [&app](net::Exchange& e) { return list_tokens(app, e); });
  router.post("/v1/tokens", [&app](net::Exchange& e) { return create_token(app, e); });
  router.add("DELETE", "/v1/tokens/{id}", [&app](net::Exchange& e) { return revoke_token(app, e); });
  router.post("/v1/admin/check", [&app](net::Exchange& e) { return check_store(app, e); });
  router.post("/v1/admin/backup", [&app](net::Exchange& e) { return backup(app, e); });
}

}  // namespace quad::server
