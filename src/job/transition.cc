#include "job/transition.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "job/judge.h"

namespace quad::job {

namespace {

/// Applies one happening: holds what every handler needs, so that they stay short.
class Transition {
 public:
  Transition(Job& job, WallTime now, Step& step) : job_(job), now_(now), step_(step) {}

  void operator()(const Placed& placed);
  void operator()(const RankHello& hello);
  void operator()(const RankSettingUp& setting_up);
  void operator()(const RankReady& ready);
  void operator()(const RankEnded& ended);
  void operator()(const RankStopped& stopped);
  void operator()(const RankTaken& taken);
  void operator()(const ResumeChosen& chosen);
  void operator()(const CheckpointSeen& seen);
  void operator()(const CheckpointsGone& gone);
  void operator()(const Noted& noted);
  void operator()(const StartDelayed& delayed);
  void operator()(const NodeLost& lost);
  void operator()(const CancelAsked& asked);
  void operator()(const DurationExceeded& exceeded);
  void operator()(const AttemptsLost& lost);
  void operator()(const Unplaceable& unplaceable);

 private:
  Event& record(std::string kind, std::string actor, std::string message);
  void set_status(Status status, std::string message);
  void finish(Status status, Cause cause, std::string message);
  /// The live attempt if it has this epoch, else null.
  Attempt* live(Epoch epoch);
  RankRecord* live_rank(Epoch epoch, Rank rank);
  void end_rank(Attempt& attempt, Rank rank, RankEnd end);
  /// A rank that was stopped is known to have been taken away, and by whom.
  void explain_end(Attempt& attempt, std::size_t rank);
  /// A death that had only been presumed is now certain.
  void confirm_end(Attempt& attempt, Rank rank);
  /// Ends the wait of the live attempt behind the fence if nobody is left to wait for.
  void end_fence_wait();
  /// A checkpoint that the attempt before wrote too shortly before its end to be seen shows in
  /// where this one resumes.
  void note_progress_before(const Attempt& attempt);
  /// Orders for those that may have one, once every rank is connected: all, or all but rank 0.
  void send_orders(const Attempt& attempt, bool with_head);
  [[nodiscard]] bool holds_back(const Attempt& attempt) const;
  void stop_others(Attempt& attempt, Millis grace, const std::string& reason);
  /// What a rank that comes back while its attempt ends still has: the runner keeps the earlier of
  /// two ends.
  [[nodiscard]] Millis grace_left() const {
    const bool graceful = job_.status == Status::kCancelling || job_.cause == Cause::kLimit;
    return graceful ? job_.request->stop_grace : Millis(0);
  }
  void finish_attempt(Attempt& attempt);
  void recover(Attempt& attempt, bool counts);
  [[nodiscard]] RankKey key(const Attempt& attempt, std::size_t rank) const {
    return RankKey{job_.id, attempt.epoch, Rank(static_cast<std::int32_t>(rank))};
  }

