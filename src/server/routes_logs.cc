// A job's output: GET /v1/jobs/{id}/logs, as plain text for people and curl, or as frames for
// programs that must know where they are (api/openapi.yaml says how): a follower that lost the
// server goes on where it was.

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/prefixed_lines.h"
#include "server/app.h"
#include "server/input.h"
#include "server/log_reader.h"
#include "server/views.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

/// How often a follower is told how the job stands; also the sign that the server is there.
constexpr Millis kStateEvery{1'000};

struct Asked {
  LogWanted wanted;
  bool frames = false;
};

Result<Asked> read_asked(const net::Request& request, const job::Job& job, WallTime now) {
  Asked asked;
  LogWanted& wanted = asked.wanted;
  QueryReader query(request);
  const auto attempt = query.integer("attempt", {1, INT32_MAX});
  const auto rank = query.integer("rank", {0, INT32_MAX});
  wanted.follow = query.flag("follow");
  wanted.tail = query.integer("tail", {});
  wanted.line = query.integer("line", {1});
  wanted.since = query.time("since", now);
  wanted.grep = query.text("grep").value_or("");
  if (const auto text = query.text("cursor")) {
    asked.frames = true;
    wanted.from = parse_log_cursor(*text);
    if (!wanted.from) {
      query.refuse(
          "cursor", *text,
          "start, or an attempt and the places of its ranks as frames told them: 1:0=1234,1=880");
    } else if (wanted.from->attempt == Epoch(0)) {
      wanted.from.reset();
    }
  }
  QUAD_TRY(query.finish());
  const std::int32_t attempts = std::max(job.epoch().value(), 1);
  if (attempt) {
    wanted.attempt = Epoch(static_cast<std::int32_t>(*attempt));
    if (*attempt > attempts) {
      return error(ErrorCode::kNotFound,
                   fmt::format("Job {} has had {} attempt{}", job.id.value(), job.epoch().value(),
                               job.epoch().value() == 1 ? "" : "s"),
                   "attempt");
    }
  }
  if (wanted.from && (wanted.from->attempt > job.epoch() ||
                      (attempt && wanted.from->attempt.value() != *attempt) ||
                      std::any_of(wanted.from->offsets.begin(), wanted.from->offsets.end(),
                                  [&](const auto& place) {
                                    return place.first >= job.request->ranks ||
                                           (rank && place.first != *rank);
                                  }))) {
    return error(ErrorCode::kInvalid,
                 "The cursor is of another job, attempt or rank; begin with 'start'", "cursor");
  }
  if (rank) {
    wanted.rank = Rank(static_cast<std::int32_t>(*rank));
    if (*rank >= job.request->ranks) {
      return error(ErrorCode::kNotFound,
                   job.request->ranks == 1 ? fmt::format("Job {} has rank 0 only", job.id.value())
                                           : fmt::format("Job {} has ranks 0 to {}", job.id.value(),
                                                         job.request->ranks - 1),
                   "rank");
    }
  }
  return asked;
}

/// The pieces in one of the two forms.
class Writer {
 public:
  explicit Writer(bool frames) : frames_(frames) {}

  void piece(Epoch attempt, const LogReader::Piece& piece) {
    if (frames_) {
      frame({{"type", "output"},
             {"attempt", attempt.value()},
             {"rank", piece.rank.value()},
             {"prefix", piece.prefix},
             {"next", piece.next},
             {"bytes", piece.text.size()}});
      out_ += piece.text;
    } else if (piece.prefix.empty()) {
      out_ += piece.text;
    } else {
      lines_.add(out_, piece.rank.value(), piece.prefix, piece.text);
    }
  }
  /// `before`: why the attempt before it ended; null if the reader did not see that one.
  void attempt(Epoch attempt, const LogReader& reader, const std::string* before) {
    if (frames_) {
      json::array places;
      for (const auto& [rank, offset] : reader.places()) {
        places.push_back(json::array{rank.value(), offset});
      }
      frame({{"type", "attempt"},
             {"attempt", attempt.value()},
             {"before", before == nullptr ? json::value(nullptr) : json::value(*before)},
             {"places", std::move(places)}});
    } else if (before != nullptr) {
      lines_.finish(out_);
      out_ += fmt::format("[quad: attempt {} ended: {}; attempt {} follows]\n", attempt.value() - 1,
                          *before, attempt.value());
    }
  }
  void state(const job::Job& job, const std::vector<control::RankLive>& live,
             const control::Snapshot& snapshot) {
    json::object row = job_row(job, live);
    json::value waits = nullptr;
    if (const auto why = snapshot.queue == nullptr ? std::nullopt : snapshot.queue->why(job.id)) {
      waits = json::object{{"message", why->message}, {"position", why->position}};
    }
    frame({{"type", "state"}, {"job", std::move(row)}, {"waits", std::move(waits)}});
  }
  void end() {
    if (frames_) {
      frame({{"type", "end"}});
    } else {
      lines_.finish(out_);
    }
  }
  [[nodiscard]] bool frames() const { return frames_; }
  std::string take() { return std::exchange(out_, {}); }

 private:
  void frame(const json::object& head) {
    out_ += to_text(head);
    out_ += '\n';
  }

  bool frames_;
  PrefixedLines lines_;
  std::string out_;
};

/// One reader of one job's output, from its first byte to its last.
asio::awaitable<void> serve_log(App& app, net::Exchange& exchange, JobId id, const Asked& asked,
                                net::BodyStream& stream) {
  const LogWanted& wanted = asked.wanted;
  net::Wakeup wakeup(exchange.executor());
  stream.on_closed([&wakeup] { wakeup.notify(); });
  const Caller caller = caller_of(exchange);
  const StreamPlace place(app, wakeup, app.log_streams, caller.user);
  LogReader reader(*app.logs, wanted);
  Writer writer(asked.frames);
  const bool tells_state = asked.frames && wanted.follow;
  const bool fixed = wanted.attempt.has_value();
  Epoch epoch(0);
  std::optional<MonoTime> told_at;
  job::Status told = job::Status::kPending;
  std::vector<LogReader::Piece> pieces;
  while (!stream.closed() && !app.stopping) {
    if (!is_known(app, caller)) {
      stream.abort();
      co_return;
    }
    const auto snapshot = app.control->snapshot();
    const auto job = snapshot->find(id);
    if (epoch == Epoch(0) && job->epoch() > Epoch(0)) {
      // All attempts in order, unless a place in the newest is asked for.
      const bool newest = wanted.tail || wanted.line;
      epoch = fixed         ? *wanted.attempt
              : wanted.from ? wanted.from->attempt
              : newest      ? job->epoch()
                            : Epoch(1);
      reader.begin(*job, epoch, true);
      reader.watch([&wakeup] { wakeup.notify(); });
      writer.attempt(epoch, reader, nullptr);
    }
    const bool has_epoch = epoch > Epoch(0);
    const job::Attempt* attempt =
        has_epoch ? &job->attempts[static_cast<std::size_t>(epoch.value() - 1)] : nullptr;
    const bool attempt_over = has_epoch && attempt->ended_at.has_value();
    const bool job_over = job::is_terminal(job->status);
    const bool complete = attempt_over || !wanted.follow || (job_over && !has_epoch);
    pieces.clear();
    const MonoTime now = app.clock->now().mono;
    const bool moved = has_epoch && reader.next(*job, now, complete, pieces);
    for (const LogReader::Piece& piece : pieces) {
      writer.piece(epoch, piece);
    }
    bool over = false;
    if (!moved && attempt_over && !fixed && job->epoch() > epoch) {
      epoch = Epoch(epoch.value() + 1);
      reader.unwatch();
      reader.begin(*job, epoch, false);
      reader.watch([&wakeup] { wakeup.notify(); });
      writer.attempt(epoch, reader, &attempt->reason);
    } else {
      over = !moved && (!wanted.follow || job_over || (fixed && attempt_over));
    }
    if (tells_state && (over || !told_at || now - *told_at >= kStateEvery || job->status != told)) {
      writer.state(*job, app.control->live(id), *snapshot);
      told_at = now;
      told = job->status;
    }
    if (over) {
      writer.end();
    }
    const std::string out = writer.take();
    const Status sent = co_await stream.write(out);
    if (!sent.ok() || over) {
      co_return;
    }
    if (moved) {
      if (out.empty()) {
        // A long search writes nothing for a while: others have their turn in between.
        co_await asio::post(exchange.executor(), asio::use_awaitable);
      }
    } else if (out.empty()) {
      auto wait = has_epoch ? reader.gives_rest_in(now) : std::nullopt;
      if (tells_state) {
        const Millis state = kStateEvery - std::min(kStateEvery, now - *told_at);
        wait = wait ? std::min(*wait, state) : state;
      }
      if (wait) {
        co_await wakeup.wait_for(*wait + Millis(1));
      } else {
        co_await wakeup.wait();
      }
    }
  }
}

asio::awaitable<void> logs(App& app, net::Exchange& exchange) {
  const auto job = job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  const auto asked = read_asked(exchange.request(), *job, app.clock->now().wall);
  if (!asked.ok()) {
    exchange.respond_error(asked.error());
    co_return;
  }
  if (!may_stream(app, exchange)) {
    co_return;
  }
  const net::Headers headers = {{"Cache-Control", "no-store"}};
  const std::string type = asked->frames ? "application/octet-stream" : "text/plain; charset=utf-8";
  net::BodyStream stream = co_await exchange.start_stream(200, type, headers);
  co_await serve_log(app, exchange, job->id, *asked, stream);
}

}  // namespace

void add_log_routes(App& app, net::Router& router) {
  router.get("/v1/jobs/{id}/logs", [&app](net::Exchange& e) { return logs(app, e); });
}

}  // namespace quad::server
