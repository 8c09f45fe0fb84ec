// runner/rank_life.h
//
// The life of one rank on this machine, from its order to its result: the order of work of
// docs/runner-protocol.md. It owns the rank's phase, its processes, and every worker on its behalf;
// whatever happens is told over the uplink, to a server that may be away. Owned by the runner's one
// thread. Nothing here waits: watch() says what for, and the loop (session.h) calls back.
//
// Only positive evidence stops a rank: stop(), leave(), a newer fence, its own end, and, if the
// task asked for a strict fence, a lease that ran out.
//
// Always holds: the phase only goes forward; once it is kEnding the rank's result is settled; at
// kEnded no process of the rank is alive, its result is on disk (unless the runner leaves without
// ever having had an order), and its end is told as the uplink's last message unless the runner
// leaves. Nothing that came while this process stood still beyond its lease has any effect.

#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/time.h"
#include "runner/cgroup.h"
#include "runner/environment.h"
#include "runner/errand.h"
#include "runner/held_port.h"
#include "runner/lease.h"
#include "runner/order.h"
#include "runner/output_reader.h"
#include "runner/poll_set.h"
#include "runner/process.h"
#include "runner/result_file.h"
#include "runner/resumption.h"
#include "runner/runner_log.h"
#include "runner/spool.h"
#include "runner/standing_worker.h"
#include "runner/start.h"
#include "runner/tasks.h"
#include "runner/uplink.h"
#include "runner/vitals.h"

namespace quad::runner {

class RankLife {
 public:
  enum class Phase : std::uint8_t {
    kConnected,  ///< no order yet
    kResuming,   ///< the fence, and the checkpoint to resume from
    kFetching,   ///< workdir and mounts
    kSetup,
    kReady,  ///< waits at the barrier
    kRunning,
    kEnding,  ///< it is known how it ended; processes die and output is read
    kEnded,
  };

  /// What is handed in must outlive it; no I/O.
  RankLife(const Start& start, const std::filesystem::path& folder, const Clock& clock,
           Spool& spool, Uplink& uplink, const RunnerLog& log);

  /// The rank has ended in an earlier life of this folder: there is only its end to tell.
  void tell_earlier_end(RankResult result, MonoTime now);

  // What the server says.
  /// `asked` is when this runner said hello on the connection that the order came over. Without
  /// effect on a rank that has one.
  void take_order(const json::object& message, MonoTime asked, MonoTime now);
  /// Without effect before the barrier and after it.
  void go(const json::object& message, MonoTime now);
  void end_fence_wait(MonoTime now);
  void renew_lease(MonoTime asked, MonoTime now) { lease_.renew(asked, now); }
  /// Stops the rank if its lease has run out. To be called before anything that came is acted on.
  void keep_lease(MonoTime now);
  /// Somebody wants to reach in: starts a process for it among the rank's own, or tells why not.
  void open_session(const std::string& id, const std::string& kind);
  /// SIGTERM to every process, SIGKILL after the grace. Again: can only shorten the grace.
  void stop(Millis grace, const std::string& reason, MonoTime now);
  /// Of a rank that holds its node for others: start_task, kill_task or forget_task.
  void on_task_message(std::string_view type, const json::object& message);
  /// Kills the rank; its end is not told.
  void leave(const std::string& reason, MonoTime now);

  /// The job is over, and this was the last of its ranks: removes what is empty in the hot tier. To
  /// be called when there is nothing else left to do: blocks for as long as the storage does.
  void clear_up_after_job() const;

  // For the loop.
  /// Heartbeat and, if it has processes, what they use.
  void beat(MonoTime now);
  void tick(MonoTime now);
  void watch(PollSet& polled, MonoTime now);
  /// To be called after each wait: processes may have ended.
  void on_children(MonoTime now);

  [[nodiscard]] bool ended() const { return phase_ == Phase::kEnded; }
  [[nodiscard]] bool leaving() const { return leaving_; }
  /// The order's, for a stop that names no grace; nullopt before there is one.
  [[nodiscard]] std::optional<Millis> stop_grace() const;
  /// As hello tells it.
  [[nodiscard]] std::string_view phase_name() const;
  /// What it has running for others, as hello tells it; null for a rank that holds nothing.
  [[nodiscard]] std::optional<json::array> tasks() const;
  /// Held for the rank's own processes; 0 if none could be had.
  [[nodiscard]] int port() const { return port_.number; }

 private:
  struct Stop {
    std::string reason;
    MonoTime kill_at{0};
    bool killed = false;
  };

  // The order of work.
  void resume(const Resumption::Outcome& outcome, MonoTime now);
  void fetch(MonoTime now);
  Status begin_to_fetch();
  void setup(MonoTime now);
  void ready(MonoTime now);
  void script_ended(int wait_status, MonoTime now);
  void end(RankResult result, MonoTime now);
  void end_before_user_code(std::string detail, bool in_setup, MonoTime now);
  void end_if_killed_from_outside(MonoTime now);
  void finish_when_dead(MonoTime now);
  [[nodiscard]] bool looks_once_more(MonoTime now);
  void settle(MonoTime now);

  // What came from the rank and from the workers.
  void on_rank_reports(MonoTime now);
  void on_fetched(MonoTime now);
  void on_fence(MonoTime now);
  void on_checkpoints(MonoTime now);

  void set_phase(Phase phase);
  /// Ends the rank, and is false, if it cannot.
  bool start_processes(MonoTime now);
  Status make_processes();
  void leave_termination_message() const;
  void tell_end(MonoTime now);
  void limit();
  void note_limit(const std::string& sentence);
  void tell_of_refused_processes();
  void tell_session_failed(const std::string& id, std::string_view why);
  [[nodiscard]] bool holds() const { return order_ && order_->hold; }
  void kill_processes();
  [[nodiscard]] bool is_ending() const { return phase_ >= Phase::kEnding; }
  [[nodiscard]] bool keeps_lease() const;

  const Start& start_;
  const Clock& clock_;
  const Places places_;
  Spool& spool_;
  Uplink& uplink_;
  const RunnerLog& log_;

  Phase phase_ = Phase::kConnected;
  std::optional<Order> order_;
  std::optional<Go> go_;  // once it runs
  HeldPort port_;
  ControlGroups groups_;  // from limit() on; for all that the rank runs, tasks too
  bool limited_ = false;
  bool told_of_refused_processes_ = false;
  MemoryFacts memory_at_start_;
  std::deque<std::string> sessions_;   // that the init is starting
  std::unique_ptr<RankProcess> rank_;  // once something is to be brought, from setup on; of a
                                       // holder, once something is for it
  OutputReader output_;
  Vitals vitals_;
  MonoTime progress_at_{0};

  Tasks tasks_;

  std::optional<Resumption> resumption_;  // from the order on
  std::string resumed_from_;
  Errand fetching_{"The fetching of the mounts"};
  UniqueFd brings_;  // locked for as long as what was brought may be in use
  StandingWorker fence_;
  StandingWorker checkpoints_;
  bool has_checkpoints_ = false;  // it runs, and they are for this rank to watch
  std::optional<MonoTime> last_look_until_;
  Lease lease_;

  std::optional<Stop> stop_;
  bool leaving_ = false;
  RankResult result_;                   // from kEnding on
  std::optional<MonoTime> dead_since_;  // every process is dead, but output may still come
};

}  // namespace quad::runner