  Job& job_;
  WallTime now_;
  Step& step_;
};

std::string nodes_of(const Attempt& attempt) {
  std::vector<std::string_view> names;
  for (const RankRecord& rank : attempt.ranks) {
    const std::string_view name = rank.holding.node.value();
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(name);
    }
  }
  return join_words(names);
}

/// "Rank 1 on gpu-7 exited with code 3." or, where the reason is not about the rank itself, "Rank 1
/// ended: node …".
std::string sentence_of_end(std::size_t rank, const std::string& reason) {
  const std::string own = fmt::format("rank {} on ", rank);
  if (reason.starts_with(own)) {
    return "R" + reason.substr(1) + ".";
  }
  if (reason.starts_with("the setup of " + own)) {
    return "T" + reason.substr(1) + ".";
  }
  return fmt::format("Rank {} ended: {}.", rank, reason);
}

bool all_ranks(const Attempt& attempt, auto&& holds) {
  return std::all_of(attempt.ranks.begin(), attempt.ranks.end(), holds);
}

bool all_connected(const Attempt& attempt) {
  return all_ranks(attempt, [](const RankRecord& rank) { return !rank.nonce.empty(); });
}

/// What a strict job's next attempt waits for, as a sentence to follow another.
std::string wait_sentence(const Job& job) {
  std::vector<std::string> who;
  for (const Attempt& earlier : job.attempts) {
    for (std::size_t i = 0; i < earlier.ranks.size(); ++i) {
      if (earlier.ranks[i].end && may_still_act(earlier.ranks[i])) {
        who.push_back(fmt::format("rank {} of attempt {} on {}", i, earlier.epoch.value(),
                                  earlier.ranks[i].holding.node.value()));
      }
    }
  }
  return fmt::format(
      " Nothing of it runs until {} {} dead for certain or {} lease has run out: {} at most "
      "(quad.fence: strict).",
      fmt::join(who, ", "), who.size() == 1 ? "is" : "are", who.size() == 1 ? "its" : "their",
      format_duration(job.attempts.back().fence_wait));
}

/// The rank was told to end, which is all that its runner can know: by Quad or past it.
bool is_unexplained_stop(const RankEnd& end) {
  return end.by_quad && end.verdict == Verdict::kNone && end.how != RankEnd::How::kNodeLost;
}

void explain(RankEnd& end, const Taken& taken) {
  end.by_quad = false;
  end.verdict = taken.verdict;
  end.detail = taken.detail;
}

/// Why an attempt was over whose ranks had all been stopped, though nobody had asked for that.
std::string stop_reason(const Attempt& attempt) {
  const RankRecord* first = nullptr;
  for (const RankRecord& rank : attempt.ranks) {
    if (rank.end->by_quad && !rank.end->detail.empty() &&
        (first == nullptr || rank.end->at < first->end->at)) {
      first = &rank;
    }
  }
  return first == nullptr ? "a rank was stopped"
                          : fmt::format("its rank on {} was stopped: {}",
                                        first->holding.node.value(), first->end->detail);
}

Event& Transition::record(std::string kind, std::string actor, std::string message) {
  Event event;
  event.at = now_;
  event.job = job_.id;
  event.epoch = job_.epoch();
  event.kind = std::move(kind);
  event.actor = std::move(actor);
  event.message = std::move(message);
  step_.events.push_back(std::move(event));
  step_.changed = true;
  return step_.events.back();
}

void Transition::set_status(Status status, std::string message) {
  job_.status = status;
  job_.message = std::move(message);
  step_.changed = true;
}

void Transition::finish(Status status, Cause cause, std::string message) {
  job_.cause = cause;
  job_.ended_at = now_;
  set_status(status, std::move(message));
  const std::string_view kind = status == Status::kSucceeded   ? "job.succeeded"
                                : status == Status::kCancelled ? "job.cancelled"
                                                               : "job.failed";
  Event& event = record(std::string(kind),
                        status == Status::kCancelled ? job_.cancelled_by : "control", job_.message);
  if (cause != Cause::kNone) {
    event.data["cause"] = to_string(cause);
  }
  event.data["exit_code"] = job_.exit_code;
}

Attempt* Transition::live(Epoch epoch) {
  Attempt* attempt = job_.live();
  return attempt != nullptr && attempt->epoch == epoch ? attempt : nullptr;
}

RankRecord* Transition::live_rank(Epoch epoch, Rank rank) {
  Attempt* attempt = live(epoch);
  const auto at = static_cast<std::size_t>(rank.value());
  return attempt != nullptr && at < attempt->ranks.size() ? &attempt->ranks[at] : nullptr;
}

void Transition::operator()(const Placed& placed) {
  if (is_terminal(job_.status) || job_.live() != nullptr) {
    return;
  }
  Attempt attempt;
  attempt.epoch = Epoch(job_.epoch().value() + 1);
  attempt.shape = placed.shape;
  attempt.placed_at = now_;
  attempt.lease = job_.request->recovery.strict_fence ? placed.lease : Millis(0);
  for (const Attempt& earlier : job_.attempts) {
    const bool certain =
        all_ranks(earlier, [](const RankRecord& rank) { return !may_still_act(rank); });
    if (!certain) {
      attempt.fence_wait = std::max(attempt.fence_wait, earlier.lease + kFenceGrace);
    }
  }
  for (const pool::Holding& holding : placed.holdings) {
    RankRecord rank;
    rank.holding = holding;
    attempt.ranks.push_back(std::move(rank));
  }
  job_.attempts.push_back(std::move(attempt));
  const Attempt& added = job_.attempts.back();
  const std::string wait = holds_back(added) ? wait_sentence(job_) : "";
  if (job_.status == Status::kPending) {
    set_status(Status::kStarting, fmt::format("Starting on {}.", nodes_of(added)));
  } else {
    set_status(Status::kRecovering, fmt::format("Starting again on {}.{}", nodes_of(added), wait));
  }
  Event& event = record(
      "attempt.placed", "scheduler",
      fmt::format("Attempt {} was placed on {}.{}", added.epoch.value(), nodes_of(added), wait));
  json::array nodes;
  for (const RankRecord& rank : added.ranks) {
    nodes.emplace_back(rank.holding.node.value());
  }
  event.data["nodes"] = std::move(nodes);
  for (std::size_t i = 0; i < added.ranks.size(); ++i) {
    step_.effects.emplace_back(StartRank{key(added, i)});
  }
}

void Transition::operator()(const RankHello& hello) {
  const RankKey who{job_.id, hello.epoch, hello.rank};
  Attempt* attempt = live(hello.epoch);
  RankRecord* rank = live_rank(hello.epoch, hello.rank);
  if (rank == nullptr) {
    // Its attempt is over. If its end is already known it only waits for its bye; otherwise it is a
    // zombie.
    for (Attempt& old : job_.attempts) {
      const auto at = static_cast<std::size_t>(hello.rank.value());
      if (old.epoch == hello.epoch && at < old.ranks.size() && old.ranks[at].nonce == hello.nonce &&
          old.ranks[at].end->confirmed) {
        step_.effects.emplace_back(ReleaseRank{who});
        return;
      }
    }
    step_.effects.emplace_back(DismissRunner{
        who, hello.nonce,
        fmt::format("attempt {} of job {} is over", hello.epoch.value(), job_.id.value())});
    return;
  }
  if (!rank->nonce.empty() && rank->nonce != hello.nonce) {
    step_.effects.emplace_back(DismissRunner{who, hello.nonce, "another runner has this rank"});
    return;
  }
  if (rank->end && !rank->end->confirmed) {
    // It had been given up while the others of its attempt still end: a zombie, which holds its
    // room until it is dead.
    step_.effects.emplace_back(DismissRunner{who, hello.nonce, "its node had been given up"});
    return;
  }
  if (rank->end) {
    step_.effects.emplace_back(ReleaseRank{who});
    return;
  }
  if (rank->nonce.empty()) {
    rank->nonce = hello.nonce;
    rank->address = hello.address;
    rank->port = hello.port;
    rank->pid = hello.pid;
    rank->phase = RankPhase::kConnected;
    step_.changed = true;
    if (attempt->stopping) {
      step_.effects.emplace_back(StopRank{who, grace_left(), "the attempt is ending"});
      return;
    }
    send_orders(*attempt, true);
    return;
  }
  // A reconnect: say again whatever it may have missed.
  if (attempt->stopping) {
    step_.effects.emplace_back(StopRank{who, grace_left(), "the attempt is ending"});
  } else if (all_connected(*attempt)) {
    const bool head = hello.rank == Rank(0);
    if (head || !holds_back(*attempt)) {
      step_.effects.emplace_back(SendOrder{who});
    }
    if (head && !attempt->resume && earlier_ranks_are_dead(job_)) {
      step_.effects.emplace_back(EndFenceWait{who});
    }
    if (attempt->running_at) {
      step_.effects.emplace_back(SendGo{who});
    }
  }
}

bool Transition::holds_back(const Attempt& attempt) const {
  return job_.request->recovery.strict_fence && attempt.fence_wait > Millis(0) && !attempt.resume;
}

void Transition::send_orders(const Attempt& attempt, bool with_head) {
  if (attempt.stopping || !all_connected(attempt)) {
    return;
  }
  const std::size_t end = holds_back(attempt) ? 1 : attempt.ranks.size();
  for (std::size_t i = with_head ? 0 : 1; i < end; ++i) {
    step_.effects.emplace_back(SendOrder{key(attempt, i)});
  }
}

void Transition::operator()(const RankSettingUp& setting_up) {
  RankRecord* rank = live_rank(setting_up.epoch, setting_up.rank);
  if (rank != nullptr && rank->phase < RankPhase::kSettingUp) {
    rank->phase = RankPhase::kSettingUp;
    Event& event = record("rank.setup", "runner",
                          fmt::format("Rank {} is being set up.", setting_up.rank.value()));
    event.rank = setting_up.rank;
    event.node = rank->holding.node.value();
  }
}

void Transition::operator()(const RankReady& ready) {
  Attempt* attempt = live(ready.epoch);
  RankRecord* rank = live_rank(ready.epoch, ready.rank);
  if (rank == nullptr || rank->phase >= RankPhase::kReady || attempt->stopping) {
    return;
  }
  rank->phase = RankPhase::kReady;
  step_.changed = true;
  if (!all_ranks(*attempt, [](const RankRecord& r) { return r.phase == RankPhase::kReady; })) {
    return;
  }
  attempt->running_at = now_;
  for (RankRecord& each : attempt->ranks) {
    each.phase = RankPhase::kRunning;
  }
  std::string message;
  if (job_.attempts.size() == 1) {
    job_.started_at = now_;
    message = fmt::format("Running on {}.", nodes_of(*attempt));
  } else {
    const Attempt& before = job_.attempts[job_.attempts.size() - 2];
    const Millis took = now_ - before.ended_at.value_or(now_);
    const std::string from = attempt->resume && !attempt->resume->path.empty()
                                 ? (attempt->resume->step >= 0
                                        ? fmt::format("resumed from step {}", attempt->resume->step)
                                        : "resumed from its newest valid checkpoint")
                                 : "started from the beginning, as there was no valid checkpoint";
    message = fmt::format("Running again on {}, {} after the failure: {}; {}.", nodes_of(*attempt),
                          format_duration(took), before.reason, from);
  }
  set_status(Status::kRunning, message);
  Event& event = record("attempt.running", "control", std::move(message));
  if (attempt->resume && !attempt->resume->path.empty()) {
    event.data["resumed_from"] = attempt->resume->path;
    event.data["resumed_step"] = attempt->resume->step;
  }
  for (std::size_t i = 0; i < attempt->ranks.size(); ++i) {
    step_.effects.emplace_back(SendGo{key(*attempt, i)});
  }
}

void Transition::operator()(const RankEnded& ended) {
  if (Attempt* attempt = live(ended.epoch); attempt != nullptr) {
    const auto at = static_cast<std::size_t>(ended.rank.value());
    if (at < attempt->ranks.size() && !attempt->ranks[at].end) {
      end_rank(*attempt, ended.rank, ended.end);
    } else if (at < attempt->ranks.size() && ended.end.confirmed) {
      confirm_end(*attempt, ended.rank);
    }
    return;
  }
  for (Attempt& old : job_.attempts) {
    if (old.epoch == ended.epoch && ended.end.confirmed) {
      confirm_end(old, ended.rank);
    }
  }
}

void Transition::operator()(const RankStopped& stopped) {
  Attempt* attempt = live(stopped.epoch);
  const auto at = static_cast<std::size_t>(stopped.rank.value());
  if (attempt == nullptr || at >= attempt->ranks.size() || attempt->ranks[at].end) {
    return;
  }
  Event& event = record("rank.stopping", "runner",
                        fmt::format("Rank {} on {} ends, not by Quad's order{}{}.", at,
                                    attempt->ranks[at].holding.node.value(),
                                    stopped.detail.empty() ? "" : ": ", stopped.detail));
  event.rank = stopped.rank;
  event.node = attempt->ranks[at].holding.node.value();
  step_.changed = true;
  attempt->stopping = true;
  for (std::size_t i = 0; i < attempt->ranks.size(); ++i) {
    if (i != at && !attempt->ranks[i].end) {
      step_.effects.emplace_back(
          StopRank{key(*attempt, i), Millis(0), fmt::format("rank {} was stopped", at)});
    }
  }
  step_.effects.emplace_back(LetRunnerGo{key(*attempt, at)});
}

void Transition::operator()(const RankTaken& taken) {
  const auto at = static_cast<std::size_t>(taken.rank.value());
  for (Attempt& attempt : job_.attempts) {
    if (attempt.epoch != taken.epoch || at >= attempt.ranks.size()) {
      continue;
    }
    RankRecord& rank = attempt.ranks[at];
    if (rank.taken || (rank.end && !is_unexplained_stop(*rank.end))) {
      return;
    }
    rank.taken = taken.taken;
    Event& event =
        record("rank.taken", "engine",
               fmt::format("Rank {} on {} {} taken away: {}.", at, rank.holding.node.value(),
                           rank.end ? "was" : "is being", taken.taken.detail));
    event.epoch = attempt.epoch;
    event.rank = taken.rank;
    event.node = rank.holding.node.value();
    event.data["verdict"] = to_string(taken.taken.verdict);
    if (rank.end) {
      explain_end(attempt, at);
    }
    return;
  }
}

void Transition::explain_end(Attempt& attempt, std::size_t rank) {
  RankRecord& ended = attempt.ranks[rank];
  explain(*ended.end, *ended.taken);
  if (&attempt != &job_.attempts.back() || !attempt.ended_at ||
      job_.status != Status::kRecovering) {
    return;
  }
  const Judgement judged = judge(attempt);
  attempt.verdict = judged.verdict;
  attempt.reason = judged.reason;
  job_.message = fmt::format("Recovering: {}.", attempt.reason);
}

void Transition::confirm_end(Attempt& attempt, Rank rank) {
  const auto at = static_cast<std::size_t>(rank.value());
  if (at >= attempt.ranks.size() || !attempt.ranks[at].end) {
    return;
  }
  if (!attempt.ranks[at].end->confirmed) {
    attempt.ranks[at].end->confirmed = true;
    Event& event = record(
        "rank.confirmed_dead", "engine",
        fmt::format("Rank {} of attempt {}, which had been presumed dead, has ended for certain.",
                    rank.value(), attempt.epoch.value()));
    event.epoch = attempt.epoch;
    event.rank = rank;
    event.node = attempt.ranks[at].holding.node.value();
    end_fence_wait();
  }
  step_.effects.emplace_back(ReleaseRank{key(attempt, at)});
}

void Transition::end_fence_wait() {
  Attempt* live = job_.live();
  if (live == nullptr || live->resume || live->fence_wait == Millis(0) ||
      !earlier_ranks_are_dead(job_)) {
    return;
  }
  const bool held_back = holds_back(*live);
  live->fence_wait = Millis(0);
  if (live->stopping) {
    return;
  }
  if (held_back) {
    job_.message = fmt::format("Starting again on {}.", nodes_of(*live));
    send_orders(*live, false);
  }
  step_.effects.emplace_back(EndFenceWait{key(*live, 0)});
}

void Transition::end_rank(Attempt& attempt, Rank rank, RankEnd end) {
  const auto at = static_cast<std::size_t>(rank.value());
  RankRecord& ending = attempt.ranks[at];
  end.at = now_;
  if (ending.taken && is_unexplained_stop(end)) {
    explain(end, *ending.taken);
  }
  ending.end = std::move(end);
  ending.phase = RankPhase::kEnded;
  const RankEnd& how = *ending.end;
  const bool well = ended_well(how);
  const Judgement judged = judge(how, at, ending.holding.node.value());
  // A sentence of its own only for what is not the plain end of a one-rank success: ten thousand
  // one-line jobs are ten thousand events fewer.
  if (!well || attempt.ranks.size() > 1) {
    Event& event = record("rank.ended", how.how == RankEnd::How::kNodeLost ? "control" : "runner",
                          how.by_quad ? fmt::format("Rank {} on {} was stopped.", rank.value(),
                                                    ending.holding.node.value())
                          : well ? fmt::format("Rank {} on {} exited with code 0.", rank.value(),
                                               ending.holding.node.value())
                                 : sentence_of_end(at, judged.reason));
    event.rank = rank;
    event.node = ending.holding.node.value();
    event.data["code"] = how.code;
    event.data["by_quad"] = how.by_quad;
  }
  step_.changed = true;
  if (how.confirmed) {
    step_.effects.emplace_back(ReleaseRank{key(attempt, at)});
  } else if (!ending.nonce.empty()) {
    // A connection that survives the silence brings no new hello that could be answered: this waits
    // in its socket.
    step_.effects.emplace_back(
        DismissRunner{key(attempt, at), ending.nonce, "its node had been given up"});
  }
  if (!well && !attempt.stopping) {
    stop_others(attempt, Millis(0), fmt::format("rank {} ended", rank.value()));
  }
  if (all_ranks(attempt, [](const RankRecord& r) { return r.end.has_value(); })) {
    finish_attempt(attempt);
  }
}

void Transition::stop_others(Attempt& attempt, Millis grace, const std::string& reason) {
  attempt.stopping = true;
  for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
    if (!attempt.ranks[i].end) {
      step_.effects.emplace_back(StopRank{key(attempt, i), grace, reason});
    }
  }
}

