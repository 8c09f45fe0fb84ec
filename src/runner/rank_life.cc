#include "runner/rank_life.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "runner/blob_door.h"
#include "runner/brought.h"
#include "runner/how_it_ended.h"
#include "runner/launch_agent.h"
#include "runner/mounts.h"
#include "runner/own_file.h"
#include "runner/protocol.h"
#include "runner/rank_options.h"
#include "runner/resume.h"
#include "runner/script.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr Millis kFenceDelay{1000};  // what ends sooner needs no watching
constexpr Millis kCheckpointDelay{2000};
constexpr Millis kLastLook{2000};        // for checkpoints, at the longest
constexpr Millis kOutputAfterEnd{5000};  // how long output is waited for once every process is dead

// For whoever clears up after a runner that was killed. Without it empty groups stay behind, no
// more.
void leave_word_of_groups(const fs::path& folder, const ControlGroups& groups) {
  std::string text;
  for (const fs::path& group : groups.folders()) {
    text += group.string() + "\n";
  }
  if (const auto file = create_own_file(folder / "cgroup", 0600); file.ok() && !text.empty()) {
    (void)write_all(file.value().get(), text);
  }
}

}  // namespace

RankLife::RankLife(const Start& start, const fs::path& folder, const Clock& clock, Spool& spool,
                   Uplink& uplink, const RunnerLog& log)
    : start_(start),
      clock_(clock),
      places_{folder, start.home.empty() ? folder / "home" : fs::path(start.home),
              folder / "progress", own_program()},
      spool_(spool),
      uplink_(uplink),
      log_(log),
      port_(hold_port()),
      output_(spool, uplink),
      vitals_(places_.progress, uplink),
      tasks_(start, folder, places_.home, groups_, uplink, log),
      fence_([this](const WorkerOutput& output) { watch_fence(start_, *order_, output); }),
      checkpoints_([this](const WorkerOutput& output) {
        watch_checkpoints(start_, *order_, resumed_from_, output);
      }) {}

