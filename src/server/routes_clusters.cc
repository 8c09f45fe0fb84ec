// Clusters: lists, one, and what may be done to them. Tasks for them come in as jobs do
// (routes_submit.cc).

#include <fmt/format.h>

#include <array>

#include "control/cluster_changed.h"
#include "job/record.h"
#include "server/clusters.h"
#include "server/input.h"
#include "server/views.h"

namespace quad::server {

namespace asio = boost::asio;

Result<control::Autostop> read_autostop(const json::object& object, const std::string& where) {
  constexpr std::int64_t kMinute = 60'000;
  ObjectReader reader(object, where);
  control::Autostop autostop;
  const auto minutes = reader.integer("idle_minutes", {0, control::kLongestIdle.count() / kMinute});
  if (!minutes) {
    reader.refuse("idle_minutes", "a number of minutes, from 0");
  }
  autostop.idle = Millis(minutes.value_or(0) * kMinute);
  autostop.down = reader.flag("down").value_or(false);
  if (const auto text = reader.text("wait_for")) {
    if (const auto wait_for = control::wait_for_of(*text)) {
      autostop.wait_for = *wait_for;
    } else {
      reader.refuse("wait_for", "jobs_and_ssh, jobs or none");
    }
  }
  QUAD_TRY(reader.finish());
  return autostop;
}

Result<job::Request> holder_again(App& app, const job::Job& holder) {
  job::Request request = *holder.request;
  if (request.body.empty()) {
    QUAD_ASSIGN(request.body, app.store->body(holder.id));
  }
  return request;
}

json::object cluster_view(const control::Cluster& cluster, const control::Snapshot& snapshot) {
  const auto holder = snapshot.find(cluster.holder);
  json::object view;
  view["name"] = cluster.name;
  view["owner"] = cluster.owner;
  view["status"] = control::status_of(cluster, holder.get());
  const auto why = snapshot.queue == nullptr || holder == nullptr
                       ? std::nullopt
                       : snapshot.queue->why(cluster.holder);
  view["message"] = !cluster.reason.empty() ? cluster.reason
                    : why                   ? why->message
                    : holder != nullptr     ? holder->message
                                            : std::string();
  view["job"] = cluster.holder.value();
  view["num_nodes"] = holder == nullptr ? 0 : holder->request->ranks;
  view["resources"] = holder == nullptr ? "" : resources_text(*holder);
  json::array nodes;
  if (const job::Attempt* attempt = holder == nullptr ? nullptr : holder->live()) {
    for (const job::RankRecord& rank : attempt->ranks) {
      nodes.emplace_back(rank.holding.node.value());
    }
  }
  view["nodes"] = std::move(nodes);
  view["recoveries"] = holder == nullptr ? 0 : holder->recoveries;
  view["launched_at"] = format_rfc3339(cluster.launched_at);
  view["autostop"] = nullptr;
  if (cluster.autostop) {
    view["autostop"] = json::object{{"idle_minutes", cluster.autostop->idle.count() / 60'000},
                                    {"down", cluster.autostop->down},
                                    {"wait_for", control::to_string(cluster.autostop->wait_for)}};
  }
  return view;
}

namespace {

asio::awaitable<void> list_clusters(App& app, net::Exchange& exchange) {
  QueryReader query(exchange.request());
  std::string owner = query.text("owner").value_or("");
  if (const Status read = query.finish(); !read.ok()) {
    exchange.respond_error(read.error());
    co_return;
  }
  if (owner == "me") {
    owner = caller_of(exchange).user;
  }
  const auto snapshot = app.control->snapshot();
  json::array list;
  for (const auto& [name, cluster] : *snapshot->clusters) {
    if (owner.empty() || cluster.owner == owner) {
      list.push_back(cluster_view(cluster, *snapshot));
    }
  }
  exchange.respond(json_answer(
      json::object{{"revision", snapshot->revision.value()}, {"clusters", std::move(list)}}));
}

Error no_such_cluster(std::string_view name) {
  return error(ErrorCode::kNotFound, fmt::format("There is no cluster '{}'", excerpt(name)),
               "name");
}

asio::awaitable<void> show_cluster(App& app, net::Exchange& exchange) {
  const std::string name(exchange.parameter("name"));
  const auto snapshot = app.control->snapshot();
  const auto found = snapshot->clusters->find(name);
  if (found == snapshot->clusters->end()) {
    exchange.respond_error(no_such_cluster(name));
  } else {
    exchange.respond(json_answer(cluster_view(found->second, *snapshot)));
  }
  co_return;
}

/// What of a change is in the body: of autostop, {idle_minutes, down, wait_for} or {cancel: true}.
Status read_change(std::string_view text, control::ChangeCluster& change) {
  using Verb = control::ChangeCluster::Verb;
  if (change.verb != Verb::kAutostop) {
    if (text.empty()) {
      return {};
    }
    QUAD_ASSIGN(const json::object body, parse_json_object(text));
    return ObjectReader(body).finish();
  }
  QUAD_ASSIGN(const json::object body, parse_json_object(text));
  if (body.contains("cancel")) {
    ObjectReader reader(body);
    if (!reader.flag("cancel").value_or(false)) {
      reader.refuse("cancel", "true, or left out");
    }
    return reader.finish();
  }
  QUAD_ASSIGN(change.autostop, read_autostop(body, ""));
  return {};
}

asio::awaitable<void> change_cluster(App& app, net::Exchange& exchange,
                                     control::ChangeCluster::Verb verb, int tries = 1) {
  control::ChangeCluster change;
  change.name = exchange.parameter("name");
  change.verb = verb;
  change.by = caller_of(exchange).user;
  change.by_admin = caller_of(exchange).role == Role::kAdmin;
  if (const Status read = read_change(exchange.request().body, change); !read.ok()) {
    exchange.respond_error(read.error());
    co_return;
  }
  if (verb == control::ChangeCluster::Verb::kStart) {
    const auto snapshot = app.control->snapshot();
    const auto found = snapshot->clusters->find(change.name);
    const auto holder =
        found == snapshot->clusters->end() ? nullptr : snapshot->find(found->second.holder);
    if (holder != nullptr && control::status_of(found->second, holder.get()) == "STOPPED") {
      auto again = holder_again(app, *holder);
      if (!again.ok()) {
        exchange.respond_error(again.error());
        co_return;
      }
      change.holder = std::move(*again);
    }
  }
  const std::string name = change.name;
  const std::function<void(std::function<void(Status)>)> start =
      [&app, &change](std::function<void(Status)> done) {
        change.done = std::move(done);
        app.control->change_cluster(std::move(change));
      };
  const Status status = co_await ask<Status>(app, exchange, start);
  constexpr int kMostTries = 10;
  if (!status.ok() && control::is_cluster_changed(status.error()) && tries < kMostTries) {
    co_await change_cluster(app, exchange, verb, tries + 1);  // from what is there now
    co_return;
  }
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  const auto after = app.control->snapshot();
  const auto found = after->clusters->find(name);
  exchange.respond(json_answer(found == after->clusters->end()
                                   ? json::object{{"name", name}, {"status", "GONE"}}
                                   : cluster_view(found->second, *after)));
}

}  // namespace

void add_cluster_routes(App& app, net::Router& router) {
  using Verb = control::ChangeCluster::Verb;
  router.get("/v1/clusters", [&app](net::Exchange& e) { return list_clusters(app, e); });
  router.get("/v1/clusters/{name}", [&app](net::Exchange& e) { return show_cluster(app, e); });
  constexpr std::array<std::pair<const char*, Verb>, 4> kVerbs = {{{"stop", Verb::kStop},
                                                                   {"start", Verb::kStart},
                                                                   {"down", Verb::kDown},
                                                                   {"autostop", Verb::kAutostop}}};
  for (const auto& [word, verb] : kVerbs) {
    router.post(
        fmt::format("/v1/clusters/{{name}}/{}", word),
        [&app, verb](net::Exchange& e) { return change_cluster(app, e, verb); },
        for_role(Role::kUser));
  }
}

}  // namespace quad::server