void Transition::finish_attempt(Attempt& attempt) {
  attempt.ended_at = now_;
  const Judgement judged = judge(attempt);
  if (job_.status == Status::kCancelling) {
    attempt.verdict = Verdict::kCancelled;
    attempt.reason = fmt::format("cancelled by {}", job_.cancelled_by);
    finish(Status::kCancelled, Cause::kNone, fmt::format("Cancelled by {}.", job_.cancelled_by));
    return;
  }
  attempt.verdict = judged.verdict;
  attempt.reason = judged.reason;
  if (job_.cause == Cause::kLimit) {
    attempt.verdict = Verdict::kUser;
    attempt.reason = job_.message;
    job_.exit_code = 1;
    finish(Status::kFailed, Cause::kLimit, job_.message);
    return;
  }
  if (judged.verdict == Verdict::kSuccess) {
    if (!all_ranks(attempt, [](const RankRecord& rank) { return !rank.end->by_quad; })) {
      // A rank was ended in mid-work though no peer had failed and nobody had asked for it: its
      // runner was told to end (the node shuts down), or its lease had run out.
      attempt.verdict = Verdict::kPlatform;
      attempt.reason = stop_reason(attempt);
      recover(attempt, true);
      return;
    }
    job_.exit_code = 0;
    finish(Status::kSucceeded, Cause::kNone, "Succeeded.");
    return;
  }
  job_.exit_code = judged.exit_code;
  if (judged.verdict != Verdict::kUser) {
    recover(attempt, true);
    return;
  }
  const RecoveryPolicy& policy = job_.request->recovery;
  const bool code_recovers =
      judged.cause != Cause::kLimit &&
      std::find(policy.recover_on_exit_codes.begin(), policy.recover_on_exit_codes.end(),
                judged.exit_code) != policy.recover_on_exit_codes.end();
  if (code_recovers) {
    recover(attempt, false);
  } else if (job_.restarts_on_errors < policy.max_restarts_on_errors) {
    ++job_.restarts_on_errors;
    recover(attempt, false);
  } else {
    finish(Status::kFailed, judged.cause, fmt::format("Failed: {}.", judged.reason));
  }
}

