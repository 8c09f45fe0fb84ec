// The server's end of a runner's connection (docs/runner-protocol.md).

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <vector>

#include "base/text.h"
#include "job/record.h"
#include "runner/protocol.h"
#include "server/app.h"
#include "server/crypto.h"
#include "server/submit.h"

namespace quad::server {

namespace asio = boost::asio;

constexpr Millis kOutputWait{30'000};
constexpr std::size_t kMostOfRank =
    4;  // runners of one rank: a new one comes before the old leaves
constexpr std::size_t kLongestText = 2'000;
constexpr std::size_t kLongestPath = 4'096;
constexpr std::size_t kMostPaths = 1'000;

namespace {

/// A text that a runner reports, cut to so many bytes.
std::string text_of(const json::object& message, std::string_view key,
                    std::size_t longest = kLongestText) {
  const std::string_view text = get_string(message, key);
  return text.size() <= longest ? std::string(text)
                                : valid_utf8(text.substr(0, longest)) + "\u2026";
}

/// Of the metrics that a rank reports, as many as fit into each row of every list.
json::object metrics_of(const json::object& reported) {
  constexpr std::size_t kMost = 64;
  constexpr std::size_t kMostBytes = 4'096;
  json::object kept;
  std::size_t bytes = 0;
  for (const auto& metric : reported) {
    constexpr std::size_t kNumber = 24;
    bytes += metric.key().size() + kNumber;
    if (kept.size() == kMost || bytes > kMostBytes) {
      break;
    }
    if (metric.value().is_number()) {
      kept[metric.key()] = metric.value();
    }
  }
  return kept;
}

/// How a rank ended, with the words of its runner cut to size.
job::RankEnd end_of(const json::object& message) {
  job::RankEnd end = job::rank_end_from_json(message);
  if (end.detail.size() > kLongestText) {
    end.detail = valid_utf8(std::string_view(end.detail).substr(0, kLongestText));
  }
  return end;
}

}  // namespace

namespace {

const job::RankRecord* record_of(const job::Job& job, const RankKey& key) {
  const auto attempt =
      std::find_if(job.attempts.begin(), job.attempts.end(),
                   [&](const job::Attempt& one) { return one.epoch == key.epoch; });
  const auto at = static_cast<std::size_t>(key.rank.value());
  return attempt == job.attempts.end() || at >= attempt->ranks.size() ? nullptr
                                                                      : &attempt->ranks[at];
}

bool has_ended(const job::RankRecord& rank) {
  return rank.end && rank.end->confirmed;
}

}  // namespace

/// One connection. Its reader is the route's handler; its writer is a coroutine of its own that
/// lives as long.
class RunnerSession : public std::enable_shared_from_this<RunnerSession> {
 public:
  RunnerSession(App& app, net::RawStream stream, RankKey key, std::string nonce,
                std::string_view peer, const asio::any_io_executor& executor)
      : app_(app),
        stream_(std::move(stream)),
        key_(key),
        nonce_(std::move(nonce)),
        machine_(machine_of(peer)),
        more_(executor) {}

  void send(const json::object& message) { send_frame(runner::encode_message(message)); }
  void send_frame(const std::string& frame) {
    outgoing_ += frame;
    more_.notify();
  }
  void close() {
    closed_ = true;
    stream_.close();
    more_.notify();
  }

  /// Whether it has said hello: what it said there of its tasks is older than anything that it is
  /// told from then on.
  [[nodiscard]] bool greeted() const { return greeted_; }

  /// Whether this is the runner that the records name for its rank: nothing that another one says
  /// counts. It stays so for as long as it is connected, so that what it had sent when its end was
  /// recorded is taken.
  bool accepted() {
    if (!accepted_) {
      const auto job = app_.control->snapshot()->find(key_.job);
      const job::RankRecord* rank = job == nullptr ? nullptr : record_of(*job, key_);
      accepted_ =
          rank != nullptr && !rank->nonce.empty() && rank->nonce == nonce_ && !has_ended(*rank);
    }
    return accepted_;
  }

  /// Whether a connection from there is from the machine that the runner is on.
  [[nodiscard]] bool is_of(std::string_view peer) const { return machine_of(peer) == machine_; }

  asio::awaitable<void> write_loop(std::shared_ptr<RunnerSession> self) {
    while (!self->closed_) {
      if (self->outgoing_.empty()) {
        co_await self->more_.wait();
        continue;
      }
      const std::string piece = std::exchange(self->outgoing_, {});
      const Status sent = co_await self->stream_.write(piece);
      if (!sent.ok()) {
        self->close();
      }
    }
  }

  asio::awaitable<void> read_loop() {
    runner::FrameReader frames;
    // Much less than a follower is given at once (log_reader.cc): both take turns on one thread,
    // and who reads the output must keep up with who prints it.
    constexpr std::size_t kRead = 64 * 1024;
    // Most runners only send a heartbeat each second: a thousand of them must not hold 64 MB.
    constexpr std::size_t kLeastRead = 2 * 1024;
    std::size_t wanted = kLeastRead;
    while (!closed_) {
      char* room = frames.room(wanted);
      const auto got = co_await stream_.read_some({room, wanted});
      if (!got.ok() || *got == 0) {
        break;
      }
      wanted = *got == wanted ? std::min(kRead, wanted * 4) : std::max(kLeastRead, wanted / 2);
      frames.commit(*got);
      if (!take_all(frames)) {
        break;
      }
      if (acknowledge_) {
        acknowledge_ = false;
        send_frame(runner::encode_ack(app_.logs->end(key_)));
      }
    }
    close();
  }

 private:
  static std::string machine_of(std::string_view peer) {
    return std::string(peer.substr(0, peer.rfind(':')));
  }

  bool take_all(runner::FrameReader& frames) {
    for (;;) {
      const auto frame = frames.next_view();
      if (!frame.ok()) {
        spdlog::warn("rank {}: {}", to_string(key_), frame.error().message);
        return false;
      }
      if (!frame->has_value()) {
        return true;
      }
      const runner::FrameView& view = **frame;
      if (view.type == runner::kLogFrame) {
        const auto chunk = runner::decode_log(view.payload);
        if (!chunk.ok()) {
          spdlog::warn("rank {}: {}", to_string(key_), chunk.error().message);
          return false;
        }
        if (!accepted()) {
          return false;  // it has no order yet, so there is nothing of its rank to tell
        }
        app_.logs->append(key_, chunk->offset, chunk->bytes, app_.clock->now().wall);
        acknowledge_ = true;
        report_end();
      } else if (view.type == runner::kJsonFrame) {
        const auto message = runner::decode_message(view.payload);
        if (!message.ok()) {
          spdlog::warn("rank {}: {}", to_string(key_), message.error().message);
          return false;
        }
        take(*message);
      }
    }
  }

  void take(const json::object& message) {
    const std::string_view type = get_string(message, "type");
    const Epoch epoch = key_.epoch;
    if ((type == "heartbeat" || type == "progress" || type == "gap") && !accepted()) {
      return;  // what else it tells is recorded, which asks for its nonce
    }
    if (type == "heartbeat") {
      live_.rss_bytes = get_int(message, "rss_bytes");
      live_.cpu_percent = get_double(message, "cpu_percent");
      app_.control->heartbeat(key_, live_);
      renew_lease(message);
      report_end();
    } else if (type == "progress") {
      live_.step = get_int(message, "step", live_.step);
      live_.total = get_int(message, "total", live_.total);
      live_.step_at = WallTime{get_int(message, "at_ms")};
      if (live_.first_step < 0) {
        live_.first_step = live_.step;
        live_.first_step_at = live_.step_at;
      }
      if (const auto* metrics = get_object(message, "metrics")) {
        live_.metrics = metrics_of(*metrics);
      }
      app_.control->heartbeat(key_, live_);
    } else if (type == "hello") {
      live_.rank = key_.rank;
      acknowledge_ = app_.logs->end(key_) > 0;  // what is here already need not come again
      report(job::RankHello{epoch, key_.rank, nonce_, text_of(message, "address"),
                            static_cast<std::int32_t>(get_int(message, "port")),
                            static_cast<std::int32_t>(get_int(message, "pid"))},
             message);
      greeted_ = true;
      if (const json::array* tasks = get_array(message, "tasks")) {
        report_tasks(*tasks);
      }
    } else if (type == "task_ended") {
      report_task_end(message);
    } else if (type == "phase") {
      const std::string_view phase = get_string(message, "phase");
      if (phase == "ready") {
        report(job::RankReady{epoch, key_.rank}, message);
      } else if (phase == "setting_up") {
        report(job::RankSettingUp{epoch, key_.rank}, message);
      } else {
        acknowledge_unrecorded(get_int(message, "seq"));
      }
    } else if (type == "resumed") {
      job::Resume resume{text_of(message, "path", kLongestPath), get_int(message, "step", -1),
                         text_of(message, "note")};
      report(job::ResumeChosen{epoch, std::move(resume)}, message);
    } else if (type == "checkpoint") {
      job::CheckpointSeen seen{epoch, text_of(message, "path", kLongestPath),
                               get_int(message, "step", -1), get_int(message, "bytes"),
                               text_of(message, "note")};
      if (may_record(ReportShare::Kind::kCheckpoint, seen.path.size() + seen.note.size(),
                     message)) {
        report(std::move(seen), message);
      }
    } else if (type == "checkpoints_gone") {
      job::CheckpointsGone gone{epoch, {}};
      std::size_t bytes = 0;
      if (const json::array* paths = get_array(message, "paths")) {
        for (const json::value& path : *paths) {
          const std::string_view text =
              path.is_string() ? std::string_view(path.get_string()) : std::string_view();
          if (text.size() <= kLongestPath && gone.paths.size() < kMostPaths) {
            gone.paths.emplace_back(text);
            bytes += text.size();
          }
        }
      }
      if (may_record(ReportShare::Kind::kCheckpoint, bytes, message)) {
        report(std::move(gone), message);
      }
    } else if (type == "note") {
      constexpr std::size_t kLongestKind = 64;
      job::Noted noted{epoch, key_.rank, text_of(message, "kind", kLongestKind),
                       text_of(message, "message")};
      if (may_record(ReportShare::Kind::kNote, noted.message.size(), message)) {
        report(std::move(noted), message);
      }
    } else if (type == "gap") {
      app_.logs->gap(key_, static_cast<std::uint64_t>(get_int(message, "from")),
                     static_cast<std::uint64_t>(get_int(message, "to")), app_.clock->now().wall);
      acknowledge_ = true;
      report_end();
    } else if (type == "session_failed") {
      session_failed(app_, key_, get_string(message, "id"), get_string(message, "message"));
    } else if (type == "exited") {
      ended_ = message;
      ended_at_ = app_.clock->now().mono;
      report_end();
    }
  }

  /// Only for as long as the records say that this runner is the one, and from the time at which it
  /// asked.
  void renew_lease(const json::object& heartbeat) {
    const auto job = app_.control->snapshot()->find(key_.job);
    if (job != nullptr && job->request->recovery.strict_fence &&
        job::is_in_charge(*job, key_, nonce_)) {
      send({{"type", "lease"}, {"at_ms", get_int(heartbeat, "at_ms")}});
    }
  }

  /// A rank's end is told only when all its output is here, so that the logs of a job that ended
  /// are complete; but no later than kOutputWait after it came.
  void report_end() {
    if (!ended_) {
      return;
    }
    const auto log_end =
        static_cast<std::uint64_t>(std::max<std::int64_t>(get_int(*ended_, "log_end"), 0));
    const std::uint64_t held = app_.logs->end(key_);
    const Now now = app_.clock->now();
    if (held < log_end && accepted()) {
      if (now.mono - ended_at_ < kOutputWait) {
        return;
      }
      spdlog::warn("rank {}: the last {} bytes of its output did not come", to_string(key_),
                   log_end - held);
      app_.logs->gap(key_, held, log_end, now.wall);
    }
    const json::object message = std::exchange(ended_, std::nullopt).value();
    job::RankEnd end = end_of(message);
    end.confirmed = true;
    report(job::RankEnded{key_.epoch, key_.rank, std::move(end)}, message);
  }

  /// Whether the job may have this on record as well. If not, the report is done with: the story
  /// says so once.
  bool may_record(ReportShare::Kind kind, std::size_t bytes, const json::object& message) {
    const auto job = app_.control->snapshot()->find(key_.job);
    const std::int32_t ranks = job == nullptr ? 1 : job->request->ranks;
    switch (app_.reports.take(key_.job, ranks, kind, bytes)) {
      case ReportShare::Answer::kRecord:
        return true;
      case ReportShare::Answer::kTellOnce:
        report(job::Noted{key_.epoch, key_.rank, "limit",
                          fmt::format("The ranks of this job have reported more {} than is kept on "
                                      "record; further ones are not recorded.",
                                      kind == ReportShare::Kind::kNote ? "notes" : "checkpoints")},
               message);
        return false;
      case ReportShare::Answer::kDrop:
        acknowledge_unrecorded(get_int(message, "seq"));
        return false;
    }
    return false;
  }

  void report(job::Happening happening, const json::object& message) {
    app_.control->report(
        control::RunnerReport{key_, nonce_, std::move(happening), when_durable(message)});
  }

  /// What the runner of a cluster's node has running there.
  void report_tasks(const json::array& tasks) {
    std::vector<engine::Existing> existing;
    for (const json::value& value : tasks) {
      if (const json::object* task = value.if_object()) {
        existing.push_back(
            {runner::rank_key_of(*task), get_bool(*task, "alive"), result_of(*task), NodeId()});
      }
    }
    app_.control->report(control::HolderReport{key_, nonce_, std::move(existing), nullptr});
  }

  void report_task_end(const json::object& message) {
    engine::RunnerEnded ended{runner::rank_key_of(message), result_of(message),
                              text_of(message, "detail")};
    app_.control->report(
        control::HolderReport{key_, nonce_, std::move(ended), when_durable(message)});
  }

  static std::optional<job::RankEnd> result_of(const json::object& message) {
    const json::object* result = get_object(message, "result");
    return result == nullptr ? std::nullopt : std::optional(end_of(*result));
  }

  /// Acknowledges the message once it is recorded.
  std::function<void()> when_durable(const json::object& message) {
    const std::int64_t seq = get_int(message, "seq");
    if (seq <= 0) {
      return nullptr;
    }
    ++undurable_;
    return [self = shared_from_this(), seq] {
      asio::post(self->app_.io, [self, seq] {
        --self->undurable_;
        self->acknowledge(std::max(seq, self->undurable_ == 0 ? self->needs_nothing_ : 0));
      });
    };
  }

  /// For messages that change no record. An acknowledgement covers all before it, so it waits for
  /// those.
  void acknowledge_unrecorded(std::int64_t seq) {
    needs_nothing_ = std::max(needs_nothing_, seq);
    if (undurable_ == 0) {
      acknowledge(seq);
    }
  }

  void acknowledge(std::int64_t seq) {
    if (seq > 0 && !closed_) {
      send({{"type", "ack"}, {"seq", seq}});
    }
  }

  App& app_;
  net::RawStream stream_;
  RankKey key_;
  std::string nonce_;
  const std::string machine_;
  net::Wakeup more_;
  std::string outgoing_;
  bool closed_ = false;
  bool greeted_ = false;
  bool accepted_ = false;
  bool acknowledge_ = false;
  int undurable_ = 0;               ///< reports whose record control has not confirmed
  std::int64_t needs_nothing_ = 0;  ///< newest message that is not recorded
  std::optional<json::object> ended_;
  MonoTime ended_at_;
  control::RankLive live_;
};

namespace {

std::optional<std::int64_t> number(const std::optional<std::string>& text) {
  return text ? parse_number(*text) : std::nullopt;
}

}  // namespace

std::optional<RankKey> runner_of(App& app, net::Exchange& exchange) {
  const net::Request& request = exchange.request();
  const auto job = number(request.query_value("job"));
  const auto epoch = number(request.query_value("epoch"));
  const auto rank = number(request.query_value("rank"));
  if (!job || !epoch || !rank || *epoch < 1 || *epoch > 1'000'000'000 || *rank < 0 ||
      *rank > 1'000'000) {
    exchange.respond_error(
        error(ErrorCode::kInvalid, "A runner must give its job, epoch and rank"));
    return std::nullopt;
  }
  const RankKey key{JobId(*job), Epoch(static_cast<std::int32_t>(*epoch)),
                    Rank(static_cast<std::int32_t>(*rank))};
  const std::string expected = "Bearer " + app.control->attempt_token(key.job, key.epoch);
  if (!equal_constant_time(request.header("Authorization").value_or(""), expected)) {
    exchange.respond_error(
        error(ErrorCode::kUnauthenticated, "This is not the token of that attempt"));
    return std::nullopt;
  }
  (void)exchange.admit("a runner", true);
  const auto record = app.control->snapshot()->find(key.job);
  const job::RankRecord* known = record == nullptr ? nullptr : record_of(*record, key);
  if (known == nullptr) {
    exchange.respond(net::error_response(410, "gone", "There is no such rank"));
    return std::nullopt;
  }
  // Its own runner may come back for the answer to what it told last.
  if (has_ended(*known) && known->nonce != request.query_value("nonce")) {
    exchange.respond(net::error_response(410, "gone", "That rank has ended"));
    return std::nullopt;
  }
  return key;
}

namespace {

std::size_t runners_of(const App& app, const RankKey& key) {
  std::size_t count = 0;
  for (auto it = app.sessions.lower_bound({key, ""});
       it != app.sessions.end() && it->first.first == key; ++it) {
    ++count;
  }
  return count;
}

asio::awaitable<void> serve_runner(App& app, net::Exchange& exchange) {
  const std::string nonce = exchange.request().query_value("nonce").value_or("");
  if (nonce.empty() || nonce.size() > 128) {
    exchange.respond_error(error(ErrorCode::kInvalid, "A runner must give its nonce"));
    co_return;
  }
  const auto known = runner_of(app, exchange);
  if (!known) {
    co_return;
  }
  const RankKey key = *known;
  if (!app.sessions.contains({key, nonce}) && runners_of(app, key) >= kMostOfRank) {
    respond_busy(exchange, error(ErrorCode::kExhausted,
                                 fmt::format("Rank {} has {} runners connected already",
                                             to_string(key), kMostOfRank)));
    co_return;
  }
  auto upgraded = co_await exchange.upgrade(std::string(runner::kUpgradeProtocol));
  if (!upgraded.ok()) {
    exchange.respond_error(upgraded.error());
    co_return;
  }
  const auto session = std::make_shared<RunnerSession>(
      app, std::move(upgraded).value(), key, nonce, exchange.request().peer, exchange.executor());
  auto& slot = app.sessions[{key, nonce}];
  if (slot != nullptr) {
    slot->close();  // its connection had broken without a word
  }
  slot = session;
  asio::co_spawn(exchange.executor(), session->write_loop(session), asio::detached);
  co_await session->read_loop();
  if (const auto it = app.sessions.find({key, nonce});
      it != app.sessions.end() && it->second == session) {
    app.sessions.erase(it);
    if (session->accepted()) {
      app.control->disconnected(key);
    }
  }
}

/// The session of the runner that was accepted for this rank.
std::shared_ptr<RunnerSession> session_of(App& app, const RankKey& key, const job::Job& job) {
  const job::Attempt* attempt = job.live();
  const auto rank = static_cast<std::size_t>(key.rank.value());
  if (attempt == nullptr || attempt->epoch != key.epoch || rank >= attempt->ranks.size()) {
    return nullptr;
  }
  const auto it = app.sessions.find({key, attempt->ranks[rank].nonce});
  return it == app.sessions.end() ? nullptr : it->second;
}

/// Whether no rank of any attempt can be at work any more.
bool is_over(const job::Job& job) {
  return job::is_terminal(job.status) &&
         std::all_of(job.attempts.begin(), job.attempts.end(), [](const job::Attempt& attempt) {
           return std::all_of(
               attempt.ranks.begin(), attempt.ranks.end(),
               [](const job::RankRecord& rank) { return rank.end && rank.end->confirmed; });
         });
}

/// Whoever is connected for this rank.
void send_to_all(App& app, const RankKey& key, const json::object& message) {
  for (auto it = app.sessions.lower_bound({key, ""});
       it != app.sessions.end() && it->first.first == key; ++it) {
    it->second->send(message);
  }
}

}  // namespace

void add_runner_routes(App& app, net::Router& router) {
  router.get("/v1/runner", [&app](net::Exchange& exchange) { return serve_runner(app, exchange); });
}

bool is_at_runner(App& app, const job::Job& job, const RankKey& key, std::string_view peer) {
  const auto session = session_of(app, key, job);
  return session != nullptr && session->is_of(peer);
}

bool tell_runner(App& app, const job::Job& job, const RankKey& key, const json::object& message) {
  const auto session = session_of(app, key, job);
  if (session != nullptr) {
    session->send(message);
  }
  return session != nullptr;
}

control::RunnerOrders runner_orders(App& app) {
  control::RunnerOrders orders;
  orders.order = [&app](const RankKey& key, std::shared_ptr<const job::Job> job) {
    asio::post(app.io, [&app, key, job = std::move(job)] {
      const auto session = session_of(app, key, *job);
      if (session == nullptr) {
        return;
      }
      const auto body = store::body_of(*app.store, *job);
      if (!body.ok()) {
        spdlog::error("the order of rank {} cannot be made: {}", to_string(key),
                      body.error().message);
        return;
      }
      const job::Attempt* attempt = job->live();
      if (attempt == nullptr) {
        return;  // it has ended meanwhile
      }
      auto order = make_order(*job, *body, key, app.secret_key,
                              app.hot_of(attempt->ranks.front().holding.node));
      if (order.ok()) {
        session->send(*order);
      } else {
        spdlog::error("the order of rank {} cannot be made: {}", to_string(key),
                      order.error().message);
      }
    });
  };
  orders.go = [&app](const RankKey& key, std::shared_ptr<const job::Job> job) {
    asio::post(app.io, [&app, key, job = std::move(job)] {
      if (const auto session = session_of(app, key, *job)) {
        session->send(make_go(*job, key));
      }
    });
  };
  orders.end_fence_wait = [&app](const RankKey& key) {
    asio::post(app.io, [&app, key] { send_to_all(app, key, {{"type", "end_fence_wait"}}); });
  };
  orders.stop = [&app](const RankKey& key, Millis grace, std::string reason) {
    asio::post(app.io, [&app, key, grace, reason = std::move(reason)] {
      send_to_all(app, key, {{"type", "stop"}, {"grace_ms", grace.count()}, {"reason", reason}});
    });
  };
  orders.leave = [&app](const RankKey& key, std::string nonce, std::string reason) {
    asio::post(app.io, [&app, key, nonce = std::move(nonce), reason = std::move(reason)] {
      if (const auto it = app.sessions.find({key, nonce}); it != app.sessions.end()) {
        it->second->send({{"type", "leave"}, {"reason", reason}});
      }
    });
  };
  orders.bye = [&app](const RankKey& key) {
    asio::post(app.io, [&app, key] {
      const auto job = app.control->snapshot()->find(key.job);
      const bool over = job != nullptr && is_over(*job);
      send_to_all(app, key, {{"type", "bye"}, {"job_is_over", over}});
      if (over) {
        app.reports.forget(key.job);
      }
      app.logs->close(key);
    });
  };
  return orders;
}

engine::Holders holders(App& app) {
  // Lost when the runner is not connected: when it is, it says what it has, and control sees what
  // is missing.
  const auto tell = [&app](const RankKey& holder, json::object message) {
    asio::post(app.io, [&app, holder, message = std::move(message)] {
      const auto job = app.control->snapshot()->find(holder.job);
      const auto session = job == nullptr ? nullptr : session_of(app, holder, *job);
      if (session != nullptr && session->greeted()) {
        session->send(message);
      }
    });
  };
  const auto about = [](std::string_view type, const RankKey& task) {
    return json::object{{"type", type},
                        {"job", task.job.value()},
                        {"epoch", task.epoch.value()},
                        {"rank", task.rank.value()}};
  };
  engine::Holders holders;
  holders.start = [tell, about](const RankKey& holder, const engine::StartOrder& order) {
    json::object message = about("start_task", order.key);
    message["token"] = order.token;
    message["node"] = order.holding.node.value();
    message["gpus"] =
        json::array(order.holding.gpu_indices.begin(), order.holding.gpu_indices.end());
    tell(holder, std::move(message));
  };
  holders.kill = [tell, about](const RankKey& holder, const RankKey& task) {
    tell(holder, about("kill_task", task));
  };
  holders.forget = [tell, about](const RankKey& holder, const RankKey& task) {
    tell(holder, about("forget_task", task));
  };
  return holders;
}

}  // namespace quad::server
