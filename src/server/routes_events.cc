#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <iterator>

#include "base/text.h"
#include "job/record.h"
#include "net/sse.h"
#include "server/app.h"
#include "server/event_window.h"
#include "server/input.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kBatch = 500;
/// Followers of everything that are further behind are told to read the state again; older events
/// come as pages.
constexpr std::int64_t kMostBehind = 20'000;
/// How many revisions are looked at in one go where no index finds those that match.
constexpr std::int64_t kWindow = 5'000;
constexpr std::int64_t kPageWindow = 10'000;
constexpr Millis kHeartbeat{15'000};

bool matches(const job::Event& event, const store::EventFilter& filter) {
  return event.revision > filter.after && (!filter.job || event.job == *filter.job) &&
         (!filter.node || event.node == *filter.node) && event.kind.starts_with(filter.kind_prefix);
}

/// Some events as a stream has them, and the last of them.
struct Told {
  std::string text;
  std::size_t count = 0;
  Revision last;

  void add(const job::Event& event) {
    net::append_sse(text, std::to_string(event.revision.value()), event.kind,
                    to_text(job::to_json(event)));
    ++count;
    last = event.revision;
  }
};

/// The next events up to filter.until, if they are still in memory.
std::optional<Told> recent_events(const App& app, const store::EventFilter& filter) {
  if (app.recent.empty() || app.recent.front().revision.value() > filter.after.value() + 1) {
    return std::nullopt;
  }
  Told told;
  const auto from =
      std::partition_point(app.recent.begin(), app.recent.end(),
                           [&](const job::Event& one) { return one.revision <= filter.after; });
  for (auto it = from;
       it != app.recent.end() && it->revision <= *filter.until && told.count < filter.limit; ++it) {
    if (matches(*it, filter)) {
      told.add(*it);
    }
  }
  return told;
}

/// The same from the store; any thread.
Result<Told> stored_events(const store::Store& store, const store::EventFilter& filter) {
  QUAD_ASSIGN(const auto events, store.events(filter));
  Told told;
  for (const job::Event& event : events) {
    told.add(event);
  }
  return told;
}

/// Tells that events are left out between the cursor and `newest`, and why.
void append_resync(std::string& out, Revision after, Revision newest, std::string_view reason,
                   std::string_view message) {
  const json::object data{{"reason", reason},
                          {"message", message},
                          {"after", after.value()},
                          {"revision", newest.value()}};
  net::append_sse(out, std::to_string(newest.value()), "resync", to_text(data));
}

/// A follower's place in the history. Nothing is queued for it: what it has not taken yet is in
/// memory or in the store, from where each step takes a bounded piece.
class EventCursor {
 public:
  EventCursor(App& app, net::Exchange& exchange, store::EventFilter filter)
      : app_(app), exchange_(exchange), filter_(std::move(filter)) {
    filter_.limit = std::min(filter_.limit, kBatch);
  }

  [[nodiscard]] bool at_end() const { return filter_.after >= app_.newest; }

  /// Appends what comes next, which may be nothing even before the end. What is no more in memory
  /// is read by the pool, and waited for while that has too much to do.
  asio::awaitable<Status> step(std::string& out) {
    const Revision newest = app_.newest;
    if (filter_.after > newest) {
      // From another store, or from before a restore: what the reader holds is not this server's
      // state.
      append_resync(out, filter_.after, newest, "unknown_cursor",
                    "The cursor is not of this server's history; read the state again");
      filter_.after = newest;
      co_return Status();
    }
    const bool of_everything = !filter_.job && !filter_.node;
    if (of_everything && newest.value() - filter_.after.value() > kMostBehind) {
      append_resync(
          out, filter_.after, newest, "behind",
          "The reader is too far behind; read the state again, or the events in between as pages");
      filter_.after = newest;
      co_return Status();
    }
    // No further than this thread was told, even where the store is ahead: the rest has its turn
    // with the telling.
    filter_ = first_window(std::move(filter_), newest, kWindow);
    if (const auto told = recent_events(app_, filter_)) {
      take(*told, out);
      co_return Status();
    }
    const std::function<std::optional<Result<Told>>()> work =
        [store = app_.store, filter = filter_] { return stored_events(*store, filter); };
    const auto read = co_await in_turn<Result<Told>>(app_, exchange_, Length::kLong, work);
    if (!read.ok()) {
      constexpr Millis kPause{100};
      net::Wakeup nobody(exchange_.executor());
      co_await nobody.wait_for(kPause);  // the next step asks again
      co_return Status();
    }
    const Result<Told>& told = *read;
    if (!told.ok()) {
      co_return told.error();
    }
    take(*told, out);
    co_return Status();
  }

 private:
  void take(const Told& told, std::string& out) {
    out += told.text;
    filter_.after = told.count >= filter_.limit ? told.last : *filter_.until;
  }

  App& app_;
  net::Exchange& exchange_;
  store::EventFilter filter_;
};

asio::awaitable<void> follow(App& app, net::Exchange& exchange, store::EventFilter filter) {
  const net::Headers headers = {{"Cache-Control", "no-store"}};
  const std::string type(net::kSseContentType);
  net::BodyStream stream = co_await exchange.start_stream(200, type, headers);
  net::Wakeup wakeup(exchange.executor());
  stream.on_closed([&wakeup] { wakeup.notify(); });
  const Caller caller = caller_of(exchange);
  const StreamPlace place(app, wakeup, app.event_streams, caller.user);
  EventCursor cursor(app, exchange, std::move(filter));
  std::string out(net::kSseHeartbeat);  // the head goes out at once
  while (!stream.closed() && !app.stopping) {
    const Status status = co_await cursor.step(out);
    if (!status.ok() || !is_known(app, caller)) {
      stream.abort();
      co_return;
    }
    const std::string piece = std::exchange(out, {});
    const Status sent = co_await stream.write(piece);
    if (!sent.ok()) {
      co_return;
    }
    if (!cursor.at_end()) {
      // Others have their turn in between.
      co_await asio::post(exchange.executor(), asio::use_awaitable);
      continue;
    }
    const bool woken = co_await wakeup.wait_for(kHeartbeat);
    if (!woken) {
      out = net::kSseHeartbeat;
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
  asked.filter.limit =
      static_cast<std::size_t>(query.integer("limit", {1, 10'000}).value_or(kBatch));
  asked.stream = query.flag("follow");
  if (const auto last = request.header("Last-Event-ID")) {
    const auto revision = parse_number(*last);
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
  store::EventFilter filter = asked->filter;
  // What is told is what there was: a reader goes on from this revision, whatever the filter left
  // out.
  const Revision newest = app.newest;
  if (asked->stream && !may_stream(app, exchange)) {
    co_return;
  }
  if (asked->stream) {
    co_await follow(app, exchange, filter);
    co_return;
  }
  const EventsAnswer told = [newest](const std::vector<job::Event>& found) {
    json::array list;
    for (const job::Event& event : found) {
      list.push_back(job::to_json(event));
    }
    return json_answer(json::object{{"revision", newest.value()}, {"events", std::move(list)}});
  };
  co_await answer_events(app, exchange, std::move(filter), told);
}

/// A page of events, read from the store window by window; any thread, one at a time.
class PageWork {
 public:
  PageWork(const store::Store& store, store::EventFilter filter, Revision end, EventsAnswer told)
      : store_(store), filter_(std::move(filter)), end_(end), told_(std::move(told)) {}

  std::optional<net::Response> step() {
    const store::EventFilter window = first_window(filter_, end_, kPageWindow);
    auto found = store_.events(window);
    if (!found.ok()) {
      return net::error_response(found.error());
    }
    filter_.limit -= std::min(filter_.limit, found->size());
    std::move(found->begin(), found->end(), std::back_inserter(all_));
    if (filter_.limit == 0 || *window.until >= end_) {
      return told_(std::exchange(all_, {}));
    }
    filter_.after = *window.until;
    return std::nullopt;
  }

 private:
  const store::Store& store_;
  store::EventFilter filter_;
  const Revision end_;
  const EventsAnswer told_;
  std::vector<job::Event> all_;
};

}  // namespace

asio::awaitable<void> answer_events(App& app, net::Exchange& exchange, store::EventFilter filter,
                                    EventsAnswer told) {
  const auto work =
      std::make_shared<PageWork>(*app.store, std::move(filter), app.newest, std::move(told));
  const std::function<std::optional<net::Response>()> step = [work] { return work->step(); };
  co_await answer_in_turn(app, exchange, Length::kLong, step);
}

void add_event_routes(App& app, net::Router& router) {
  router.get("/v1/events", [&app](net::Exchange& e) { return events(app, e); });
}

}  // namespace quad::server