void Transition::recover(Attempt& attempt, bool counts) {
  for (const RankRecord& rank : attempt.ranks) {
    // Where it was pushed out is no place for it, either: whatever did that is there now.
    const bool node_at_fault = rank.end->how == RankEnd::How::kNodeLost ||
                               (rank.end->how == RankEnd::How::kNeverRan && !rank.end->in_setup) ||
                               cause_of(rank.end->verdict) == Cause::kPreempted;
    if (counts && node_at_fault && !rank.end->by_quad &&
        std::find(job_.avoid_nodes.begin(), job_.avoid_nodes.end(), rank.holding.node) ==
            job_.avoid_nodes.end()) {
      job_.avoid_nodes.push_back(rank.holding.node);
    }
  }
  if (counts) {
    ++job_.recoveries;
    job_.recoveries_without_progress =
        attempt.wrote_checkpoint ? 1 : job_.recoveries_without_progress + 1;
    const std::int32_t allowed = job_.request->recovery.max_without_progress;
    if (job_.recoveries_without_progress > allowed) {
      finish(Status::kFailed, cause_of(attempt.verdict),
             fmt::format("Failed: {}, and {} recoveries in a row brought no new valid checkpoint.",
                         attempt.reason, allowed));
      return;
    }
  }
  set_status(Status::kRecovering, fmt::format("Recovering: {}.", attempt.reason));
  Event& event = record("job.recovering", "control", job_.message);
  event.data["verdict"] = to_string(attempt.verdict);
  event.data["recoveries"] = job_.recoveries;
}

