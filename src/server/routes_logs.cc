#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/text.h"
#include "server/app.h"
#include "server/input.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kPiece = 1024 * 1024;     ///< read at once, of all ranks together
constexpr std::size_t kLeastPiece = 4 * 1024;   ///< read at once of one rank
constexpr std::size_t kLongestLine = 1U << 20U;  ///< a longer one is cut, so that a reader without newlines is bounded

/// What of a job's output is asked for.
struct Wanted {
  std::optional<Epoch> attempt;
  std::optional<Rank> rank;
  bool follow = false;
  std::optional<std::int64_t> tail;
  std::optional<WallTime> since;
  std::optional<std::int64_t> line;
  std::string grep;
  bool framed = false;                 ///< a cursor comes before each piece
  std::optional<Epoch> from;           ///< of the cursor: where to go on
  std::vector<std::uint64_t> offsets;  ///< of the cursor: in the files of its attempt, by rank
};

/// "start", or "EPOCH:OFFSET,OFFSET,…" as a frame gave it.
bool read_cursor(std::string_view text, Wanted& wanted) {
  wanted.framed = true;
  if (text == "start") {
    return true;
  }
  const std::size_t colon = text.find(':');
  const auto epoch = parse_integer(text.substr(0, colon));
  if (colon == std::string_view::npos || !epoch || *epoch < 1 || *epoch > INT32_MAX) {
    return false;
  }
  wanted.from = Epoch(static_cast<std::int32_t>(*epoch));
  for (const std::string_view part : split(text.substr(colon + 1), ',')) {
    const auto offset = parse_integer(part);
    if (!offset || *offset < 0) {
      return false;
    }
    wanted.offsets.push_back(static_cast<std::uint64_t>(*offset));
  }
  return true;
}

Result<Wanted> read_wanted(const net::Request& request, const job::Job& job, WallTime now) {
  Wanted wanted;
  QueryReader query(request);
  const auto attempt = query.integer("attempt", {1, INT32_MAX});
  const auto rank = query.integer("rank", {0, INT32_MAX});
  wanted.follow = query.flag("follow");
  wanted.tail = query.integer("tail", {});
  wanted.line = query.integer("line", {1});
  wanted.since = query.time("since", now);
  wanted.grep = query.text("grep").value_or("");
  if (const auto cursor = query.text("cursor"); cursor && !read_cursor(*cursor, wanted)) {
    query.refuse("cursor", *cursor, "start, or what a frame gave");
  }
  QUAD_TRY(query.finish());
  if (wanted.from &&
      (wanted.from > job.epoch() || (attempt && wanted.from->value() != *attempt) ||
       wanted.offsets.size() != (rank ? 1U : static_cast<std::size_t>(job.request->ranks)))) {
    return error(ErrorCode::kInvalid,
                 "The cursor is of another job, attempt or rank; begin with 'start'", "cursor");
  }
  if (attempt) {
    wanted.attempt = Epoch(static_cast<std::int32_t>(*attempt));
    if (*attempt > std::max(job.epoch().value(), 1)) {
      return error(ErrorCode::kNotFound, fmt::format("Job {} has had {} attempts", job.id.value(), job.epoch().value()),
                   "attempt");
    }
  }
  if (rank) {
    wanted.rank = Rank(static_cast<std::int32_t>(*rank));
    if (*rank >= job.request->ranks) {
      return error(ErrorCode::kNotFound, fmt::format("Job {} has ranks 0 to {}", job.id.value(), job.request->ranks - 1),
                   "rank");
    }
  }
  return wanted;
}

/// The output of one rank of one attempt on its way to a reader.
struct Source {
  RankKey key;
  std::uint64_t at = 0;
  std::string partial;  ///< a line whose end has not come yet, where lines matter
  bool prefixed = false;  ///< each line begins with its rank
};

/// How SkyPilot marks the lines of several ranks. The number is the runner's: what is known of it came with its hello.
std::string rank_prefix(const job::RankRecord& rank, Rank number) {
  const std::string pid = rank.pid > 0 ? fmt::format(", pid={}", rank.pid) : "";
  return number == Rank(0) ? fmt::format("(head, rank=0{}) ", pid)
                           : fmt::format("(worker{0}, rank={0}{1}, ip={2}) ", number.value(), pid, rank.address);
}

class LogReader {
 public:
  LogReader(App& app, Wanted wanted) : app_(app), wanted_(std::move(wanted)) {}

