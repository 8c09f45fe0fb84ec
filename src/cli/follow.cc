#include "cli/follow.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <thread>

#include "net/sse.h"

namespace quad::cli {

namespace {

/// How long a server may be away before its followers give up.
constexpr std::chrono::minutes kPatience{5};
constexpr std::chrono::milliseconds kPause{200};

/// Waits until the server answers again; anything else than its being away is an error at once.
Result<Client> come_back(const Globals& globals) {
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  fmt::print(stderr, "The connection to the server broke; waiting for it to come back.\n");
  for (;;) {
    // Never started from here: its options are not known.
    Result<Client> client = Client::connect(globals, false);
    if (client.ok()) {
      const auto answer = client->get("/v1/info");
      if (answer.ok()) {
        return client;
      }
      client = answer.error();
    }
    if (client.error().code != ErrorCode::kUnavailable ||
        std::chrono::steady_clock::now() > give_up) {
      return client.error();
    }
    std::this_thread::sleep_for(kPause);
  }
}

bool print_bytes(std::string_view bytes) {
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size();
  return std::fflush(stdout) == 0 && written;
}

}  // namespace

Result<bool> LogFrames::feed(std::string_view piece,
                             const std::function<bool(std::string_view)>& sink) {
  constexpr std::size_t kLongestHead = 1U << 20U;
  constexpr std::size_t kLargest = 256U << 20U;
  held_ += piece;
  std::size_t at = 0;
  bool more = true;
  while (more) {
    const std::size_t newline = held_.find('\n', at);
    if (newline == std::string::npos) {
      if (held_.size() - at > kLongestHead) {
        return error(ErrorCode::kInvalid, "The server sent something else than frames of output");
      }
      break;
    }
    const std::string_view head = std::string_view(held_).substr(at, newline - at);
    const std::size_t space = head.find(' ');
    std::size_t length = 0;
    const std::string_view number =
        space == std::string_view::npos ? std::string_view() : head.substr(space + 1);
    const auto [end, failure] =
        std::from_chars(number.data(), number.data() + number.size(), length);
    if (number.empty() || failure != std::errc() || end != number.data() + number.size() ||
        length > kLargest) {
      return error(ErrorCode::kInvalid, "The server sent something else than frames of output");
    }
    if (held_.size() - newline - 1 < length) {
      break;
    }
    more = sink(std::string_view(held_).substr(newline + 1, length));
    cursor_ = head.substr(0, space);
    at = newline + 1 + length;
  }
  held_.erase(0, at);
  return more;
}

Status print_log(const Globals& globals, Client& client, std::int64_t job, const std::string& query,
                 bool follow) {
  LogFrames frames;
  for (;;) {
    Status broken;
    bool cut = false;  // by the reader of our output
    const std::string target = fmt::format("/v1/jobs/{}/logs?follow={:d}&cursor={}{}", job, follow,
                                           frames.cursor(), query);
    Status status = client.stream(target, [&](std::string_view piece) {
      const auto more = frames.feed(piece, print_bytes);
      broken = more.ok() ? Status() : Status(more.error());
      cut = more.ok() && !*more;
      return more.ok() && *more;
    });
    if (cut || !broken.ok()) {
      return broken;
    }
    if (status.ok() || !follow || status.error().code != ErrorCode::kUnavailable) {
      return status;
    }
    frames.restart();
    QUAD_ASSIGN(client, come_back(globals));
  }
}

namespace {

class EventReader {
 public:
  EventReader(const Globals& globals, Client& client, const EventQuery& query,
              const std::function<void(const json::object&)>& print)
      : globals_(globals), client_(client), query_(query), print_(print), last_(query.after) {}

  Status pages() {
    constexpr std::size_t kPage = 1000;
    for (;;) {
      QUAD_ASSIGN(
          const json::object answer,
          client_.get(fmt::format("/v1/events?after={}&limit={}{}", last_, kPage, query_.filter)));
      const json::array* events = get_array(answer, "events");
      if (events == nullptr) {
        return error(ErrorCode::kInvalid, "The server sent something else than events");
      }
      for (const json::value& event : *events) {
        show(event.as_object());
      }
      if (events->size() < kPage) {
        last_ = std::max(last_, get_int(answer, "revision"));
        return {};
      }
    }
  }

  /// What is old comes as pages, of which none is left out however many there are; what is new as a
  /// stream.
  Status follow() {
    for (;;) {
      Status status = pages();
      if (status.ok()) {
        status = stream();
      }
      if (!status.ok()) {
        if (status.error().code != ErrorCode::kUnavailable) {
          return status;
        }
        QUAD_ASSIGN(client_, come_back(globals_));
      }
    }
  }

 private:
  void show(const json::object& event) {
    last_ = std::max(last_, get_int(event, "revision"));
    print_(event);
  }

  /// Until the connection breaks, or a resync says that pages are due.
  Status stream() {
    net::SseParser parser;
    Status broken;
    const std::string target = fmt::format("/v1/events?follow=1&after={}{}", last_, query_.filter);
    const Status status = client_.stream(target, [&](std::string_view piece) {
      const auto more = parser.feed(piece, [&](const net::SseEvent& event) { return take(event); });
      broken = more.ok() ? Status() : Status(more.error());
      return more.ok() && *more;
    });
    return broken.ok() ? status : broken;
  }

  bool take(const net::SseEvent& event) {
    const auto data = parse_json_object(event.data);
    if (!data.ok()) {
      return true;
    }
    if (event.event != "resync") {
      show(*data);
      return true;
    }
    if (get_string(*data, "reason") == "unknown_cursor") {
      fmt::print(stderr,
                 "The server's history is another one than before: it goes on from event {}.\n",
                 get_int(*data, "revision"));
      last_ = get_int(*data, "revision");
      return true;
    }
    return false;
  }

  const Globals& globals_;
  Client& client_;
  const EventQuery& query_;
  const std::function<void(const json::object&)>& print_;
  std::int64_t last_;
};

}  // namespace

Status print_events(const Globals& globals, Client& client, const EventQuery& query,
                    const std::function<void(const json::object&)>& print) {
  EventReader reader(globals, client, query, print);
  return query.follow ? reader.follow() : reader.pages();
}

}  // namespace quad::cli