void Transition::operator()(const ResumeChosen& chosen) {
  Attempt* attempt = live(chosen.epoch);
  if (attempt == nullptr || attempt->resume) {
    return;
  }
  const bool held_back = holds_back(*attempt);
  attempt->resume = chosen.resume;
  step_.changed = true;
  note_progress_before(*attempt);
  if (held_back) {
    job_.message = fmt::format("Starting again on {}.", nodes_of(*attempt));
    send_orders(*attempt, false);
  }
  if (chosen.resume.path.empty() && chosen.resume.note.empty()) {
    return;
  }
  const std::string from =
      chosen.resume.path.empty() ? "There is no valid checkpoint to resume from."
      : chosen.resume.step >= 0
          ? fmt::format("Resumes from the checkpoint of step {}.", chosen.resume.step)
          : "Resumes from the newest valid checkpoint.";
  Event& event =
      record("attempt.resume", "runner",
             chosen.resume.note.empty() ? from : fmt::format("{} {}", from, chosen.resume.note));
  event.rank = Rank(0);
  event.data["path"] = chosen.resume.path;
  event.data["step"] = chosen.resume.step;
}

void Transition::note_progress_before(const Attempt& attempt) {
  if (job_.attempts.size() < 2 || attempt.resume->path.empty() || attempt.resume->step < 0) {
    return;
  }
  Attempt& before = job_.attempts[job_.attempts.size() - 2];
  // What was known already: back to the last attempt that chose where to resume.
  std::int64_t known = -1;
  for (std::size_t i = job_.attempts.size() - 1; i-- > 0;) {
    const Attempt& earlier = job_.attempts[i];
    known = std::max(known, earlier.checkpoint_step.value_or(-1));
    if (earlier.resume) {
      known = std::max(known, earlier.resume->step);
      break;
    }
  }
  if (attempt.resume->step > known) {
    before.wrote_checkpoint = true;
    before.checkpoint_step = attempt.resume->step;
    Event& event = record("checkpoint.complete", "runner",
                          fmt::format("Checkpoint of step {} was complete when attempt {} ended.",
                                      attempt.resume->step, before.epoch.value()));
    event.epoch = before.epoch;
    event.data["path"] = attempt.resume->path;
    event.data["step"] = attempt.resume->step;
    event.data["bytes"] = 0;  // not known here
    job_.recoveries_without_progress = std::min(job_.recoveries_without_progress, 1);
  }
}

