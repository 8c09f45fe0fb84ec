// RankLife, second part: what the loop calls, and what comes from the rank and its workers.

#include <fmt/format.h>
#include <sys/wait.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "runner/rank_life.h"
#include "runner/rank_options.h"

namespace quad::runner {
namespace {

constexpr Millis kEndingLook{100};

}  // namespace

void RankLife::beat(MonoTime now) {
  if (rank_ != nullptr && !rank_->ended() && phase_ != Phase::kEnding) {
    rank_->command(InitCommand::kUsage);  // its answer is told
    tell_of_refused_processes();
  } else {
    vitals_.tell_heartbeat(now);
  }
}

void RankLife::open_session(const std::string& id, const std::string& kind) {
  Status opened = error(ErrorCode::kUnavailable, "the rank has no processes at present");
  // One that only holds its node for others has none until somebody wants to reach in.
  if (rank_ == nullptr && holds() && phase_ == Phase::kRunning && !stop_) {
    opened = make_processes();
  }
  const bool lives = rank_ != nullptr && !rank_->ended() && !is_ending() && !stop_;
  if (lives && !id.empty()) {
    opened = rank_->open_session(
        to_text(remote_session_order(start_, *order_, go_ ? &*go_ : nullptr, places_, id, kind)));
  }
  if (opened.ok()) {
    sessions_.push_back(id);
  } else {
    tell_session_failed(id, opened.error().message);
  }
}

void RankLife::tell_session_failed(const std::string& id, std::string_view why) {
  uplink_.tell({{"type", "session_failed"}, {"id", id}, {"message", why}});
}

void RankLife::tick(MonoTime now) {
  keep_lease(now);
  if (stop_ && !stop_->killed && now >= stop_->kill_at && (rank_ != nullptr || holds())) {
    stop_->killed = true;
    kill_processes();
  }
  if (phase_ == Phase::kRunning && now >= progress_at_) {
    progress_at_ = now + Vitals::kProgressInterval;
    vitals_.tell_progress(clock_.now().wall);
  }
  if (!is_ending()) {
    fence_.tick(now);
    checkpoints_.tick(now);
  }
  if (phase_ == Phase::kResuming) {
    resume(resumption_->tick(now), now);
  }
  settle(now);
}

void RankLife::watch(PollSet& polled, MonoTime now) {
  const auto wake_at = [&polled](const std::optional<MonoTime>& at) {
    if (at) {
      polled.wake_at(*at);
    }
  };
  if (rank_ != nullptr) {
    if (!output_.holds_back(now)) {
      polled.add(rank_->output_fd(), POLLIN, [this](MonoTime at) {
        if (rank_ != nullptr) {
          output_.read(*rank_, at);
        }
      });
    }
    wake_at(output_.holds_back_until(now));
    polled.add(rank_->control_fd(), POLLIN, [this](MonoTime at) { on_rank_reports(at); });
  }
  if (resumption_) {
    polled.add(resumption_->fd(), POLLIN,
               [this](MonoTime at) { resume(resumption_->receive(at), at); });
    wake_at(resumption_->due());
  }
  polled.add(fetching_.fd(), POLLIN, [this](MonoTime at) { on_fetched(at); });
  polled.add(fence_.fd(), POLLIN, [this](MonoTime at) { on_fence(at); });
  polled.add(checkpoints_.fd(), POLLIN, [this](MonoTime at) { on_checkpoints(at); });
  // What tick() no longer looks at must not wake it either: a rank that has ended may wait for days
  // for its server.
  if (!is_ending()) {
    wake_at(fence_.due());
    wake_at(checkpoints_.due());
  }
  if (phase_ == Phase::kRunning) {
    polled.wake_at(progress_at_);
  }
  if (stop_ && !stop_->killed && (rank_ != nullptr || holds())) {
    polled.wake_at(stop_->kill_at);
  }
  if (phase_ == Phase::kEnding) {
    polled.wake_at(now + kEndingLook);
  }
  if (keeps_lease()) {
    polled.wake_at(lease_.ends_at());
  }
}

void RankLife::on_children(MonoTime now) {
  tasks_.check();
  if (rank_ != nullptr) {
    rank_->check_ended();
  }
  // Workers, and orphans that a subreaper inherits. The rank's first process was seen to above.
  if (rank_ == nullptr || rank_->ended()) {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  } else {
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
  settle(now);
}

void RankLife::on_rank_reports(MonoTime now) {
  if (rank_ == nullptr) {
    return;
  }
  for (const InitReport& report : rank_->receive()) {
    switch (report.kind) {
      case InitReport::Kind::kExited:
        script_ended(report.value, now);
        break;
      case InitReport::Kind::kNoShell: {
        // The image is the task's choice, so its want of a shell is to be mended there.
        end_before_user_code(
            report.value == 0
                ? "the image has no shell, neither bash nor sh, to run a task with; use an "
                  "image that has one"
                : errno_error("the image's shell cannot be started", report.value).message,
            true, now);
        break;
      }
      case InitReport::Kind::kPlainShell:
        uplink_.note("shell",
                     "the image has no bash, so setup and run are run by its sh, which knows "
                     "nothing of bash's own features such as [[ ]], arrays and source");
        break;
      case InitReport::Kind::kSession:
        if (sessions_.empty()) {
          break;
        }
        if (report.value != 0) {
          tell_session_failed(
              sessions_.front(),
              report.value == EAGAIN
                  ? "the rank has as many processes as it may, so none can be started for a session"
                  : errno_error("no process can be started for a session", report.value).message);
        }
        sessions_.pop_front();
        break;
      case InitReport::Kind::kUsage:
        vitals_.tell_usage(report, now);
        break;
      default:
        break;
    }
  }
}

void RankLife::on_fetched(MonoTime now) {
  for (const json::object& message : fetching_.receive()) {
    if (message.contains("note")) {
      uplink_.note("brought", get_string(message, "note"));
    } else if (message.contains("error")) {
      end_before_user_code(std::string(get_string(message, "error")), true, now);
    } else if (phase_ == Phase::kFetching) {
      setup(now);
    }
  }
}

void RankLife::on_fence(MonoTime now) {
  for (const json::object& message : fence_.receive(now)) {
    if (message.contains("fenced")) {
      leave(fmt::format("attempt {} has taken over", get_int(message, "fenced")), now);
    } else if (message.contains("lease")) {
      renew_lease(MonoTime{get_int(message, "lease")}, now);
    }
  }
}

void RankLife::on_checkpoints(MonoTime now) {
  for (const json::object& message : checkpoints_.receive(now)) {
    if (const json::object* checkpoint = get_object(message, "checkpoint")) {
      json::object told = *checkpoint;
      told["type"] = "checkpoint";
      uplink_.post(std::move(told));
    } else if (const json::array* gone = get_array(message, "gone")) {
      uplink_.post({{"type", "checkpoints_gone"}, {"paths", *gone}});
    } else if (message.contains("note")) {
      uplink_.note(get_string(message, "kind"), get_string(message, "note"));
    }
  }
}

}  // namespace quad::runner
