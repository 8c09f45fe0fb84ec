#include <fmt/format.h>

#include <algorithm>

#include "job/record.h"
#include "net/sse.h"
#include "server/app.h"
#include "server/input.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kBatch = 500;
constexpr Millis kHeartbeat{15'000};

bool matches(const job::Event& event, const store::EventFilter& filter) {
  return event.revision > filter.after && (!filter.job || event.job == *filter.job) &&
         (!filter.node || event.node == *filter.node) && event.kind.starts_with(filter.kind_prefix);
}

/// The next events after the cursor: from memory where they are still there, else from the store.
Result<std::vector<job::Event>> next_events(App& app, const store::EventFilter& filter) {
  if (!app.recent.empty() && app.recent.front().revision.value() <= filter.after.value() + 1) {
    std::vector<job::Event> found;
    const auto from = std::partition_point(app.recent.begin(), app.recent.end(),
                                           [&](const job::Event& one) { return one.revision <= filter.after; });
    for (auto it = from; it != app.recent.end() && found.size() < filter.limit; ++it) {
      if (matches(*it, filter)) {
        found.push_back(*it);
      }
    }
    return found;
  }
  return app.store->events(filter);
}

asio::awaitable<void> follow(App& app, net::Exchange& exchange, store::EventFilter filter) {
  const net::Headers headers = {{"Cache-Control", "no-store"}};
  const std::string type(net::kSseContentType);
  net::BodyStream stream = co_await exchange.start_stream(200, type, headers);
  net::Wakeup wakeup(exchange.executor());
  stream.on_closed([&wakeup] { wakeup.notify(); });
  app.event_waiters.insert(&wakeup);
  struct Leave {
    App& app;
    net::Wakeup* wakeup;
    ~Leave() { app.event_waiters.erase(wakeup); }
  } leave{app, &wakeup};
  std::string out = ":\n\n";  // the head goes out at once
  while (!stream.closed() && !app.stopping) {
    const Revision newest = app.newest;
    if (filter.after > newest) {
      // A cursor from another store, or from before a restore: what the reader holds is not this server's state.
      net::append_sse(out, std::to_string(newest.value()), "resync", R"({"reason":"the cursor is not of this server"})");
      filter.after = newest;
    }
    const auto events = next_events(app, filter);
    if (!events.ok()) {
      co_return;
    }
    for (const job::Event& event : *events) {
      if (event.revision > newest) {
        break;  // the store is ahead of what this thread was told; its turn comes with the telling
      }
      net::append_sse(out, std::to_string(event.revision.value()), event.kind, to_text(job::to_json(event)));
      filter.after = event.revision;
    }
    const bool more = events->size() >= filter.limit;
    if (!more) {
      filter.after = std::max(filter.after, newest);
    }
    if (!out.empty()) {
      const std::string piece = std::exchange(out, {});
      const Status sent = co_await stream.write(piece);
      if (!sent.ok()) {
        co_return;
      }
    }
    if (!more && app.newest <= filter.after) {
      const bool woken = co_await wakeup.wait_for(kHeartbeat);
      if (!woken) {
        out = net::kSseHeartbeat;
      }
    }
  }
}

struct Asked {
  store::EventFilter filter;
  bool stream = false;
};

Result<Asked> read_asked(const net::Request& request) {
  Asked asked;
  QueryReader query(request);
  const auto after = query.integer("after", {0, INT64_MAX});
  asked.filter.after = Revision(after.value_or(0));
  if (const auto job = query.integer("job", {1, INT64_MAX})) {
    asked.filter.job = JobId(*job);
  }
  asked.filter.node = query.text("node");
  asked.filter.kind_prefix = query.text("kind").value_or("");
  asked.filter.limit = static_cast<std::size_t>(query.integer("limit", {1, 10'000}).value_or(kBatch));
  asked.stream = query.flag("follow");
  if (const auto last = request.header("Last-Event-ID")) {
    const auto revision = parse_integer(*last);
    if (!revision || *revision < 0) {
      query.refuse("Last-Event-ID", *last, "the id of an event");
    }
    asked.filter.after = Revision(revision.value_or(0));
  }
  QUAD_TRY(query.finish());
  const std::string_view accept = request.header("Accept").value_or("");
  asked.stream = asked.stream || accept.find(net::kSseContentType) != std::string_view::npos;
  return asked;
}

asio::awaitable<void> events(App& app, net::Exchange& exchange) {
  const auto asked = read_asked(exchange.request());
  if (!asked.ok()) {
    exchange.respond_error(asked.error());
    co_return;
  }
  const store::EventFilter& filter = asked->filter;
  if (asked->stream) {
    co_await follow(app, exchange, filter);
    co_return;
  }
  const auto found = app.store->events(filter);
  if (!found.ok()) {
    exchange.respond_error(found.error());
    co_return;
  }
  json::array list;
  for (const job::Event& event : *found) {
    list.push_back(job::to_json(event));
  }
  exchange.respond(json_answer(json::object{{"revision", app.newest.value()}, {"events", std::move(list)}}));
}

}  // namespace

void add_event_routes(App& app, net::Router& router) {
  router.get("/v1/events", [&app](net::Exchange& e) { return events(app, e); });
}

}  // namespace quad::server
