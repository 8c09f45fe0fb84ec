#include "runner/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "runner/environment.h"
#include "runner/mounts.h"
#include "runner/order.h"
#include "runner/process.h"
#include "runner/progress.h"
#include "runner/result_file.h"
#include "runner/resume.h"
#include "runner/script.h"
#include "runner/spool.h"
#include "runner/uplink.h"
#include "runner/worker.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr Millis kHeartbeat{1000};
constexpr Millis kProgress{500};
constexpr Millis kFenceDelay{1000};  // what ends sooner needs no watching
constexpr Millis kCheckpointDelay{2000};
constexpr Millis kWorkerRestart{5000};
constexpr Millis kTroubleLog{60'000};    // at most one line about the connection in this time
constexpr Millis kOutputAfterEnd{5000};  // how long output is waited for once every process is dead
constexpr Millis kPatience{200};  // how long a rank may be held up for a server that keeps up
constexpr Millis kPatienceEarned{
    20};  // with each piece of this size that the server takes: 50 MB/s keep up
constexpr std::uint64_t kPatienceBytes = 1U << 20U;
constexpr std::size_t kReadAtOnce = 2U << 20U;

volatile sig_atomic_t terminate_asked = 0;
void on_terminate(int /*signal*/) {
  terminate_asked = 1;
}
void on_child(int /*signal*/) {}  // wakes the loop

enum class Phase {
  kConnected,  // no order yet
  kResuming,   // the fence, and the checkpoint to resume from
  kFetching,   // workdir and mounts
  kSetup,
  kReady,
  kRunning,
  kEnding,  // it is known how it ended; processes die and output is read
  kEnded,   // the result is on disk
};

std::string_view name_of(Phase phase) {
  switch (phase) {
    case Phase::kConnected:
      return "connected";
    case Phase::kResuming:
    case Phase::kFetching:
    case Phase::kSetup:
      return "setting_up";
    case Phase::kReady:
      return "ready";
    case Phase::kRunning:
    case Phase::kEnding:
      return "running";
    case Phase::kEnded:
      return "ended";
  }
  return "connected";
}

// A port that is free on every address of this machine, outside of those that the kernel hands out
// by itself. The socket holds it until the rank's own processes need it.
std::pair<UniqueFd, int> hold_port() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  for (int attempt = 0; fd && attempt < 32; ++attempt) {
    std::uint16_t random = 0;
    (void)getrandom(&random, sizeof random, GRND_NONBLOCK);
    const int port = attempt == 31 ? 0 : 20'000 + random % 12'000;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<in_port_t>(port));
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      socklen_t size = sizeof address;
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
      return {std::move(fd), ntohs(address.sin_port)};
    }
  }
  return {UniqueFd(), 0};
}

std::vector<std::string> own_environment() {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    entries.emplace_back(*entry);
  }
  return entries;
}

class Session {
 public:
  Session(const Start& start, fs::path folder, const Clock& clock)
      : start_(start),
        folder_(std::move(folder)),
        clock_(clock),
        places_{folder_, start.home.empty() ? folder_ / "home" : fs::path(start.home),
                folder_ / "progress"},
        spool_(folder_, {.spool_bytes = start.spool_bytes}),
        progress_(places_.progress) {}

  int run();

 private:
  // The loop.
  void wait();
  void on_timers();
  void on_messages();
  void on_output();
  void on_rank_reports();
  void on_workers();
  void on_children();
  [[nodiscard]] int timeout() const;
  [[nodiscard]] bool output_may_wait();

  // The order of work.
  void on_order(const json::object& message);
  void raise_fence();
  void resume();
  void resumed(const json::object& message);
  void fetch();
  void setup();
  void ready();
  void go(const json::object& message);
  void script_ended(int wait_status);
  void stop(Millis grace, const std::string& reason);
  void leave(const std::string& reason);
  void end(RankResult result);
  void end_before_user_code(std::string detail, bool in_setup);
  void finish_when_dead();

  // Small things.
  void set_phase(Phase phase);
  void note(std::string_view kind, std::string_view message);
  void heartbeat(const InitReport* usage);
  void send_progress();
  void log(std::string_view text);
  [[nodiscard]] json::object hello() const;
  [[nodiscard]] bool has_lease() const;
  [[nodiscard]] MonoTime lease_until() const { return lease_asked_ + order_->checkpoint.lease; }
  void renew_lease(std::int64_t asked_ms);
  void keep_lease();
  bool start_rank();

