#include "cli/follow.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <map>
#include <thread>

#include "base/prefixed_lines.h"
#include "base/time.h"
#include "cli/log_frames.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/terminal_filter.h"
#include "net/message.h"

namespace quad::cli {

namespace {

using std::chrono::steady_clock;

/// A follower hears something each second; after this much silence the connection counts as broken.
constexpr Millis kSilence{20'000};
/// How long a follower tries to find the server again.
constexpr std::chrono::minutes kPatience{5};

std::string target_of(const LogOptions& options, const LogPlace& place) {
  std::string target = fmt::format("/v1/jobs/{}/logs?follow={}&cursor={}", options.job,
                                   options.follow ? 1 : 0, place.known() ? place.text() : "start");
  const auto put = [&target](std::string_view key, const std::string& value) {
    target += fmt::format("&{}={}", key, net::percent_encode(value));
  };
  if (options.rank >= 0) {
    put("rank", std::to_string(options.rank));
  }
  if (options.attempt > 0) {
    put("attempt", std::to_string(options.attempt));
  }
  if (options.tail >= 0) {
    put("tail", std::to_string(options.tail));
  }
  if (options.line > 0) {
    put("line", std::to_string(options.line));
  }
  if (!options.since.empty()) {
    put("since", options.since);
  }
  if (!options.grep.empty()) {
    put("grep", options.grep);
  }
  return target;
}

/// Of a number that the server says: at most 30 years.
Millis millis_of(double seconds) {
  constexpr double kMost = 1e9;
  return Millis(std::llround(std::clamp(seconds, 0.0, kMost) * 1000));
}

/// "at 14:05", with the day if that is not today's.
std::string clock_time(Millis from_now) {
  const std::time_t now = std::time(nullptr);
  const std::time_t then = now + from_now.count() / 1000;
  std::tm today{};
  std::tm day{};
  localtime_r(&now, &today);
  localtime_r(&then, &day);
  const bool same = today.tm_yday == day.tm_yday && today.tm_year == day.tm_year;
  return same ? fmt::format("at {:%H:%M}", day) : fmt::format("on {:%a %d %b at %H:%M}", day);
}

/// State, step, rate and expected end.
SafeText live_text(const json::object& state) {
  const json::object* row = get_object(state, "job");
  if (row == nullptr) {
    return {};
  }
  const std::string_view status = get_string(*row, "status");
  const SafeText head =
      safe_text("Job {} {}", get_int(*row, "id"), coloured(status, STDERR_FILENO));
  std::string text;
  if (const json::object* waits = get_object(state, "waits")) {
    text += fmt::format(", number {} in the queue: {}", get_int(*waits, "position"),
                        get_string(*waits, "message"));
  } else if (status == "RUNNING") {
    const std::string progress = progress_text(*row);
    text += progress.empty() ? fmt::format(" for {}", between(get_string(*row, "started_at"), ""))
                             : ": " + progress;
    const auto* reported = get_object(*row, "progress");
    const double left = reported == nullptr ? -1 : get_double(*reported, "eta_s", -1);
    if (left >= 0) {
      text += fmt::format(", ends {}", clock_time(millis_of(left)));
    }
    if (const std::int64_t recoveries = get_int(*row, "recoveries"); recoveries > 0) {
      text += fmt::format(", {} recover{}", recoveries, recoveries == 1 ? "y" : "ies");
    }
  } else {
    text += fmt::format(": {}", get_string(*row, "message"));
  }
  return safe_text("{}{}", head, text);
}

class Follower {
 public:
  Follower(const Globals& globals, const LogOptions& options)
      : globals_(globals),
        options_(options),
        filters_(!options.raw && ::isatty(STDOUT_FILENO) == 1) {}

  Status run(Client& client);
  [[nodiscard]] const json::object& last() const { return last_; }
  [[nodiscard]] bool unread() const { return unread_; }
  Screen& screen() { return screen_; }

 private:
  bool take(const json::object& head, std::string_view bytes);
  bool take_output(const json::object& head, std::string_view bytes);
  void add_object(std::int64_t attempt, std::int64_t rank, std::string_view line);
  /// Lines that will have no end: their attempt is over.
  bool finish_lines();
  void note_attempt(const json::object& head);
  /// A client that reaches the server again; the error once patience is at an end.
  Result<Client> find_again(steady_clock::time_point lost_at);

  const Globals& globals_;
  const LogOptions& options_;
  const bool filters_;
  struct Filtered {
    TerminalFilter filter;
    std::string prefix;
  };
  std::map<std::int64_t, Filtered> filtered_;  ///< by rank
  Screen screen_;
  LogPlace place_;
  json::object last_;  ///< the job's row
  std::string lines_;  ///< what is being written
  PrefixedLines prefixed_;
  std::map<std::int64_t, std::string>
      begun_;  ///< with -o json: lines whose end has not come yet, by rank
  std::int64_t attempt_ = 0;
  bool ended_ = false;
  bool unread_ = false;  ///< nobody reads the output
};

bool Follower::take(const json::object& head, std::string_view bytes) {
  const std::string_view type = get_string(head, "type");
  if (type == "output") {
    unread_ = !take_output(head, bytes);
    place_.see_output(head);
    return !unread_;
  }
  if (type == "attempt") {
    if (get_int(head, "attempt") != attempt_) {
      finish_lines();  // else the same one goes on, after a lost connection
    }
    note_attempt(head);
    place_.see_attempt(head);
  } else if (type == "state") {
    if (const json::object* row = get_object(head, "job")) {
      last_ = *row;
    }
    if (screen_.has_live() && !options_.quiet) {
      screen_.live(live_text(head));
    }
  } else if (type == "end") {
    finish_lines();
    ended_ = true;
  }
  return true;
}

bool Follower::take_output(const json::object& head, std::string_view bytes) {
  if (options_.quiet) {
    return true;
  }
  const std::string_view prefix = get_string(head, "prefix");
  const std::int64_t rank = get_int(head, "rank");
  attempt_ = get_int(head, "attempt");
  // On a terminal another's output must not act.
  std::string safe;
  if (filters_ && !globals_.json()) {
    Filtered& filtered = filtered_[rank];
    filtered.prefix = prefix;
    safe = filtered.filter.filter(bytes);
    bytes = safe;
  }
  if (prefix.empty() && !globals_.json()) {
    return screen_.output(bytes);
  }
  lines_.clear();
  if (!globals_.json()) {
    prefixed_.add(lines_, rank, printable(prefix), bytes);
    return screen_.output(lines_);
  }
  for (std::size_t start = 0; start < bytes.size();) {
    const std::size_t end = bytes.find('\n', start);
    const std::string_view line = bytes.substr(start, end - start);
    if (std::string& begun = begun_[rank]; end == std::string_view::npos) {
      begun += line;
    } else {
      add_object(attempt_, rank, begun.empty() ? line : std::string_view(begun += line));
      begun.clear();
    }
    start = end == std::string_view::npos ? bytes.size() : end + 1;
  }
  return screen_.output(lines_);
}

void Follower::add_object(std::int64_t attempt, std::int64_t rank, std::string_view line) {
  lines_ += to_text(json::object{{"attempt", attempt}, {"rank", rank}, {"line", valid_utf8(line)}});
  lines_ += '\n';
}

bool Follower::finish_lines() {
  lines_.clear();
  for (auto& [rank, begun] : begun_) {
    if (!begun.empty()) {
      add_object(attempt_, rank, std::exchange(begun, {}));
    }
  }
  for (auto& [rank, filtered] : filtered_) {
    const std::string rest = filtered.filter.finish();
    if (filtered.prefix.empty()) {
      lines_ += rest;
    } else {
      prefixed_.add(lines_, rank, printable(filtered.prefix), rest);
    }
  }
  filtered_.clear();
  prefixed_.finish(lines_);
  return screen_.output(lines_);
}

void Follower::note_attempt(const json::object& head) {
  const json::value* before = head.if_contains("before");
  if (before == nullptr || !before->is_string() || options_.quiet) {
    return;
  }
  const std::int64_t attempt = get_int(head, "attempt");
  if (!globals_.json() && attempt > 0) {
    screen_.output(safe_text("[quad: attempt {} ended: {}; attempt {} follows]\n", attempt - 1,
                             std::string_view(before->get_string()), attempt)
                       .text);
  }
}

Result<Client> Follower::find_again(steady_clock::time_point lost_at) {
  Millis pause{50};
  for (;;) {
    // Whoever stopped the server does not want a follower to start it.
    auto client = Client::connect(globals_, false);
    if (client.ok() || client.error().code == ErrorCode::kInvalid ||
        steady_clock::now() - lost_at > kPatience) {
      return client;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, Millis(1'000));
  }
}

Status Follower::run(Client& first) {
  std::optional<Client> again;
  std::optional<steady_clock::time_point> lost_at;
  auto useful_at = steady_clock::now();  // when a connection last led anywhere
  for (;;) {
    Client& client = again ? *again : first;
    const auto began = steady_clock::now();
    const std::string place = place_.text();
    LogFrames frames;
    std::optional<Error> broken;
    const Status status = client.stream(
        target_of(options_, place_),
        [&](std::string_view piece) {
          if (lost_at) {
            lost_at.reset();
            if (!options_.quiet) {
              screen_.note({"The server is back."});
            }
          }
          const auto more =
              frames.feed(piece, [this](const json::object& head, std::string_view bytes) {
                return take(head, bytes);
              });
          if (!more.ok()) {
            broken = more.error();
          }
          return more.ok() && *more;
        },
        options_.follow ? kSilence : Millis(0));
    if (ended_ || unread_) {
      return {};
    }
    if (broken) {
      return *broken;
    }
    const bool server_away = status.ok() || status.error().code == ErrorCode::kUnavailable ||
                             status.error().code == ErrorCode::kTimeout;
    if (!server_away || !options_.follow) {
      return status.ok()
                 ? error(ErrorCode::kUnavailable, "The server stopped in the middle of the log")
                 : status;
    }
    // One that answers and breaks off at once, again and again, is as good as away.
    if (const auto now = steady_clock::now();
        now - began > std::chrono::seconds(1) || place_.text() != place) {
      useful_at = now;
    } else if (now - useful_at > kPatience) {
      return status.ok() ? error(ErrorCode::kUnavailable, "The server keeps breaking off the log")
                         : status;
    } else {
      std::this_thread::sleep_for(Millis(50));
    }
    if (!lost_at) {
      lost_at = steady_clock::now();
      if (!options_.quiet) {
        screen_.clear();
        screen_.note({"The server is away; the job goes on. Trying to reach it again."});
      }
    }
    auto found = find_again(*lost_at);
    if (!found.ok()) {
      return found.error();
    }
    again.emplace(std::move(*found));
  }
}

}  // namespace

std::string progress_text(const json::object& row) {
  const auto* progress = get_object(row, "progress");
  if (progress == nullptr) {
    return {};
  }
  std::string text = fmt::format("step {}", get_int(*progress, "step"));
  if (const std::int64_t total = get_int(*progress, "total", -1); total >= 0) {
    text += fmt::format("/{}", total);
  }
  if (const double rate = get_double(*progress, "rate"); rate > 0) {
    text += fmt::format(", {:.3g}/s", rate);
  }
  if (const double left = get_double(*progress, "eta_s", -1); left >= 0) {
    text += fmt::format(", {} left", format_duration(millis_of(left)));
  }
  return text;
}

int show_log(const Globals& globals, Client& client, const LogOptions& options,
             json::object* last) {
  std::fflush(stdout);
  Follower follower(globals, options);
  std::optional<Interruption> interruption;
  if (options.follow) {
    interruption.emplace(
        fmt::format("\nJob {0} goes on. Follow it: quad logs -f {0}   Cancel it: quad cancel {0}\n",
                    options.job));
  }
  const Status status = follower.run(client);
  follower.screen().live({});
  if (!status.ok()) {
    if (options.follow && status.error().code == ErrorCode::kUnavailable) {
      follower.screen().note(
          safe_text("The log breaks off here; the job goes on. Follow it again: quad logs -f {}",
                    options.job));
    }
    return fail(status.error());
  }
  if (follower.unread() || !options.follow) {
    return kOk;
  }
  const json::object& row = follower.last();
  if (last != nullptr) {
    *last = row;
  }
  const std::string_view state = get_string(row, "status");
  if (state != "SUCCEEDED" && state != "FAILED" && state != "CANCELLED") {
    return kOk;  // the end of the one attempt that was asked for
  }
  if (!globals.json() && !options.quiet) {
    follower.screen().note(safe_text("Job {} {}", options.job, outcome_text(row, STDERR_FILENO)));
  }
  const auto code = static_cast<int>(get_int(row, "exit_code"));
  return state == "SUCCEEDED" ? kOk : code > 0 && code < 256 ? code : kFailed;
}

}  // namespace quad::cli
