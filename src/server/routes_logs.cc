#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/text.h"
#include "server/app.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kPiece = 256 * 1024;

/// What of a job's output is asked for.
struct Wanted {
  std::optional<Epoch> attempt;
  std::optional<Rank> rank;
  bool follow = false;
  std::optional<std::uint64_t> tail;
  std::optional<WallTime> since;
  std::optional<std::uint64_t> line;
  std::string grep;
};

std::optional<std::uint64_t> natural(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// "2026-11-23T10:00:00Z", or how long ago: "90s", "10m", "2h", "1d".
std::optional<WallTime> parse_since(const std::string& text, WallTime now) {
  if (const auto time = parse_rfc3339(text); time.ok()) {
    return *time;
  }
  constexpr std::string_view kUnits = "smhd";
  constexpr std::int64_t kMillis[] = {1000, 60'000, 3'600'000, 86'400'000};
  if (text.size() < 2 || kUnits.find(text.back()) == std::string_view::npos) {
    return std::nullopt;
  }
  const auto count = natural(text.substr(0, text.size() - 1));
  return count && *count < 1'000'000'000
             ? std::optional(WallTime{now.millis - static_cast<std::int64_t>(*count) * kMillis[kUnits.find(text.back())]})
             : std::nullopt;
}

Result<Wanted> read_wanted(const net::Request& request, const job::Job& job, WallTime now) {
  Wanted wanted;
  const auto bad = [](std::string_view key, const std::string& value, std::string_view allowed) {
    return error(ErrorCode::kInvalid, fmt::format("{} is '{}', and must be {}", key, value, allowed), std::string(key));
  };
  if (const auto text = request.query_value("attempt")) {
    const auto value = natural(*text);
    if (!value || *value < 1 || *value > static_cast<std::uint64_t>(std::max(job.epoch().value(), 1))) {
      return bad("attempt", *text, fmt::format("a number from 1 to {}", std::max(job.epoch().value(), 1)));
    }
    wanted.attempt = Epoch(static_cast<std::int32_t>(*value));
  }
  if (const auto text = request.query_value("rank")) {
    const auto value = natural(*text);
    if (!value || *value >= static_cast<std::uint64_t>(job.request->ranks)) {
      return bad("rank", *text, fmt::format("a number from 0 to {}", job.request->ranks - 1));
    }
    wanted.rank = Rank(static_cast<std::int32_t>(*value));
  }
  if (const auto text = request.query_value("tail")) {
    wanted.tail = natural(*text);
    if (!wanted.tail) {
      return bad("tail", *text, "a number of lines");
    }
  }
  if (const auto text = request.query_value("line")) {
    wanted.line = natural(*text);
    if (!wanted.line || *wanted.line < 1) {
      return bad("line", *text, "a line's number, from 1");
    }
  }
  if (const auto text = request.query_value("since")) {
    wanted.since = parse_since(*text, now);
    if (!wanted.since) {
      return bad("since", *text, "a time such as 2026-11-23T10:00:00Z, or how long ago, such as 10m");
    }
  }
  const std::string follow = request.query_value("follow").value_or("0");
  wanted.follow = follow == "1" || follow == "true";
  wanted.grep = request.query_value("grep").value_or("");
  return wanted;
}

/// The output of one rank of one attempt on its way to a reader.
struct Source {
  RankKey key;
  std::uint64_t at = 0;
  std::string partial;  ///< a line whose end has not come yet, where lines matter
  std::string prefix;
  bool announced = false;
};

/// How SkyPilot marks the lines of several ranks.
std::string prefix_of(const job::RankRecord& rank, std::size_t number) {
  return number == 0 ? fmt::format("(head, rank=0, pid={}) ", 0)
                     : fmt::format("(worker{0}, rank={0}, pid={1}, ip={2}) ", number, 0, rank.address);
}

class LogReader {
 public:
  LogReader(App& app, Wanted wanted) : app_(app), wanted_(std::move(wanted)) {}

  void begin(const job::Job& job, Epoch epoch, bool first) {
    sources_.clear();
    const auto& attempt = job.attempts[static_cast<std::size_t>(epoch.value() - 1)];
    for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
      const Rank rank(static_cast<std::int32_t>(i));
      if (wanted_.rank && *wanted_.rank != rank) {
        continue;
      }
      Source source;
      source.key = {job.id, epoch, rank};
      if (attempt.ranks.size() > 1 && !wanted_.rank) {
        source.prefix = prefix_of(attempt.ranks[i], i);
      }
      if (first && wanted_.tail) {
        source.at = app_.logs->tail(source.key, *wanted_.tail);
      } else if (first && wanted_.line) {
        source.at = app_.logs->seek_line(source.key, *wanted_.line);
      } else if (wanted_.since) {
        source.at = app_.logs->seek_time(source.key, *wanted_.since);
      }
      sources_.push_back(std::move(source));
    }
  }

  /// The next piece of output; empty when there is none now. `last`: also what has no line end yet.
  std::string next(bool last) {
    std::string out;
    for (Source& source : sources_) {
      auto piece = app_.logs->read(source.key, source.at, kPiece);
      if (!piece.ok() || piece->empty()) {
        if (last && !source.partial.empty()) {
          emit(source, std::exchange(source.partial, {}), out);
          out += '\n';
        }
        continue;
      }
      source.at += piece->size();
      if (source.prefix.empty() && wanted_.grep.empty()) {
        out += *piece;
        continue;
      }
      source.partial += *piece;
      std::size_t start = 0;
      for (std::size_t end = source.partial.find('\n'); end != std::string::npos;
           end = source.partial.find('\n', start)) {
        emit(source, std::string_view(source.partial).substr(start, end - start + 1), out);
        start = end + 1;
      }
      source.partial.erase(0, start);
      constexpr std::size_t kLongestLine = 1U << 20U;
      if (source.partial.size() > kLongestLine) {
        emit(source, std::exchange(source.partial, {}), out);
      }
    }
    return out;
  }

  void watch(const std::function<void()>& callback) {
    for (const Source& source : sources_) {
      watched_.emplace_back(source.key, app_.logs->watch(source.key, callback));
    }
  }
  void unwatch() {
    for (const auto& [key, number] : watched_) {
      app_.logs->unwatch(key, number);
    }
    watched_.clear();
  }

 private:
  void emit(const Source& source, std::string_view line, std::string& out) const {
    if (wanted_.grep.empty() || line.find(wanted_.grep) != std::string_view::npos) {
      out += source.prefix;
      out += line;
    }
  }

  App& app_;
  Wanted wanted_;
  std::vector<Source> sources_;
  std::vector<std::pair<RankKey, std::uint64_t>> watched_;
};

asio::awaitable<void> logs(App& app, net::Exchange& exchange) {
  auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  const JobId id = job->id;
  auto wanted = read_wanted(exchange.request(), *job, app.clock->now().wall);
  if (!wanted.ok()) {
    exchange.respond_error(wanted.error());
    co_return;
  }
  const net::Headers headers = {{"Cache-Control", "no-store"}};
  const std::string type = "text/plain; charset=utf-8";
  net::BodyStream stream = co_await exchange.start_stream(200, type, headers);
  net::Wakeup wakeup(exchange.executor());
  stream.on_closed([&wakeup] { wakeup.notify(); });
  app.event_waiters.insert(&wakeup);
  LogReader reader(app, *wanted);
  struct Leave {
    App& app;
    net::Wakeup* wakeup;
    LogReader& reader;
    ~Leave() {
      app.event_waiters.erase(wakeup);
      reader.unwatch();
    }
  } leave{app, &wakeup, reader};
  Epoch epoch(0);
  while (!stream.closed() && !app.stopping) {
    job = app.control->snapshot()->find(id);
    const bool fixed = wanted->attempt.has_value();
    if (epoch == Epoch(0) && job->epoch() > Epoch(0)) {
      epoch = fixed ? *wanted->attempt : job->epoch();
      reader.begin(*job, epoch, true);
      reader.watch([&wakeup] { wakeup.notify(); });
    }
    const bool has_epoch = epoch > Epoch(0);
    const bool attempt_over = has_epoch && job->attempts[static_cast<std::size_t>(epoch.value() - 1)].ended_at.has_value();
    const bool job_over = job::is_terminal(job->status);
    const bool complete = attempt_over || !wanted->follow || (job_over && !has_epoch);
    std::string piece = has_epoch ? reader.next(complete) : std::string();
    if (!piece.empty()) {
      const Status sent = co_await stream.write(piece);
      if (!sent.ok()) {
        co_return;
      }
      continue;
    }
    if (attempt_over && wanted->follow && !fixed && job->epoch() > epoch) {
      epoch = Epoch(epoch.value() + 1);
      reader.unwatch();
      reader.begin(*job, epoch, false);
      reader.watch([&wakeup] { wakeup.notify(); });
      const std::string separator = fmt::format(
          "[quad: attempt {} ended: {}; attempt {} follows]\n", epoch.value() - 1,
          job->attempts[static_cast<std::size_t>(epoch.value() - 2)].reason, epoch.value());
      const Status sent = co_await stream.write(separator);
      if (!sent.ok()) {
        co_return;
      }
      continue;
    }
    if (!wanted->follow || job_over || (fixed && attempt_over)) {
      co_return;
    }
    co_await wakeup.wait();
  }
}

}  // namespace

void add_log_routes(App& app, net::Router& router) {
  router.get("/v1/jobs/{id}/logs", [&app](net::Exchange& e) { return logs(app, e); });
}

}  // namespace quad::server