  const Start& start_;
  const fs::path folder_;
  const Clock& clock_;
  const Places places_;
  Spool spool_;
  std::unique_ptr<Uplink> uplink_;
  Phase phase_ = Phase::kConnected;
  MonoTime now_{0};
  bool done_ = false;
  bool leaving_ = false;
  std::string nonce_;
  UniqueFd port_socket_;
  int port_ = 0;

  std::optional<Order> order_;
  std::optional<Go> go_;
  std::string resumed_from_;
  std::unique_ptr<RankProcess> rank_;
  RankResult result_;
  bool result_synced_ = false;
  bool output_open_ = false;
  MonoTime dead_since_{0};
  Millis patience_ = kPatience;       // what is left of it
  std::uint64_t patience_front_ = 0;  // acknowledged output up to which it has been earned
  MonoTime waits_since_{0};           // since when output waits; 0: it does not
  bool told_stuck_ = false;

  bool stopping_ = false;
  bool killed_ = false;
  std::string stop_reason_;
  MonoTime kill_at_{0};

  Worker resume_worker_;
  Worker fetch_worker_;
  Worker fence_worker_;
  Worker checkpoint_worker_;
  bool worker_answered_ = false;
  bool fence_ended_ = false;
  MonoTime fence_at_{0};
  MonoTime checkpoints_at_{0};
  bool waits_behind_fence_ = false;
  MonoTime fence_wait_until_{0};
  MonoTime hello_at_{0};     // of the present connection
  MonoTime lease_asked_{0};  // when it was asked for what was last answered

  ProgressTail progress_;
  MonoTime progress_at_{0};
  MonoTime heartbeat_at_{0};
  std::uint64_t last_cpu_millis_ = 0;
  MonoTime last_usage_at_{0};
  std::string told_spool_trouble_;
  std::string logged_trouble_;
  MonoTime log_trouble_at_{0};
};

int Session::run() {
  auto endpoint = parse_endpoint(start_.server);
  if (!endpoint.ok()) {
    log(endpoint.error().message);
    return 2;
  }
  nonce_ = random_hex(16);
  std::tie(port_socket_, port_) = hold_port();
  ConnectionOptions options;
  options.endpoint = std::move(endpoint).value();
  options.ca = start_.ca;
  options.token = start_.token;
  options.target =
      fmt::format("/v1/runner?job={}&epoch={}&rank={}&nonce={}", start_.key.job.value(),
                  start_.key.epoch.value(), start_.key.rank.value(), nonce_);
  uplink_ = std::make_unique<Uplink>(std::move(options), spool_, [this] {
    hello_at_ = now_;
    return hello();
  });
  now_ = clock_.now().mono;
  heartbeat_at_ = now_ + kHeartbeat;
  if (auto earlier = read_result(folder_)) {
    // The rank has ended in an earlier life of this folder: there is only its end to report.
    result_ = *earlier;
    phase_ = Phase::kEnded;
    json::object exited = to_json(result_);
    exited["type"] = "exited";
    uplink_->post_last(std::move(exited), now_);
  }
  while (!done_) {
    now_ = clock_.now().mono;
    on_timers();
    uplink_->pump(now_);
    if (!done_) {
      wait();
    }
  }
  return 0;
}