  /// `first`: where it begins is as asked for; else at the attempt's beginning.
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
      source.prefixed = attempt.ranks.size() > 1 && !wanted_.rank;
      if (first && wanted_.from) {
        source.at = wanted_.offsets[sources_.size()];
      } else if (first && wanted_.tail) {
        source.at = app_.logs->tail(source.key, static_cast<std::uint64_t>(*wanted_.tail));
      } else if (first && wanted_.line) {
        source.at = app_.logs->seek_line(source.key, static_cast<std::uint64_t>(*wanted_.line));
      } else if (wanted_.since) {
        source.at = app_.logs->seek_time(source.key, *wanted_.since);
      }
      sources_.push_back(std::move(source));
    }
  }

  struct Piece {
    std::string text;
    bool moved = false;  ///< something was read, even if none of it is wanted
  };
  /// What there is after what was given before. `last`: also what has no line end yet. `job` is as it is now, and so
  /// knows of every rank that has written anything.
  Piece next(const job::Job& job, bool last) {
    Piece out;
    const std::size_t share = std::max(kPiece / std::max<std::size_t>(sources_.size(), 1), kLeastPiece);
    for (Source& source : sources_) {
      auto piece = app_.logs->read(source.key, source.at, share);
      if (!piece.ok() || piece->empty()) {
        if (last && !source.partial.empty()) {
          emit(prefix_of(job, source), std::exchange(source.partial, {}) + "\n", out.text);
          out.moved = true;
        }
        continue;
      }
      out.moved = true;
      source.at += piece->size();
      if (!source.prefixed && wanted_.grep.empty()) {
        out.text += *piece;
      } else {
        take_lines(source, *piece, prefix_of(job, source), out.text);
      }
    }
    return out;
  }

  /// Where a reader that has had everything until now goes on.
  [[nodiscard]] std::string cursor() const {
    std::string text;
    for (const Source& source : sources_) {
      text += fmt::format("{}{}", text.empty() ? "" : ",", source.at - source.partial.size());
    }
    return fmt::format("{}:{}", sources_.empty() ? 0 : sources_.front().key.epoch.value(), text);
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
  static std::string prefix_of(const job::Job& job, const Source& source) {
    const auto& attempt = job.attempts[static_cast<std::size_t>(source.key.epoch.value() - 1)];
    const Rank rank = source.key.rank;
    return source.prefixed ? rank_prefix(attempt.ranks[static_cast<std::size_t>(rank.value())], rank) : "";
  }

  void take_lines(Source& source, std::string_view piece, const std::string& prefix, std::string& out) const {
    source.partial += piece;
    std::size_t start = 0;
    for (std::size_t end = source.partial.find('\n'); end != std::string::npos;
         end = source.partial.find('\n', start)) {
      emit(prefix, std::string_view(source.partial).substr(start, end - start + 1), out);
      start = end + 1;
    }
    source.partial.erase(0, start);
    if (source.partial.size() > kLongestLine) {
      emit(prefix, std::exchange(source.partial, {}) + "\n", out);
    }
  }

  void emit(const std::string& prefix, std::string_view line, std::string& out) const {
    if (wanted_.grep.empty() || line.find(wanted_.grep) != std::string_view::npos) {
      out += prefix;
      out += line;
    }
  }

  App& app_;
  Wanted wanted_;
  std::vector<Source> sources_;
  std::vector<std::pair<RankKey, std::uint64_t>> watched_;
};

/// "CURSOR LENGTH", a newline, and so many bytes.
std::string frame_head(const LogReader& reader, std::size_t length) {
  return fmt::format("{} {}\n", reader.cursor(), length);
}

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
  const std::string type =
      wanted->framed ? "application/octet-stream" : "text/plain; charset=utf-8";
  net::BodyStream stream = co_await exchange.start_stream(200, type, headers);
  net::Wakeup wakeup(exchange.executor());
  stream.on_closed([&wakeup] { wakeup.notify(); });
  const StreamPlace place(app, wakeup, app.log_streams);
  const Caller caller = caller_of(exchange);
  LogReader reader(app, *wanted);
  struct Leave {
    LogReader& reader;
    ~Leave() { reader.unwatch(); }
  } leave{reader};
  Epoch epoch(0);
  while (!stream.closed() && !app.stopping) {
    if (!is_known(app, caller)) {
      stream.abort();
      co_return;
    }
    job = app.control->snapshot()->find(id);
    const bool fixed = wanted->attempt.has_value();
    if (epoch == Epoch(0) && job->epoch() > Epoch(0)) {
      // All attempts in order, unless a place in the newest is asked for.
      const bool newest = wanted->tail || wanted->line;
      epoch = wanted->from ? *wanted->from
              : fixed      ? *wanted->attempt
              : newest     ? job->epoch()
                           : Epoch(1);
      reader.begin(*job, epoch, true);
      reader.watch([&wakeup] { wakeup.notify(); });
    }
    const bool has_epoch = epoch > Epoch(0);
    const bool attempt_over = has_epoch && job->attempts[static_cast<std::size_t>(epoch.value() - 1)].ended_at.has_value();
    const bool job_over = job::is_terminal(job->status);
    const bool complete = attempt_over || !wanted->follow || (job_over && !has_epoch);
    LogReader::Piece piece = has_epoch ? reader.next(*job, complete) : LogReader::Piece();
    if (piece.moved) {
      const std::string head =
          wanted->framed && !piece.text.empty() ? frame_head(reader, piece.text.size()) : "";
      piece.text.insert(0, head);
      const Status sent = co_await stream.write(piece.text);
      if (!sent.ok()) {
        co_return;
      }
      if (piece.text.empty()) {
        // A long search writes nothing for a while: others have their turn in between.
        co_await asio::post(exchange.executor(), asio::use_awaitable);
      }
      continue;
    }
    if (attempt_over && !fixed && job->epoch() > epoch) {
      epoch = Epoch(epoch.value() + 1);
      reader.unwatch();
      reader.begin(*job, epoch, false);
      reader.watch([&wakeup] { wakeup.notify(); });
      std::string separator = fmt::format(
          "[quad: attempt {} ended: {}; attempt {} follows]\n", epoch.value() - 1,
          job->attempts[static_cast<std::size_t>(epoch.value() - 2)].reason, epoch.value());
      if (wanted->framed) {
        separator.insert(0, frame_head(reader, separator.size()));
      }
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
