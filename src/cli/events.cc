#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/time.h"
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "net/message.h"
#include "net/sse.h"

namespace quad::cli {

namespace {

constexpr Millis kSilence{60'000};  ///< the server sends something at least every 15 s
constexpr std::chrono::minutes kPatience{5};
constexpr Millis kPause{200};

struct EventOptions {
  std::int64_t after = 0;
  std::int64_t job = 0;
  std::string node;
  bool follow = false;
  std::string kind;
};

/// Waits until the server answers again; anything else than its being away is an error at once.
Result<Client> come_back(const Globals& globals) {
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    std::this_thread::sleep_for(kPause);
    // Whoever stopped the server does not want a follower to start it.
    auto client = Client::connect(globals, false);
    if (client.ok()) {
      const auto alive = client->get("/healthz");  // connect() reaches nobody for --server
      if (alive.ok()) {
        return client;
      }
      client = alive.error();
    }
    const bool away = client.error().code == ErrorCode::kUnavailable ||
                      client.error().code == ErrorCode::kTimeout;
    if (!away || std::chrono::steady_clock::now() > give_up) {
      return client;
    }
  }
}

class EventReader {
 public:
  EventReader(const Globals& globals, Client& client, const EventOptions& options)
      : globals_(globals), client_(client), options_(options), last_(options.after) {}

  Status pages();
  /// What is old comes as pages, of which none is left out however many there are; what is new as a
  /// stream.
  Status follow();

 private:
  [[nodiscard]] std::string query() const;
  void show(const json::object& event);
  /// Until the connection breaks, or a resync says that pages are due.
  Status stream();
  bool take(const net::SseEvent& event);

  const Globals& globals_;
  Client& client_;
  const EventOptions& options_;
  std::int64_t last_;
  bool unread_ = false;
};

std::string EventReader::query() const {
  std::string query = fmt::format("after={}", last_);
  query += options_.job > 0 ? fmt::format("&job={}", options_.job) : "";
  query += options_.node.empty() ? "" : "&node=" + net::percent_encode(options_.node);
  query += options_.kind.empty() ? "" : "&kind=" + net::percent_encode(options_.kind);
  return query;
}

void EventReader::show(const json::object& event) {
  last_ = std::max(last_, get_int(event, "revision"));
  if (globals_.json()) {
    print_json_line(event);
  } else {
    std::string day;
    const std::string at = local_time(get_string(event, "at"), day);
    print("{:>7}  {}  {:<20} {}{}\n", get_int(event, "revision"), at, get_string(event, "kind"),
          event.contains("job") ? fmt::format("job {}: ", get_int(event, "job")) : "",
          get_string(event, "message"));
  }
}

Status EventReader::pages() {
  constexpr std::size_t kPage = 1'000;
  for (;;) {
    QUAD_ASSIGN(const json::object answer,
                client_.get_list(fmt::format("/v1/events?limit={}&{}", kPage, query()), "events"));
    const json::array& events = list_of(answer, "events");
    const std::int64_t before = last_;
    for (const json::value& event : events) {
      show(object_of(event));
    }
    unread_ = std::fflush(stdout) != 0;
    if (events.size() >= kPage && last_ == before) {
      return error(ErrorCode::kInternal, "The server sends the same events again and again");
    }
    if (events.size() < kPage || unread_) {
      last_ = std::max(last_, get_int(answer, "revision"));
      return {};
    }
  }
}

Status EventReader::follow() {
  for (;;) {
    Status status = pages();
    if (status.ok() && !unread_) {
      status = stream();
      std::this_thread::sleep_for(
          kPause);  // a server that ends each stream at once is not asked on
    }
    if (unread_) {
      return {};
    }
    if (!status.ok()) {
      if (status.error().code != ErrorCode::kUnavailable &&
          status.error().code != ErrorCode::kTimeout) {
        return status;
      }
      QUAD_ASSIGN(client_, come_back(globals_));
    }
  }
}

Status EventReader::stream() {
  net::SseParser parser;
  Status broken;
  const Status status = client_.stream(
      "/v1/events?follow=1&" + query(),
      [&](std::string_view piece) {
        const auto more =
            parser.feed(piece, [&](const net::SseEvent& event) { return take(event); });
        broken = more.ok() ? Status() : Status(more.error());
        unread_ = std::fflush(stdout) != 0;
        return more.ok() && *more && !unread_;
      },
      kSilence);
  return broken.ok() ? status : broken;
}

bool EventReader::take(const net::SseEvent& event) {
  const auto data = parse_json_object(event.data);
  if (!data.ok()) {
    return true;
  }
  if (event.event != "resync") {
    show(*data);
    return true;
  }
  if (get_string(*data, "reason") == "unknown_cursor") {
    last_ = get_int(*data, "revision");
    complain("The server's history is another one than before: it goes on from event {}.\n", last_);
    return true;
  }
  return false;
}

}  // namespace

void add_events(CLI::App& app, Program& program) {
  auto options = std::make_shared<EventOptions>();
  CLI::App* verb = add_verb(app, program, "events", "Everything that happens, as it happens");
  verb->add_option("--after", options->after, "After this revision")
      ->check(whole_number(0, "a revision"));
  verb->add_option("--job", options->job, "About this job")->check(whole_number(1, kJobNumber));
  verb->add_option("--node", options->node, "About this node");
  verb->add_option("--kind", options->kind, "Kinds that begin so, such as node.");
  verb->add_flag("-f,--follow", options->follow, "Go on until interrupted");
  verb->callback([&program, options] {
    program.chosen = [&program, options] {
      auto client = Client::connect(program.globals);
      if (!client.ok()) {
        return fail(client.error());
      }
      EventReader reader(program.globals, *client, *options);
      const Status status = options->follow ? reader.follow() : reader.pages();
      return status.ok() ? kOk : fail(status.error());
    };
  });
}

}  // namespace quad::cli