std::string_view RankLife::phase_name() const {
  switch (phase_) {
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

std::optional<Millis> RankLife::stop_grace() const {
  return order_ ? std::optional(order_->stop_grace) : std::nullopt;
}

void RankLife::set_phase(Phase phase) {
  phase_ = phase;
  uplink_.post({{"type", "phase"}, {"phase", phase_name()}});
}

// ---- The order of work ----

void RankLife::take_order(const json::object& message, MonoTime asked, MonoTime now) {
  if (order_ || phase_ != Phase::kConnected) {
    return;
  }
  auto order = read_order(message);
  if (!order.ok()) {
    end_before_user_code(order.error().message, true, now);
    return;
  }
  order_ = std::move(order).value();
  lease_.set_length(order_->checkpoint.lease);
  // The order answers the hello of this connection. It may have waited for a process that stood
  // still.
  lease_.renew(asked, now);
  keep_lease(now);
  if (stop_) {
    return;
  }
  if (!order_->checkpoint.job_dir.empty()) {
    fence_.begin_at(now + kFenceDelay);
  }
  phase_ = Phase::kResuming;
  resumption_.emplace(start_, *order_);
  resume(resumption_->begin(), now);
}

void RankLife::end_fence_wait(MonoTime now) {
  if (resumption_) {
    resumption_->end_wait(now);
  }
}

void RankLife::resume(const Resumption::Outcome& outcome, MonoTime now) {
  if (const auto* taken_over = std::get_if<TakenOver>(&outcome)) {
    leave(fmt::format("attempt {} has taken over", taken_over->by), now);
  } else if (const auto* failed = std::get_if<CannotResume>(&outcome)) {
    end_before_user_code(failed->why, true, now);
  } else if (const auto* resumed = std::get_if<Resumed>(&outcome);
             resumed != nullptr && phase_ == Phase::kResuming) {
    resumed_from_ = resumed->path;
    if (start_.key.rank.value() == 0) {
      uplink_.post({{"type", "resumed"},
                    {"path", resumed->path},
                    {"step", resumed->step},
                    {"note", resumed->note}});
    }
    fetch(now);
  }
}

void RankLife::fetch(MonoTime now) {
  set_phase(Phase::kFetching);
  const fs::path workdir = places_.home / "sky_workdir";
  const bool is_brought =
      std::any_of(order_->mounts.begin(), order_->mounts.end(), [&](const Mount& mount) {
        const auto place = place_of(mount.dst, places_.home);
        return place.ok() && *place == workdir;
      });
  // One that is brought takes the place of whatever a task has left there.
  if (!is_brought && !make_folders(workdir).ok()) {
    end_before_user_code("~/sky_workdir cannot be made, or is no folder; remove what is there",
                         true, now);
    return;
  }
  if (order_->mounts.empty()) {
    setup(now);
    return;
  }
  if (const Status begun = begin_to_fetch(); !begun.ok()) {
    end_before_user_code(begun.error().message, true, now);
  }
}

// By a process of the rank's own, in its namespaces and limits: git may run what the job says, and
// none of that may outlive it.
Status RankLife::begin_to_fetch() {
  const fs::path folder = start_.brought.empty() ? places_.brought() : fs::path(start_.brought);
  QUAD_TRY(make_folders(folder, 0700));
  const UniqueFd lists(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lists) {
    return errno_error("What was brought before cannot be looked up", errno);
  }
  QUAD_ASSIGN(brings_, hold_brought(lists.get(), to_string(start_.key)));
  QUAD_TRY(make_processes());
  QUAD_ASSIGN(auto sockets, Worker::make_sockets());
  QUAD_ASSIGN(Worker fetcher, Worker::start([this](const WorkerOutput& output) {
                serve_blobs(start_, *order_, output.fd());
              }));
  const UniqueFd blobs = fetcher.give_away();
  QUAD_TRY(rank_->bring({sockets.second.get(), lists.get(), blobs.get()}));
  fetching_.follow(Worker::of(std::move(sockets.first)));
  return {};
}

void RankLife::setup(MonoTime now) {
  phase_ = Phase::kSetup;
  if (trim(order_->setup).empty()) {
    ready(now);
    return;
  }
  const Status written = write_script(
      setup_script_of(places_),
      make_script(ScriptKind::kSetup, setup_exports(start_, *order_, places_), order_->setup));
  if (!written.ok()) {
    end_before_user_code(written.error().message, true, now);
    return;
  }
  if (rank_ != nullptr || start_processes(now)) {
    rank_->command(InitCommand::kSetup);
  }
}

void RankLife::ready(MonoTime now) {
  set_phase(Phase::kReady);
  uplink_.pump(now);  // the server can answer while the namespaces are made
  if (rank_ == nullptr && !holds()) {
    start_processes(now);
  }
}

bool RankLife::start_processes(MonoTime now) {
  const Status made = make_processes();
  if (!made.ok()) {
    end_before_user_code(made.error().message, true, now);
  }
  return made.ok();
}

Status RankLife::make_processes() {
  limit();
  memory_at_start_ = groups_.memory();
  RankOptions options = rank_options(start_, *order_, places_, groups_);
  options.init.bring = [this](const BringFiles& files) {
    bring_all(*order_, {to_string(start_.key), places_.home, files.lists, files.blobs},
              WorkerOutput(files.output));
  };
  QUAD_ASSIGN(rank_, RankProcess::start(options));
  for (const std::string& sentence : rank_->notes()) {
    note_limit(sentence);
  }
  return {};
}

void RankLife::limit() {
  if (std::exchange(limited_, true)) {
    return;
  }
  Limits limits;
  limits.memory_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(0, start_.memory_bytes));
  limits.processes = start_.processes;
  limits.cpus = start_.cpus;
  // Another server's job may have the same number and the same parent group.
  groups_.create(fmt::format("quad-{}-{}", to_string(start_.key), random_hex(4)), limits);
  leave_word_of_groups(places_.folder, groups_);
  if (limits.memory_bytes > 0 && !groups_.limit_memory()) {
    note_limit("A memory limit cannot be set here, so none is enforced by Quad.");
  }
  if (limits.processes > 0 && !groups_.limit_processes() && ::geteuid() == 0) {
    note_limit("The number of processes cannot be limited here, so Quad enforces no bound on it.");
  }
}

// What holds for one rank holds for all of them, as a rule, and at each attempt: once is enough.
void RankLife::note_limit(const std::string& sentence) {
  if (start_.key.epoch == Epoch(1) && start_.key.rank == Rank(0)) {
    uplink_.note("limit", sentence);
  }
}

void RankLife::tell_of_refused_processes() {
  if (told_of_refused_processes_ || groups_.refused_processes() == 0) {
    return;
  }
  told_of_refused_processes_ = true;
  uplink_.note("limit", fmt::format("Rank {} has had as many processes and threads as it may, {}: "
                                    "the start of another was refused. engines.local.processes in "
                                    "the server's configuration sets how many.",
                                    start_.key.rank.value(), start_.processes));
}

void RankLife::go(const json::object& message, MonoTime now) {
  if (phase_ != Phase::kReady) {
    return;
  }
  port_.socket.reset();
  if (holds()) {
    set_phase(Phase::kRunning);
    return;
  }
  go_ = read_go(message);
  if (order_->num_ranks > 1) {
    leave_hostfile(start_, *order_, *go_, places_);
  }
  const Status written = write_script(
      run_script_of(places_),
      make_script(ScriptKind::kRun, run_exports(start_, *order_, *go_, places_), order_->run));
  if (!written.ok()) {
    end_before_user_code(written.error().message, false, now);
    return;
  }
  rank_->command(InitCommand::kRun);
  set_phase(Phase::kRunning);
  progress_at_ = now + Vitals::kProgressInterval;
  const CheckpointOrder& checkpoint = order_->checkpoint;
  if (start_.key.rank.value() == 0 && !(checkpoint.job_dir.empty() && checkpoint.path.empty())) {
    has_checkpoints_ = true;
    checkpoints_.begin_at(now + kCheckpointDelay);
  }
}

// ---- The end ----

void RankLife::script_ended(int wait_status, MonoTime now) {
  if (phase_ != Phase::kSetup && phase_ != Phase::kRunning) {
    return;
  }
  const bool in_setup = phase_ == Phase::kSetup;
  if (in_setup && wait_status == 0 && !stop_) {
    ready(now);
    return;
  }
  RankResult result = result_of_script(wait_status);
  result.in_setup = in_setup;
  if (stop_) {
    result.by_quad = true;
    result.detail = stop_->reason;
  }
  tell_of_memory(result, groups_, memory_at_start_);
  tell_of_long_variables(result, *order_);
  tell_of_refused_processes();
  end(std::move(result), now);
}

void RankLife::end_before_user_code(std::string detail, bool in_setup, MonoTime now) {
  RankResult result;
  result.how = "never_ran";
  result.in_setup = in_setup;
  result.by_quad = stop_.has_value();
  result.code = 1;
  result.detail = std::move(detail);
  if (rank_ != nullptr) {
    rank_->kill();
  }
  end(std::move(result), now);
}

void RankLife::end_if_killed_from_outside(MonoTime now) {
  if (rank_ == nullptr || !rank_->ended() || is_ending()) {
    return;
  }
  on_rank_reports(now);  // it may have said before how it ended
  if (is_ending()) {
    return;
  }
  RankResult result;
  result.how = phase_ == Phase::kRunning ? "signaled" : "never_ran";
  result.code = SIGKILL;
  result.by_quad = stop_.has_value();
  result.in_setup = phase_ == Phase::kFetching || phase_ == Phase::kSetup;
  result.detail = stop_ ? stop_->reason : "the first process of the rank was killed from outside";
  end(std::move(result), now);
}

void RankLife::settle(MonoTime now) {
  end_if_killed_from_outside(now);
  finish_when_dead(now);
}

// It is known how the rank ended; now everything of it dies, and its output is read to the end.
void RankLife::end(RankResult result, MonoTime now) {
  if (is_ending()) {
    return;
  }
  result_ = std::move(result);
  result_.at_ms = clock_.now().wall.millis;
  vitals_.tell_progress(clock_.now().wall);
  phase_ = Phase::kEnding;
  if (resumption_) {
    resumption_->kill();
  }
  fetching_.kill();
  output_.drain();
  if (rank_ != nullptr && !stop_) {
    // In a stop the others have what is left of the grace.
    rank_->kill();
  }
  finish_when_dead(now);
}

void RankLife::finish_when_dead(MonoTime now) {
  if (phase_ != Phase::kEnding || !tasks_.all_ended()) {
    return;
  }
  if (rank_ != nullptr) {
    if (!rank_->ended()) {
      if (holds()) {
        rank_->kill();  // what it has for whoever reached in lives no longer than the last task
      }
      return;
    }
    if (!dead_since_) {
      dead_since_ = now;
    }
    output_.read(*rank_, now);
    if (rank_->output_fd() >= 0 && now < *dead_since_ + kOutputAfterEnd) {
      return;
    }
    rank_.reset();  // and with it its output
  }
  groups_.remove();
  if (looks_once_more(now)) {
    return;
  }
  ::unlink(setup_script_of(places_).c_str());
  ::unlink(run_script_of(places_).c_str());
  result_.log_end = spool_.end();
  phase_ = Phase::kEnded;
  fence_.end();
  // A runner that was told to leave before it had an order has nothing to say about how the rank
  // ended.
  if (order_ || !leaving_) {
    if (auto written = write_result(places_.folder, result_); !written.ok()) {
      log_.write(written.error().message);  // the server is told all the same
    }
    leave_termination_message();
  }
  if (!leaving_) {
    tell_end(now);
  }
}

// What the script wrote since the last look of the watch is to be known before the end is; but
// storage that does not answer holds that up only for so long.
bool RankLife::looks_once_more(MonoTime now) {
  if (!has_checkpoints_ || leaving_) {
    checkpoints_.end();
    return false;
  }
  if (!last_look_until_) {
    last_look_until_ = now + kLastLook;
    // Most short jobs write none, and a worker costs more than all else at their end. That this
    // thread asks itself is no worse than that it made the folder (Resumption), a moment ago.
    const bool is_short = checkpoints_.due() && start_.key.epoch.value() == 1;
    if (is_short && has_written_nothing(start_, *order_)) {
      checkpoints_.end();
      return false;
    }
    checkpoints_.finish(now);
  }
  if (checkpoints_.fd() >= 0 && now < *last_look_until_) {
    return true;
  }
  checkpoints_.end();
  return false;
}

void RankLife::clear_up_after_job() const {
  if (order_ && !order_->checkpoint.job_dir.empty()) {
    remove_what_is_empty(start_, *order_);
  }
}

void RankLife::tell_earlier_end(RankResult result, MonoTime now) {
  result_ = std::move(result);
  phase_ = Phase::kEnded;
  leave_termination_message();
  tell_end(now);
}

void RankLife::leave_termination_message() const {
  if (start_.termination_message.empty()) {
    return;
  }
  if (auto left = write_termination_message(start_.termination_message, result_); !left.ok()) {
    log_.write(left.error().message);
  }
}

void RankLife::tell_end(MonoTime now) {
  json::object exited = to_json(result_);
  exited["type"] = "exited";
  uplink_.post_last(std::move(exited), now);
}

void RankLife::stop(Millis grace, const std::string& reason, MonoTime now) {
  const MonoTime kill_at = now + std::max(grace, Millis(0));
  if (stop_) {
    stop_->kill_at = std::min(stop_->kill_at, kill_at);
    return;
  }
  if (is_ending()) {
    return;
  }
  stop_ = Stop{reason, kill_at};
  if (phase_ != Phase::kSetup && phase_ != Phase::kRunning) {
    stop_->killed = true;
    end_before_user_code(reason, false, now);
  } else if (holds()) {
    stop_->killed = grace <= Millis(0);
    if (stop_->killed) {
      tasks_.kill_all(reason);
    } else {
      tasks_.terminate_all();
      if (rank_ != nullptr) {
        rank_->command(InitCommand::kTerminate);
      }
    }
    RankResult result;
    result.how = "signaled";
    result.code = SIGTERM;
    result.by_quad = true;
    result.detail = reason;
    end(std::move(result), now);
  } else if (grace <= Millis(0)) {
    stop_->killed = true;
    rank_->kill();
  } else {
    rank_->command(InitCommand::kTerminate);
  }
}

void RankLife::leave(const std::string& reason, MonoTime now) {
  log_.write(fmt::format("Leaving: {}", reason));
  leaving_ = true;
  fence_.end();
  stop(Millis(0), reason, now);
  kill_processes();
}

void RankLife::kill_processes() {
  tasks_.kill_all(stop_ ? stop_->reason : "");
  if (rank_ != nullptr) {
    rank_->kill();
  }
}

// ---- Tasks of a cluster ----

void RankLife::on_task_message(std::string_view type, const json::object& message) {
  const RankKey key = rank_key_of(message);
  if (type == "kill_task") {
    tasks_.kill(key);
  } else if (type == "forget_task") {
    tasks_.forget(key);
  } else if (phase_ == Phase::kRunning && holds() && !stop_) {
    limit();
    tasks_.start(message);
  }
}

std::optional<json::array> RankLife::tasks() const {
  return holds() ? std::optional(tasks_.list()) : std::nullopt;
}

// ---- The lease ----

bool RankLife::keeps_lease() const {
  // Also while it is given time to stop: its processes still live.
  return lease_.exists() && !(stop_ && stop_->killed) && phase_ != Phase::kEnded &&
         (phase_ != Phase::kEnding || stop_);
}

void RankLife::keep_lease(MonoTime now) {
  if (!keeps_lease() || !lease_.has_run_out(now)) {
    return;
  }
  // The fence's watch goes on while this process stands still, and its readings count from when
  // they were begun: the newest may not have been taken in.
  on_fence(now);
  if (keeps_lease() && lease_.has_run_out(now)) {
    stop(Millis(0),
         fmt::format("neither the server nor the fence could be reached for {}, and the "
                     "fence is strict",
                     format_duration(lease_.length())),
         now);
  }
}

}  // namespace quad::runner