void Transition::operator()(const CheckpointSeen& seen) {
  Attempt* attempt = live(seen.epoch);
  if (attempt == nullptr) {
    return;
  }
  const bool newer = seen.step < 0 || seen.step > attempt->checkpoint_step.value_or(-1);
  if (newer && seen.step >= 0) {
    attempt->checkpoint_step = seen.step;
  }
  attempt->wrote_checkpoint = true;
  Event& event =
      record("checkpoint.complete", "runner",
             seen.step >= 0 ? fmt::format("Checkpoint of step {} is complete.", seen.step)
                            : "A checkpoint is complete.");
  if (!seen.note.empty()) {
    event.message += " " + seen.note;
  }
  event.data["path"] = seen.path;
  event.data["step"] = seen.step;
  event.data["bytes"] = seen.bytes;
}

void Transition::operator()(const CheckpointsGone& gone) {
  if (live(gone.epoch) == nullptr || gone.paths.empty()) {
    return;
  }
  Event& event = record("checkpoint.gone", "runner",
                        gone.paths.size() == 1
                            ? std::string("A checkpoint was deleted.")
                            : fmt::format("{} checkpoints were deleted.", gone.paths.size()));
  event.data["paths"] = json::array(gone.paths.begin(), gone.paths.end());
}

void Transition::operator()(const Noted& noted) {
  const RankRecord* rank = live_rank(noted.epoch, noted.rank);
  if (rank == nullptr) {
    return;
  }
  Event& event = record("note." + noted.kind, "runner", noted.message);
  event.rank = noted.rank;
  event.node = rank->holding.node.value();
}