int Session::timeout() const {
  MonoTime next = now_ + Millis(60'000);
  const auto consider = [&](MonoTime at) { next = std::min(next, at); };
  if (const auto tick = uplink_->next_tick()) {
    consider(*tick);
  }
  if (uplink_->connection().state() != Connection::State::kOpen) {
    consider(now_ + kHeartbeat);  // the time-out of an attempt to connect
  } else {
    consider(heartbeat_at_);
  }
  if (phase_ == Phase::kRunning) {
    consider(progress_at_);
    if (checkpoints_at_.millis != 0) {
      consider(checkpoints_at_);
    }
  }
  // What on_timers() no longer looks at must not wake it either: a rank that has ended may wait for
  // days for its server.
  const bool ending = phase_ == Phase::kEnding || phase_ == Phase::kEnded;
  if (fence_at_.millis != 0 && !ending) {
    consider(fence_at_);
  }
  if (stopping_ && !killed_ && rank_ != nullptr) {
    consider(kill_at_);
  }
  if (phase_ == Phase::kEnding) {
    consider(now_ + Millis(100));
  }
  if (waits_since_.millis != 0 && now_ < waits_since_ + patience_) {
    consider(waits_since_ + patience_);
  }
  if (waits_behind_fence_) {
    consider(fence_wait_until_);
  }
  if (has_lease()) {
    consider(lease_until());
  }
  return static_cast<int>(std::clamp<std::int64_t>((next - now_).count(), 0, 60'000));
}

void Session::wait() {
  enum Slot { kUplink, kControl, kOutput, kResume, kFetch, kFence, kCheckpoints, kSlots };
  pollfd polled[kSlots];
  for (pollfd& slot : polled) {
    slot = {-1, POLLIN, 0};
  }
  polled[kUplink] = {uplink_->fd(), uplink_->events(), 0};
  if (rank_ != nullptr) {
    polled[kControl].fd = rank_->control_fd();
    if (output_open_ && !output_may_wait()) {
      polled[kOutput].fd = rank_->output_fd();
    }
  }
  polled[kResume].fd = resume_worker_.fd();
  polled[kFetch].fd = fetch_worker_.fd();
  polled[kFence].fd = fence_worker_.fd();
  polled[kCheckpoints].fd = checkpoint_worker_.fd();

  sigset_t unblocked;
  sigemptyset(&unblocked);
  const int wait_millis = timeout();
  const timespec time{wait_millis / 1000, (wait_millis % 1000) * 1'000'000L};
  const int ready = ::ppoll(polled, kSlots, &time, &unblocked);
  now_ = clock_.now().mono;
  if (terminate_asked != 0) {
    terminate_asked = 0;
    done_ = done_ || phase_ == Phase::kEnded;  // the result is on disk, for whoever asks next
    stop(order_.has_value() ? order_->stop_grace : Millis(0), "the runner was told to end");
  }
  if (ready < 0) {
    on_children();
    finish_when_dead();
    return;
  }
  if (polled[kUplink].revents != 0) {
    uplink_->on_ready(now_);
    on_messages();
  }
  if (polled[kOutput].revents != 0) {
    on_output();
  }
  if (polled[kControl].revents != 0) {
    on_rank_reports();
  }
  if ((polled[kResume].revents | polled[kFetch].revents | polled[kFence].revents |
       polled[kCheckpoints].revents) != 0) {
    on_workers();
  }
  on_children();
  finish_when_dead();
}

void Session::on_children() {
  if (rank_ != nullptr) {
    rank_->check_ended();
  }
  // Workers, and orphans that a subreaper inherits. The rank's first process was seen to above.
  if (rank_ == nullptr || rank_->ended()) {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    return;
  }
  siginfo_t info{};
  while (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0) {
    if (info.si_pid == rank_->init_pid()) {
      rank_->check_ended();
    } else {
      ::waitpid(info.si_pid, nullptr, WNOHANG);
    }
    info.si_pid = 0;
  }
}

void Session::on_timers() {
  uplink_->tick(now_);
  if (uplink_->connection().state() == Connection::State::kRefused && !leaving_) {
    leave(uplink_->connection().trouble());
  }
  if (const std::string& trouble = uplink_->connection().trouble();
      !uplink_->connection().open() && trouble != logged_trouble_ && now_ >= log_trouble_at_) {
    logged_trouble_ = trouble;
    log_trouble_at_ = now_ + kTroubleLog;
    log(fmt::format("No connection to {}: {}", start_.server, trouble));
  }
  if (now_ >= heartbeat_at_) {
    heartbeat_at_ = now_ + kHeartbeat;
    if (rank_ != nullptr && !rank_->ended() && phase_ != Phase::kEnding) {
      rank_->command(InitCommand::kUsage);
    } else {
      heartbeat(nullptr);
    }
    if (phase_ == Phase::kEnded && !uplink_->connection().open() &&
        ::access(folder_.c_str(), F_OK) != 0) {
      done_ = true;  // its folder was deleted, and with it the server's data: there is nobody left
                     // to tell
    }
  }
  if (stopping_ && !killed_ && now_ >= kill_at_ && rank_ != nullptr) {
    killed_ = true;
    rank_->kill();
  }
  if (phase_ == Phase::kRunning && now_ >= progress_at_) {
    progress_at_ = now_ + kProgress;
    send_progress();
  }
  const bool ending = phase_ == Phase::kEnding || phase_ == Phase::kEnded;
  if (fence_at_.millis != 0 && now_ >= fence_at_ && !ending) {
    fence_at_ = MonoTime{0};
    const bool raise = start_.key.rank.value() == 0 && start_.key.epoch.value() == 1;
    auto worker = Worker::start(
        [&, raise](const WorkerOutput& output) { watch_fence(start_, *order_, raise, output); });
    if (worker.ok()) {
      fence_worker_ = std::move(worker).value();
    } else {
      fence_at_ = now_ + kWorkerRestart;
    }
  }
  if (checkpoints_at_.millis != 0 && now_ >= checkpoints_at_ && phase_ == Phase::kRunning) {
    checkpoints_at_ = MonoTime{0};
    auto worker = Worker::start([&](const WorkerOutput& output) {
      watch_checkpoints(start_, *order_, resumed_from_, output);
    });
    if (worker.ok()) {
      checkpoint_worker_ = std::move(worker).value();
    } else {
      checkpoints_at_ = now_ + kWorkerRestart;
    }
  }
  if (waits_behind_fence_ && now_ >= fence_wait_until_) {
    waits_behind_fence_ = false;
    if (phase_ == Phase::kResuming) {
      resume();
    }
  }
  keep_lease();
  finish_when_dead();
  if (phase_ == Phase::kEnded && !result_synced_ && !uplink_->connection().open()) {
    // A server that is there makes the end durable itself in a moment, without this wait.
    result_synced_ = true;
    if (auto synced = sync_result(folder_); !synced.ok()) {
      log(synced.error().message);
    }
  }
}

bool Session::has_lease() const {
  // Also while it is given time to stop: its processes still live.
  return order_.has_value() && order_->checkpoint.lease > Millis(0) && !killed_ &&
         phase_ != Phase::kEnded && (phase_ != Phase::kEnding || stopping_);
}

// A lease runs from when it was asked for, not from when the answer came: that may have been long
// under way, or have waited for a process that stood still.
void Session::renew_lease(std::int64_t asked_ms) {
  if (asked_ms <= now_.millis) {
    lease_asked_ = std::max(lease_asked_, MonoTime{asked_ms});
  }
}

void Session::keep_lease() {
  if (has_lease() && now_ >= lease_until()) {
    stop(Millis(0), fmt::format("neither the server nor the fence could be reached for {}, and the "
                                "fence is strict",
                                format_duration(order_->checkpoint.lease)));
  }
}

json::object Session::hello() const {
  std::string address = start_.address;
  if (address.empty()) {
    address = uplink_->connection().local_address();
  }
  return {{"type", "hello"},
          {"version", 1},
          {"address", address},
          {"port", port_},
          {"pid", ::getpid()},
          {"phase", name_of(phase_)},
          {"log_offset", spool_.front()}};
}

void Session::on_messages() {
  keep_lease();  // what came in while this process stood still starts nothing any more
  while (auto message = uplink_->next_message(now_)) {
    const std::string_view type = get_string(*message, "type");
    if (type == "order") {
      if (!order_.has_value() && phase_ == Phase::kConnected) {
        on_order(*message);
      }
    } else if (type == "go") {
      if (phase_ == Phase::kReady) {
        go(*message);
      }
    } else if (type == "end_fence_wait") {
      if (order_.has_value()) {
        order_->checkpoint.fence_wait = Millis(0);
        fence_wait_until_ = now_;
      }
    } else if (type == "lease") {
      renew_lease(get_int(*message, "at_ms"));
    } else if (type == "stop") {
      const Millis fallback = order_.has_value() ? order_->stop_grace : Millis(30'000);
      stop(Millis(get_int(*message, "grace_ms", fallback.count())),
           std::string(get_string(*message, "reason", "it was told to stop")));
    } else if (type == "leave") {
      leave(std::string(get_string(*message, "reason", "the server said so")));
    } else if (type == "bye") {
      if (phase_ == Phase::kEnded) {
        done_ = true;
      }
    }
  }
}

void Session::on_order(const json::object& message) {
  auto order = read_order(message);
  if (!order.ok()) {
    end_before_user_code(order.error().message, true);
    return;
  }
  order_ = std::move(order).value();
  // The order answers the hello of this connection. It may have waited for a process that stood
  // still.
  renew_lease(hello_at_.millis);
  keep_lease();
  if (stopping_) {
    return;
  }
  if (!order_->checkpoint.job_dir.empty()) {
    fence_at_ = now_ + kFenceDelay;
  }
  raise_fence();
}

void Session::raise_fence() {
  phase_ = Phase::kResuming;
  const bool head = start_.key.rank.value() == 0;
  if (!head) {
    fetch();
    return;
  }
  if (order_->checkpoint.job_dir.empty()) {
    resumed({{"resumed", true}});
    return;
  }
  if (start_.key.epoch.value() == 1) {
    // There is nothing earlier to fence off or to find. The fence itself is raised when its watch
    // begins.
    const Status made = make_folders(attempt_folder(start_, *order_));
    resumed({{"resumed", true}, {"note", made.ok() ? std::string() : made.error().message}});
    return;
  }
  worker_answered_ = false;
  auto worker =
      Worker::start([&](const WorkerOutput& output) { raise_work(start_, *order_, output); });
  if (!worker.ok()) {
    end_before_user_code(worker.error().message, true);
    return;
  }
  resume_worker_ = std::move(worker).value();
}

void Session::resume() {
  worker_answered_ = false;
  auto worker =
      Worker::start([&](const WorkerOutput& output) { resume_work(start_, *order_, output); });
  if (!worker.ok()) {
    end_before_user_code(worker.error().message, true);
    return;
  }
  resume_worker_ = std::move(worker).value();
}

void Session::resumed(const json::object& message) {
  resumed_from_ = get_string(message, "path");
  uplink_->post({{"type", "resumed"},
                 {"path", resumed_from_},
                 {"step", get_int(message, "step", -1)},
                 {"note", get_string(message, "note")}});
  fetch();
}

bool Session::start_rank() {
  RankOptions options;
  options.name = to_string(start_.key);
  options.marks = {fmt::format("{}={}", kRankKeyVariable, options.name),
                   fmt::format("{}={}/", kRankFolderVariable, folder_.string())};
  options.memory_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(0, start_.memory_bytes));
  options.cpus = start_.cpus;
  options.init.uid = ::geteuid();
  options.init.gid = ::getegid();
  options.init.environment = process_environment(own_environment(), start_, *order_, places_);
  options.init.setup_script = (folder_ / "setup.sh").string();
  options.init.run_script = (folder_ / "run.sh").string();
  options.init.home = places_.home.string();
  if (!start_.namespaces) {
    options.isolation = Isolation::kSubreaper;
  }
  auto rank = RankProcess::start(options);
  if (!rank.ok()) {
    end_before_user_code(rank.error().message, true);
    return false;
  }
  rank_ = std::move(rank).value();
  output_open_ = true;
  if (rank_->memory().limited()) {
    // For whoever clears up after a runner that was killed. Without it an empty group stays behind,
    // no more.
    const UniqueFd fd(::open((folder_ / "cgroup").c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (fd) {
      (void)write_all(fd.get(), rank_->memory().folder().string());
    }
  }
  for (const std::string& sentence : rank_->notes()) {
    note("limit", sentence);
  }
  return true;
}

void Session::fetch() {
  set_phase(Phase::kFetching);
  if (auto made = make_folders(places_.home / "sky_workdir"); !made.ok()) {
    end_before_user_code(made.error().message, true);
    return;
  }
  if (order_->mounts.empty()) {
    setup();
    return;
  }
  worker_answered_ = false;
  auto worker = Worker::start([&](const WorkerOutput& output) {
    for (const Mount& mount : order_->mounts) {
      if (auto brought = bring(mount, start_, *order_, places_.home); !brought.ok()) {
        output.send({{"error", brought.error().message}});
        return;
      }
    }
    output.send({{"fetched", true}});
  });
  if (!worker.ok()) {
    end_before_user_code(worker.error().message, true);
    return;
  }
  fetch_worker_ = std::move(worker).value();
}

void Session::setup() {
  phase_ = Phase::kSetup;
  if (trim(order_->setup).empty()) {
    ready();
    return;
  }
  const Status written = write_script(
      folder_ / "setup.sh",
      make_script(ScriptKind::kSetup, setup_exports(start_, *order_, places_), order_->setup));
  if (!written.ok()) {
    end_before_user_code(written.error().message, true);
    return;
  }
  if (start_rank()) {
    rank_->command(InitCommand::kSetup);
  }
}

void Session::ready() {
  set_phase(Phase::kReady);
  uplink_->pump(now_);  // the server can answer while the namespaces are made
  if (rank_ == nullptr) {
    start_rank();
  }
}

void Session::go(const json::object& message) {
  go_ = read_go(message);
  port_socket_.reset();
  const Status written = write_script(
      folder_ / "run.sh",
      make_script(ScriptKind::kRun, run_exports(start_, *order_, *go_, places_), order_->run));
  if (!written.ok()) {
    end_before_user_code(written.error().message, false);
    return;
  }
  rank_->command(InitCommand::kRun);
  set_phase(Phase::kRunning);
  progress_at_ = now_ + kProgress;
  const CheckpointOrder& checkpoint = order_->checkpoint;
  if (start_.key.rank.value() == 0 && !(checkpoint.job_dir.empty() && checkpoint.path.empty())) {
    checkpoints_at_ = now_ + kCheckpointDelay;
  }
}

void Session::on_rank_reports() {
  for (const InitReport& report : rank_->receive()) {
    switch (report.kind) {
      case InitReport::Kind::kExited:
        script_ended(report.value);
        break;
      case InitReport::Kind::kNoShell: {
        const Error failure = errno_error("bash cannot be started in this image", report.value);
        end_before_user_code(failure.message, phase_ == Phase::kSetup);
        break;
      }
      case InitReport::Kind::kUsage:
        heartbeat(&report);
        break;
      default:
        break;
    }
  }
}

void Session::script_ended(int wait_status) {
  if (phase_ != Phase::kSetup && phase_ != Phase::kRunning) {
    return;
  }
  const bool in_setup = phase_ == Phase::kSetup;
  if (in_setup && wait_status == 0 && !stopping_) {
    ready();
    return;
  }
  RankResult result;
  result.in_setup = in_setup;
  result.by_quad = stopping_;
  if (WIFSIGNALED(wait_status)) {
    result.how = "signaled";
    result.code = WTERMSIG(wait_status);
    result.detail = fmt::format("killed by signal {} ({})", result.code, ::strsignal(result.code));
  } else {
    result.code = WEXITSTATUS(wait_status);
  }
  if (stopping_) {
    result.detail = stop_reason_;
  }
  const bool looks_killed = (WIFSIGNALED(wait_status) && result.code == SIGKILL) ||
                            (WIFEXITED(wait_status) && result.code == 128 + SIGKILL);
  if (wait_status != 0 && (looks_killed || rank_->memory().limited())) {
    const MemoryFacts memory = rank_->memory().read();
    if (memory.oom_kills > rank_->memory_at_start().oom_kills) {
      result.out_of_memory = true;
      result.detail = out_of_memory_text(memory.peak_bytes, rank_->memory().limit());
    }
  }
  end(std::move(result));
}

// It is known how the rank ended; now everything of it dies, and its output is read to the end.
void Session::end(RankResult result) {
  if (phase_ == Phase::kEnding || phase_ == Phase::kEnded) {
    return;
  }
  result.at_ms = clock_.now().wall.millis;
  result_ = std::move(result);
  send_progress();
  phase_ = Phase::kEnding;
  resume_worker_.kill();
  fetch_worker_.kill();
  checkpoint_worker_.kill();
  if (rank_ != nullptr && !stopping_) {
    // In a stop the others have what is left of the grace.
    rank_->kill();
  }
  finish_when_dead();
}

void Session::end_before_user_code(std::string detail, bool in_setup) {
  RankResult result;
  result.how = "never_ran";
  result.in_setup = in_setup;
  result.by_quad = stopping_;
  result.code = 1;
  result.detail = std::move(detail);
  if (rank_ != nullptr) {
    rank_->kill();
  }
  end(std::move(result));
}

void Session::finish_when_dead() {
  const bool unexpected =
      rank_ != nullptr && rank_->ended() && phase_ != Phase::kEnding && phase_ != Phase::kEnded;
  if (unexpected) {
    on_rank_reports();
    if (phase_ != Phase::kEnding && phase_ != Phase::kEnded) {
      RankResult result;
      result.how = phase_ == Phase::kRunning ? "signaled" : "never_ran";
      result.code = SIGKILL;
      result.by_quad = stopping_;
      result.in_setup = phase_ == Phase::kSetup;
      result.detail =
          stopping_ ? stop_reason_ : "the first process of the rank was killed from outside";
      end(std::move(result));
      return;  // end() comes back here
    }
  }
  if (phase_ != Phase::kEnding) {
    return;
  }
  if (rank_ != nullptr) {
    if (!rank_->ended()) {
      return;
    }
    if (dead_since_.millis == 0) {
      dead_since_ = now_;
    }
    on_output();
    if (output_open_ && now_ < dead_since_ + kOutputAfterEnd) {
      return;
    }
    rank_->close_output();
    output_open_ = false;
    rank_.reset();  // and with it its memory group
  }
  ::unlink((folder_ / "setup.sh").c_str());
  ::unlink((folder_ / "run.sh").c_str());
  result_.log_end = spool_.end();
  // A runner that was told to leave before it had an order has nothing to say about how the rank
  // ended.
  if (order_.has_value() || !leaving_) {
    if (auto written = write_result(folder_, result_); !written.ok()) {
      log(written.error().message);  // the server is told all the same
    }
  }
  phase_ = Phase::kEnded;
  fence_worker_.kill();
  if (leaving_) {
    done_ = true;
    return;
  }
  json::object exited = to_json(result_);
  exited["type"] = "exited";
  uplink_->post_last(std::move(exited), now_);
}

void Session::stop(Millis grace, const std::string& reason) {
  if (phase_ == Phase::kEnding || phase_ == Phase::kEnded) {
    kill_at_ = std::min(kill_at_, now_ + grace);
    return;
  }
  const MonoTime at = now_ + std::max(grace, Millis(0));
  if (stopping_) {
    kill_at_ = std::min(kill_at_, at);
    return;
  }
  stopping_ = true;
  stop_reason_ = reason;
  kill_at_ = at;
  if (phase_ != Phase::kSetup && phase_ != Phase::kRunning) {
    killed_ = true;
    end_before_user_code(reason, false);
    return;
  }
  if (grace.count() <= 0) {
    killed_ = true;
    rank_->kill();
    return;
  }
  rank_->command(InitCommand::kTerminate);
}

void Session::leave(const std::string& reason) {
  log(fmt::format("Leaving: {}", reason));
  leaving_ = true;
  if (phase_ == Phase::kEnded) {
    done_ = true;
    return;
  }
  stop(Millis(0), reason);
  if (rank_ != nullptr) {
    rank_->kill();
  }
}

void Session::on_workers() {
  if (resume_worker_.running()) {
    for (const json::object& message : resume_worker_.receive()) {
      worker_answered_ = true;
      if (message.contains("fenced")) {
        leave(fmt::format("attempt {} has taken over", get_int(message, "fenced")));
      } else if (message.contains("error")) {
        end_before_user_code(std::string(get_string(message, "error")), true);
      } else if (message.contains("raised")) {
        waits_behind_fence_ = true;
        fence_wait_until_ = now_ + order_->checkpoint.fence_wait;
      } else if (phase_ == Phase::kResuming) {
        resumed(message);
      }
    }
    if (!resume_worker_.running() && !worker_answered_ && phase_ == Phase::kResuming) {
      end_before_user_code("The search for a checkpoint ended without an answer", true);
    }
  }
  if (fetch_worker_.running() &&
      phase_ >= Phase::kFetching) {  // to its end, or its closed pipe keeps waking us
    for (const json::object& message : fetch_worker_.receive()) {
      worker_answered_ = true;
      if (message.contains("error")) {
        end_before_user_code(std::string(get_string(message, "error")), true);
      } else if (phase_ == Phase::kFetching) {
        setup();
      }
    }
    if (!fetch_worker_.running() && !worker_answered_ && phase_ == Phase::kFetching) {
      end_before_user_code("The fetching of the mounts ended without an answer", true);
    }
  }
  if (fence_worker_.running()) {
    for (const json::object& message : fence_worker_.receive()) {
      if (message.contains("fenced")) {
        leave(fmt::format("attempt {} has taken over", get_int(message, "fenced")));
      } else if (message.contains("lease")) {
        renew_lease(get_int(message, "lease"));
      }
    }
    if (!fence_worker_.running() && !leaving_) {
      fence_at_ = now_ + kWorkerRestart;
    }
  }
  if (checkpoint_worker_.running()) {
    for (const json::object& message : checkpoint_worker_.receive()) {
      if (const json::object* checkpoint = get_object(message, "checkpoint")) {
        json::object told = *checkpoint;
        told["type"] = "checkpoint";
        uplink_->post(std::move(told));
      } else if (message.contains("note")) {
        note(get_string(message, "kind"), get_string(message, "note"));
      }
    }
    if (!checkpoint_worker_.running() && phase_ == Phase::kRunning) {
      checkpoints_at_ = now_ + kWorkerRestart;
    }
  }
}

// A rank that prints faster than its output can be stored would otherwise send every byte over the
// disk, ever further ahead of who follows it; and it may not be held up by a server that is slow or
// hangs. So while memory is full output waits, with a patience that the server earns by what it
// takes, and never while anything is spooled.
bool Session::output_may_wait() {
  const bool may = spool_.memory_full() && !spool_.spilled() && uplink_->connection().open() &&
                   uplink_->backlog() > 0 && phase_ != Phase::kEnding;
  if (!may && waits_since_.millis != 0) {
    patience_ -= now_ - waits_since_;
    waits_since_ = MonoTime{0};
  }
  if (const std::uint64_t pieces = (spool_.front() - patience_front_) / kPatienceBytes;
      pieces > 0) {
    patience_front_ += pieces * kPatienceBytes;
    patience_ =
        std::min(kPatience, patience_ + kPatienceEarned * static_cast<std::int64_t>(pieces));
  }
  if (may && waits_since_.millis == 0) {
    waits_since_ = now_;
  }
  return may && now_ < waits_since_ + patience_;
}

void Session::on_output() {
  if (!output_open_) {
    return;
  }
  for (std::size_t total = 0; total < kReadAtOnce || rank_->ended();) {
    if (spool_.room_may_drop()) {
      uplink_->before_append();
    }
    const Spool::Room room = spool_.room();
    const ssize_t got = ::read(rank_->output_fd(), room.data, room.size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && errno == EAGAIN) {
      break;
    }
    if (got <= 0) {
      rank_->close_output();
      output_open_ = false;
      break;
    }
    spool_.commit(static_cast<std::size_t>(got));
    total += static_cast<std::size_t>(got);
    if (static_cast<std::size_t>(got) < room.size) {
      break;  // the pipe is empty, or nearly so
    }
    uplink_->pump(now_);
    if (output_may_wait()) {
      break;
    }
  }
  if (!spool_.trouble().empty() && spool_.trouble() != told_spool_trouble_) {
    told_spool_trouble_ = spool_.trouble();
    note("spool", told_spool_trouble_);
  }
}

void Session::set_phase(Phase phase) {
  phase_ = phase;
  uplink_->post({{"type", "phase"}, {"phase", name_of(phase)}});
}

void Session::note(std::string_view kind, std::string_view message) {
  uplink_->post({{"type", "note"}, {"kind", kind}, {"message", message}});
}

void Session::heartbeat(const InitReport* usage) {
  std::uint64_t rss = 0;
  double cpu = 0;
  if (usage != nullptr) {
    rss = usage->rss_bytes;
    const double passed = static_cast<double>((now_ - last_usage_at_).count());
    if (last_usage_at_.millis != 0 && passed > 0 && usage->cpu_millis >= last_cpu_millis_) {
      cpu = 100.0 * static_cast<double>(usage->cpu_millis - last_cpu_millis_) / passed;
    }
    last_cpu_millis_ = usage->cpu_millis;
    last_usage_at_ = now_;
  }
  uplink_->tell(
      {{"type", "heartbeat"}, {"rss_bytes", rss}, {"cpu_percent", cpu}, {"at_ms", now_.millis}});
}

void Session::send_progress() {
  if (const auto newest = progress_.poll()) {
    json::object metrics;
    for (const Metric& metric : newest->metrics) {
      metrics[metric.name] = metric.value;
    }
    uplink_->tell({{"type", "progress"},
                   {"step", newest->step},
                   {"total", newest->total},
                   {"metrics", std::move(metrics)},
                   {"at_ms", clock_.now().wall.millis}});
  }
}

void Session::log(std::string_view text) {
  const UniqueFd fd(::open((folder_ / "runner.log").c_str(),
                           O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (fd) {
    (void)write_all(fd.get(), fmt::format("{} {}\n", format_rfc3339(clock_.now().wall), text));
  }
}

void prepare_signals() {
  struct sigaction action {};
  action.sa_handler = on_terminate;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
  action.sa_handler = on_child;
  action.sa_flags = SA_NOCLDSTOP;
  ::sigaction(SIGCHLD, &action, nullptr);
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &blocked, nullptr);
}

}  // namespace

int run_session(const Start& start, const fs::path& folder, const Clock& clock) {
  prepare_signals();
  return Session(start, folder, clock).run();
}

Result<int> hold_folder(const fs::path& folder) {
  UniqueFd fd(
      ::open((folder / "runner.pid").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd) {
    return errno_error("Cannot open runner.pid", errno);
  }
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) {
      return error(ErrorCode::kExists, "Another runner is at work in this folder");
    }
    return errno_error("Cannot lock runner.pid", errno);
  }
  // The start time, field 22 of stat, tells this process from a later one of the same number.
  std::string_view start_time = "0";
  const auto stat = read_file("/proc/self/stat", 65536);
  if (stat.ok()) {
    const std::string_view text(stat.value());
    const auto fields = split(text.substr(text.rfind(')') + 2), ' ');
    if (fields.size() > 19) {
      start_time = fields[19];
    }
  }
  const std::string content = fmt::format("{} {}\n", ::getpid(), start_time);
  if (::ftruncate(fd.get(), 0) != 0) {
    return errno_error("Cannot write runner.pid", errno);
  }
  QUAD_TRY(write_all(fd.get(), content));
  return fd.release();
}

}  // namespace quad::runner
