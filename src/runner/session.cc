#include "runner/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <string>
#include <utility>

#include "base/json.h"
#include "base/text.h"
#include "runner/poll_set.h"
#include "runner/rank_life.h"
#include "runner/result_file.h"
#include "runner/runner_log.h"
#include "runner/signals.h"
#include "runner/spool.h"
#include "runner/uplink.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr Millis kHeartbeat{1000};
constexpr Millis kTroubleLog{60'000};  // at most one line about the connection in this time
constexpr Millis kByeWait{5000};  // how long a server that is there has to record the rank's end
/// Of a rank that was told to end from outside. With 0 its pod would have succeeded, and a kubelet
/// that evicts it would drop what it has to say of that.
constexpr int kStopped = 128 + SIGTERM;
constexpr Millis kDefaultGrace{30'000};  // of a stop that names none, before there is an order

ConnectionOptions connection_options(const Start& start, Endpoint endpoint) {
  ConnectionOptions options;
  options.endpoint = std::move(endpoint);
  options.ca = start.ca;
  options.token = start.token;
  options.target = fmt::format("/v1/runner?job={}&epoch={}&rank={}&nonce={}", start.key.job.value(),
                               start.key.epoch.value(), start.key.rank.value(), random_hex(16));
  return options;
}

class Session {
 public:
  Session(const Start& start, const fs::path& folder, const Clock& clock, ConnectionOptions options)
      : start_(start),
        folder_(folder),
        clock_(clock),
        log_(folder, clock),
        spool_(folder, {.spool_bytes = start.spool_bytes}),
        uplink_(std::move(options), spool_,
                [this] {
                  hello_at_ = now_;
                  return hello();
                }),
        life_(start, folder, clock, spool_, uplink_, log_) {}

  /// The runner's exit code.
  int run();

 private:
  void wait();
  void tick();
  void on_messages();
  void on_message(const json::object& message);
  void log_trouble();
  void keep_result();
  [[nodiscard]] json::object hello() const;
  [[nodiscard]] bool done() const { return done_ || (life_.leaving() && life_.ended()); }

  const Start& start_;
  const fs::path folder_;
  const Clock& clock_;
  const RunnerLog log_;
  Spool spool_;
  Uplink uplink_;
  RankLife life_;
  MonoTime now_{0};
  bool done_ = false;
  int exit_code_ = 0;
  bool job_is_over_ = false;  // and there is no other rank
  MonoTime hello_at_{0};      // of the present connection
  MonoTime heartbeat_at_{0};
  std::optional<MonoTime> sync_result_at_;  // at the latest
  bool result_synced_ = false;
  std::string logged_trouble_;
  MonoTime log_trouble_at_{0};
};

int Session::run() {
  now_ = clock_.now().mono;
  heartbeat_at_ = now_ + kHeartbeat;
  if (auto earlier = read_result(folder_)) {
    life_.tell_earlier_end(*std::move(earlier), now_);
  }
  while (!done()) {
    now_ = clock_.now().mono;
    tick();
    uplink_.pump(now_);
    if (!done()) {
      wait();
    }
  }
  if (job_is_over_) {
    life_.clear_up_after_job();
  }
  return exit_code_;
}

void Session::wait() {
  PollSet polled;
  polled.add(uplink_.fd(), uplink_.events(), [this](MonoTime now) {
    uplink_.on_ready(now);
    on_messages();
  });
  life_.watch(polled, now_);
  if (const auto at = uplink_.next_tick()) {
    polled.wake_at(*at);
  }
  // An attempt to connect has a time-out, which tick() looks at.
  polled.wake_at(uplink_.connection().open() ? heartbeat_at_ : now_ + kHeartbeat);

  if (sync_result_at_ && !result_synced_) {
    polled.wake_at(*sync_result_at_);
  }

  const bool ready = polled.wait(now_);
  now_ = clock_.now().mono;
  if (take_end_asked()) {
    if (life_.ended()) {
      done_ = true;  // the result is on disk, for whoever asks next
    } else {
      exit_code_ = kStopped;
    }
    life_.stop(life_.stop_grace().value_or(Millis(0)), "the runner was told to end", now_);
  }
  life_.keep_lease(now_);  // what came in while this process stood still starts nothing any more
  if (ready) {
    polled.dispatch(now_);
  }
  life_.on_children(now_);
}

void Session::tick() {
  uplink_.tick(now_);
  if (uplink_.connection().state() == Connection::State::kRefused && !life_.leaving()) {
    life_.leave(uplink_.connection().trouble(), now_);
  }
  log_trouble();
  if (now_ >= heartbeat_at_) {
    heartbeat_at_ = now_ + kHeartbeat;
    life_.beat(now_);
    if (life_.ended() && !uplink_.connection().open() && ::access(folder_.c_str(), F_OK) != 0) {
      done_ = true;  // its folder was deleted, and with it the server's data: there is nobody left
                     // to tell
    }
  }
  life_.tick(now_);
  keep_result();
}

void Session::log_trouble() {
  const std::string& trouble = uplink_.connection().trouble();
  if (!uplink_.connection().open() && trouble != logged_trouble_ && now_ >= log_trouble_at_) {
    logged_trouble_ = trouble;
    log_trouble_at_ = now_ + kTroubleLog;
    log_.write(fmt::format("No connection to {}: {}", start_.server, trouble));
  }
}

// A server that is there makes the end durable itself in a moment, without this wait, and says bye.
void Session::keep_result() {
  if (!life_.ended() || result_synced_) {
    return;
  }
  if (!sync_result_at_) {
    sync_result_at_ = now_ + kByeWait;
  }
  if (!uplink_.connection().open() || now_ >= *sync_result_at_) {
    result_synced_ = true;
    if (auto synced = sync_result(folder_); !synced.ok()) {
      log_.write(synced.error().message);
    }
  }
}

json::object Session::hello() const {
  json::object hello = {
      {"type", "hello"},
      {"version", 1},
      {"address", start_.address.empty() ? uplink_.connection().local_address() : start_.address},
      {"port", life_.port()},
      {"pid", ::getpid()},
      {"phase", life_.phase_name()},
      {"log_offset", spool_.front()}};
  if (auto tasks = life_.tasks()) {
    hello["tasks"] = *std::move(tasks);
  }
  return hello;
}

void Session::on_messages() {
  while (auto message = uplink_.next_message(now_)) {
    on_message(*message);
  }
}

void Session::on_message(const json::object& message) {
  const std::string_view type = get_string(message, "type");
  if (type == "order") {
    life_.take_order(message, hello_at_, now_);
  } else if (type == "go") {
    life_.go(message, now_);
  } else if (type == "end_fence_wait") {
    life_.end_fence_wait(now_);
  } else if (type == "lease") {
    life_.renew_lease(MonoTime{get_int(message, "at_ms")}, now_);
  } else if (type == "stop") {
    const Millis fallback = life_.stop_grace().value_or(kDefaultGrace);
    life_.stop(Millis(get_int(message, "grace_ms", fallback.count())),
               std::string(get_string(message, "reason", "it was told to stop")), now_);
  } else if (type == "start_task" || type == "kill_task" || type == "forget_task") {
    life_.on_task_message(type, message);
  } else if (type == "leave") {
    life_.leave(std::string(get_string(message, "reason", "the server said so")), now_);
  } else if (type == "session") {
    life_.open_session(std::string(get_string(message, "id")),
                       std::string(get_string(message, "kind")));
  } else if (type == "bye") {
    if (life_.ended()) {
      done_ = true;
      job_is_over_ = get_bool(message, "job_is_over");
    }
  }
}

}  // namespace

int run_session(const Start& start, const fs::path& folder, const Clock& clock) {
  prepare_signals();
  auto endpoint = parse_endpoint(start.server);
  if (!endpoint.ok()) {
    RunnerLog(folder, clock).write(endpoint.error().message);
    return 2;
  }
  return Session(start, folder, clock, connection_options(start, std::move(endpoint).value()))
      .run();
}

}  // namespace quad::runner
