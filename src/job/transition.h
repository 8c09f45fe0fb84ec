// job/transition.h
//
// The life of a job as one pure function: given the job as it stands and one thing that happened,
// what the job becomes, what to record, and what must now be done. No clock, no I/O, no randomness:
// the same inputs give the same result, which is what replay, simulation and the crash tests rest
// on. Called by the control thread; O(ranks of the attempt).
//
// A rank's end is confirmed when its death is certain. Where it is only presumed (a node out of
// sight), what the rank held stays held until it is confirmed, and the next attempt waits behind
// the fence (docs/design.md §4). Its rank 0 does the waiting, from the moment at which it has
// raised the fence: from then on nothing renews an old rank's lease, and one clock measures it all,
// whatever becomes of this server. In a strict job the other ranks get no order until rank 0 has
// waited. When the last of the old ranks is confirmed dead, the wait is over.
//
// Invariants, checked by check(const Job&):
//   - at most one attempt is live, and it is the last; epochs are 1, 2, 3, …
//   - a terminal status never changes
//   - effects name the epoch they are for, so an engine or a runner can refuse a late one

#pragma once

#include <string>
#include <variant>
#include <vector>

#include "job/event.h"
#include "job/job.h"

namespace quad::job {

/// How long a new attempt waits behind the fence when an old rank may still be alive; in a strict
/// job, how long an old rank may take to die once its lease has run out.
inline constexpr Millis kFenceGrace{5'000};
/// How long a rank of a strict job runs on when it reaches neither the server nor the fence.
inline constexpr Millis kStrictLease{30'000};

// What can happen to a job.

struct Placed {
  std::vector<pool::Holding> holdings;  ///< one for each rank, in rank order
  std::int32_t shape = 0;
  Millis lease = kStrictLease;  ///< for a strict job
};
/// A runner presents itself, for the first time or again after a lost connection.
struct RankHello {
  Epoch epoch;
  Rank rank;
  std::string nonce;
  std::string address;
  std::int32_t port = 0;
  std::int32_t pid = 0;
};
struct RankSettingUp {
  Epoch epoch;
  Rank rank;
};
struct RankReady {
  Epoch epoch;
  Rank rank;
};
struct RankEnded {
  Epoch epoch;
  Rank rank;
  RankEnd end;
};
/// The rank was told to end, though not by Quad, which is all that its runner knows. Who it was is
/// told a moment later, by RankTaken, or by nobody; RankEnded follows either way.
struct RankStopped {
  Epoch epoch;
  Rank rank;
  std::string detail;  ///< the runner's
};
/// Somebody else than Quad or its own program is ending, or has ended, a rank: a drain, a
/// preemption. Told before its end it is what that is judged by; later it explains an end of which
/// no more was known than that it was stopped.
struct RankTaken {
  Epoch epoch;
  Rank rank;
  Taken taken;
};
/// Rank 0 has raised the fence and chosen where to resume.
struct ResumeChosen {
  Epoch epoch;
  Resume resume;
};
struct CheckpointSeen {
  Epoch epoch;
  std::string path;
  std::int64_t step = -1;
  std::int64_t bytes = 0;
  std::string note;  ///< such as a warning that it was overwritten in place
};
/// Checkpoints that had been seen complete are not there any more: the script or retention has
/// deleted them. Said again it changes nothing.
struct CheckpointsGone {
  Epoch epoch;
  std::vector<std::string> paths;
};
/// Anything a runner wants in the job's story.
struct Noted {
  Epoch epoch;
  Rank rank;
  std::string kind;
  std::string message;
};
/// A rank's runner has not started yet, and why.
struct StartDelayed {
  Epoch epoch;
  Rank rank;
  std::string reason;  ///< a sentence
};
/// A node holding ranks of the job is lost; `confirmed` when its death is certain.
struct NodeLost {
  NodeId node;
  bool confirmed = false;
  std::string reason;
};
struct CancelAsked {
  std::string by;
};
struct DurationExceeded {};
/// The records were taken back, and attempts up to this one are not in them any more. None of them
/// goes on, nor the live one, and their numbers are not given out again.
struct AttemptsLost {
  Epoch up_to;
};
/// No node can ever hold it.
struct Unplaceable {
  std::string reason;
};

using Happening =
    std::variant<Placed, RankHello, RankSettingUp, RankReady, RankEnded, RankStopped, RankTaken,
                 ResumeChosen, CheckpointSeen, CheckpointsGone, Noted, StartDelayed, NodeLost,
                 CancelAsked, DurationExceeded, AttemptsLost, Unplaceable>;

// What must be done once the record is durable.

/// Tell the engine to start this rank's runner.
struct StartRank {
  RankKey key;
};
/// Every rank is connected: give this one its order, with all addresses. May be given again after a
/// reconnect.
struct SendOrder {
  RankKey key;
};
/// Every rank is ready: let this one through the barrier. May be given again after a reconnect.
struct SendGo {
  RankKey key;
};
/// Every earlier rank is dead for certain: rank 0 need not wait behind the fence any longer.
/// Harmless if it does not.
struct EndFenceWait {
  RankKey key;
};
/// Tell the rank's runner to end it: SIGTERM, `grace`, SIGKILL. The engine kills what does not
/// answer.
struct StopRank {
  RankKey key;
  Millis grace{0};
  std::string reason;
};
/// What the rank held is free again; its runner may clean up.
struct ReleaseRank {
  RankKey key;
};
/// Its runner has told all that it knows, and may exit, of which its engine then tells. What the
/// rank held is not free yet.
struct LetRunnerGo {
  RankKey key;
};
/// This runner is not, or no longer, the one: it must kill what it runs and leave.
struct DismissRunner {
  RankKey key;
  std::string nonce;
  std::string reason;
};

using Effect = std::variant<StartRank, SendOrder, SendGo, EndFenceWait, StopRank, ReleaseRank,
                            LetRunnerGo, DismissRunner>;

struct Step {
  bool changed = false;  ///< the record differs and must be written
  std::vector<Event> events;
  std::vector<Effect> effects;
};

/// A new job as it is accepted, with its first event.
[[nodiscard]] Job submit(JobId id, std::shared_ptr<const Request> request, WallTime now,
                         Step& step);

/// Applies `happening` to `job` in place. A happening of an older epoch changes nothing (its runner
/// is dismissed).
[[nodiscard]] Step apply(Job& job, const Happening& happening, WallTime now);

}  // namespace quad::job
