#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include "base/text.h"
#include "server/app.h"
#include "server/check.h"
#include "server/input.h"
#include "server/views.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

asio::awaitable<void> nodes(App& app, net::Exchange& exchange) {
  json::array list;
  const auto snapshot = app.control->snapshot();
  for (const auto& [id, node] : snapshot->pool.nodes()) {
    if (node.spec.by_name) {
      continue;  // of a cluster, which is on one of the others
    }
    list.push_back(node_view(node));
  }
  exchange.respond(
      json_answer(json::object{{"breaker", snapshot->breaker}, {"nodes", std::move(list)}}));
  co_return;
}

asio::awaitable<void> act_on_node(App& app, net::Exchange& exchange) {
  const std::string verb(exchange.parameter("verb"));
  const NodeId node{std::string(exchange.parameter("name"))};
  const std::string by = caller_of(exchange).user;
  constexpr std::array<std::string_view, 6> kVerbs = {"fail", "return", "freeze",
                                                      "thaw", "drain",  "resume"};
  if (std::find(kVerbs.begin(), kVerbs.end(), verb) == kVerbs.end()) {
    exchange.respond_error(
        error(ErrorCode::kNotFound,
              fmt::format("'{}' cannot be done to a node; there are {}", excerpt(verb),
                          join_words({kVerbs.begin(), kVerbs.end()}))));
    co_return;
  }
  const std::function<void(std::function<void(Status)>)> start =
      [&](std::function<void(Status)> done) {
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
  const auto snapshot = app.control->snapshot();
  const pool::Node* found = snapshot->pool.find(node);
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
  const auto snapshot = app.control->snapshot();
  for (const auto& [id, node] : snapshot->pool.nodes()) {
    if (node.spec.by_name) {
      continue;  // of a cluster, which is on one of the others
    }
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
    list.push_back(json::object{{"gpu", model},
                                {"total", sum.total},
                                {"free", sum.free},
                                {"most_per_node", sum.most},
                                {"nodes", sum.nodes}});
  }
  exchange.respond(json_answer(json::object{{"gpus", std::move(list)}}));
  co_return;
}

/// "local", or "local, west": this machine and the clusters that jobs may run on.
std::string engines_of(const App& app) {
  std::vector<std::string> names = app.clusters;
  if (app.has_local) {
    names.insert(names.begin(), "local");
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

asio::awaitable<void> check_store(App& app, net::Exchange& exchange) {
  const std::function<Result<std::vector<std::string>>()> work = [store = app.store] {
    return store->check();
  };
  const auto faults = co_await away<Result<std::vector<std::string>>>(app, exchange, work);
  if (!faults.ok()) {
    exchange.respond_error(faults.error());
    co_return;
  }
  json::array list(faults->begin(), faults->end());
  exchange.respond(json_answer(json::object{{"ok", faults->empty()}, {"faults", std::move(list)}}));
}

asio::awaitable<void> check_engines_now(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const std::function<std::vector<engine::CheckReport>()> work = app.check;
  const auto reports = co_await away<std::vector<engine::CheckReport>>(app, exchange, work);
  exchange.respond(json_answer(check_view(reports)));
}

Result<std::string> read_backup_file(std::string_view text) {
  QUAD_ASSIGN(const json::object body, parse_json_object(text));
  ObjectReader reader(body);
  std::string file = reader.text("file").value_or("");
  if (file.empty() || file.front() != '/' || file.size() > 4000 ||
      file.find('\0') != std::string::npos) {
    reader.refuse("file", "an absolute path on the server");
  }
  QUAD_TRY(reader.finish());
  return file;
}

/// A copy may take the place of an older one, and of nothing else.
bool may_replace(const std::string& file) {
  constexpr std::string_view kMagic = "SQLite format 3";
  std::error_code failure;
  if (!std::filesystem::exists(std::filesystem::symlink_status(file, failure))) {
    return true;
  }
  if (!std::filesystem::is_regular_file(file, failure)) {
    return false;  // whoever opened a pipe would wait for its writer
  }
  std::ifstream in(file, std::ios::binary);
  std::string head(kMagic.size(), '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  return in.good() && head == kMagic;
}

asio::awaitable<void> backup(App& app, net::Exchange& exchange) {
  const auto file = read_backup_file(exchange.request().body);
  if (!file.ok()) {
    exchange.respond_error(file.error());
    co_return;
  }
  const std::function<Status()> work = [store = app.store, to = *file]() -> Status {
    if (!may_replace(to)) {
      return error(ErrorCode::kExists,
                   fmt::format("{} is there already and is no database; name another file", to),
                   "file");
    }
    return store->backup(to);
  };
  const Status status = co_await away<Status>(app, exchange, work);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  exchange.respond(json_answer(json::object{{"file", *file}}, 201));
}

}  // namespace

void add_admin_routes(App& app, net::Router& router) {
  router.get("/healthz", [&app](net::Exchange& e) -> asio::awaitable<void> {
    // It answers, which is what is asked: whoever would restart it for its disk's sake helps
    // nobody.
    json::object answer{{"status", "ok"}};
    if (const Status room = app.store->room(); !room.ok()) {
      answer["trouble"] = room.error().message;
    } else if (const auto snapshot = app.control->snapshot(); !snapshot->away.empty()) {
      const auto& [engine, why] = *snapshot->away.begin();
      answer["trouble"] = fmt::format("Nothing new starts on {}: {}.", engine, why);
    }
    e.respond(json_answer(answer));
    co_return;
  });
  router.get("/v1/info", [&app](net::Exchange& e) -> asio::awaitable<void> {
    const Caller& caller = caller_of(e);
    e.respond(json_answer(json::object{{"version", QUAD_VERSION},
                                       {"url", app.url},
                                       {"engine", engines_of(app)},
                                       {"started_at", format_rfc3339(app.started_at)},
                                       {"user", caller.user},
                                       {"role", to_string(caller.role)},
                                       {"revision", app.control->snapshot()->revision.value()}}));
    co_return;
  });
  router.get("/v1/nodes", [&app](net::Exchange& e) { return nodes(app, e); });
  router.post(
      "/v1/nodes/{name}/{verb}", [&app](net::Exchange& e) { return act_on_node(app, e); },
      for_role(Role::kAdmin));
  router.get("/v1/gpus", [&app](net::Exchange& e) { return gpus(app, e); });
  router.get("/v1/check", [&app](net::Exchange& e) { return check_engines_now(app, e); });
  router.post(
      "/v1/admin/check", [&app](net::Exchange& e) { return check_store(app, e); },
      for_role(Role::kAdmin));
  router.post(
      "/v1/admin/backup", [&app](net::Exchange& e) { return backup(app, e); },
      for_role(Role::kAdmin));
}

}  // namespace quad::server