void Transition::operator()(const StartDelayed& delayed) {
  const RankRecord* rank = live_rank(delayed.epoch, delayed.rank);
  if (rank == nullptr || rank->phase != RankPhase::kOrdered || job_.message == delayed.reason) {
    return;
  }
  job_.message = delayed.reason;
  Event& event = record("rank.delayed", "engine", delayed.reason);
  event.rank = delayed.rank;
  event.node = rank->holding.node.value();
}

void Transition::operator()(const NodeLost& lost) {
  for (Attempt& attempt : job_.attempts) {
    const bool was_live = job_.live() == &attempt;
    for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
      if (attempt.ranks[i].holding.node != lost.node) {
        continue;
      }
      const Rank rank(static_cast<std::int32_t>(i));
      if (was_live && !attempt.ranks[i].end) {
        RankEnd end;
        end.how = RankEnd::How::kNodeLost;
        end.confirmed = lost.confirmed;
        end.detail = lost.reason;
        end_rank(attempt, rank, std::move(end));
      } else if (lost.confirmed && attempt.ranks[i].end && !attempt.ranks[i].end->confirmed) {
        confirm_end(attempt, rank);
      }
    }
  }
}

void Transition::operator()(const CancelAsked& asked) {
  if (is_terminal(job_.status) || job_.status == Status::kCancelling) {
    return;
  }
  job_.cancelled_by = asked.by;
  Attempt* attempt = job_.live();
  if (attempt == nullptr) {
    finish(Status::kCancelled, Cause::kNone, fmt::format("Cancelled by {}.", asked.by));
    return;
  }
  set_status(Status::kCancelling, fmt::format("Being cancelled by {}.", asked.by));
  record("job.cancelling", asked.by, job_.message);
  stop_others(*attempt, job_.request->stop_grace, job_.message);
}

void Transition::operator()(const DurationExceeded& /*exceeded*/) {
  Attempt* attempt = job_.live();
  if (attempt == nullptr || attempt->stopping || job_.status == Status::kCancelling) {
    return;
  }
  job_.cause = Cause::kLimit;
  job_.message = fmt::format("Stopped: its max_duration of {} is over.",
                             format_duration(job_.request->max_duration.value_or(Millis(0))));
  record("job.limit", "control", job_.message);
  stop_others(*attempt, job_.request->stop_grace, job_.message);
}

void Transition::operator()(const AttemptsLost& lost) {
  if (is_terminal(job_.status)) {
    return;
  }
  RankEnd gone;
  gone.how = RankEnd::How::kGone;
  gone.detail = "what became of it stood in records that are lost";
  gone.at = now_;
  if (Attempt* attempt = job_.live(); attempt != nullptr) {
    job_.recoveries_without_progress = 0;  // it is not the job that failed
    for (std::size_t i = 0; i < attempt->ranks.size(); ++i) {
      if (!attempt->ranks[i].end) {
        end_rank(*attempt, Rank(static_cast<std::int32_t>(i)), gone);
      }
    }
  }
  const Epoch known = job_.epoch();
  if (is_terminal(job_.status) || lost.up_to <= known) {
    return;
  }
  for (Epoch next(known.value() + 1); next <= lost.up_to; next = Epoch(next.value() + 1)) {
    Attempt attempt;
    attempt.epoch = next;
    attempt.ranks.resize(static_cast<std::size_t>(job_.request->ranks));
    for (RankRecord& rank : attempt.ranks) {
      rank.phase = RankPhase::kEnded;
      rank.end = gone;
    }
    attempt.placed_at = now_;
    attempt.ended_at = now_;
    attempt.verdict = Verdict::kPlatform;
    attempt.reason = gone.detail;
    job_.attempts.push_back(std::move(attempt));
  }
  set_status(Status::kRecovering, "Recovering: records of its last attempts are lost.");
  record("job.recovering", "control",
         fmt::format(
             "{} not in the records any more, which were taken back.",
             known.value() + 1 == lost.up_to.value()
                 ? fmt::format("Attempt {} is", lost.up_to.value())
                 : fmt::format("Attempts {} to {} are", known.value() + 1, lost.up_to.value())));
}

void Transition::operator()(const Unplaceable& unplaceable) {
  if (is_terminal(job_.status) || job_.live() != nullptr) {
    return;
  }
  finish(Status::kFailed, Cause::kNoResource, unplaceable.reason);
}

}  // namespace

Job submit(JobId id, std::shared_ptr<const Request> request, WallTime now, Step& step) {
  Job job;
  job.id = id;
  job.request = std::move(request);
  job.submitted_at = now;
  job.message = "Waiting for a place.";
  Event event;
  event.at = now;
  event.job = id;
  event.kind = "job.submitted";
  event.actor = job.request->owner;
  event.message = fmt::format("Submitted by {}.", job.request->owner);
  event.data["name"] = job.request->name;
  step.events.push_back(std::move(event));
  step.changed = true;
  return job;
}

Step apply(Job& job, const Happening& happening, WallTime now) {
  Step step;
  std::visit(Transition(job, now, step), happening);
  return step;
}

}  // namespace quad::job
