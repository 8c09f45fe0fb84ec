// job/job.h
//
// The records of a job: what was asked for (Request, immutable), and what became of it (Job, with
// one Attempt per epoch and one RankRecord per rank). Plain values. They are written to the store
// as JSON (job/record.h) and shown to readers as they are; only job/transition.h changes them.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "pool/pool.h"

namespace quad::job {

enum class Kind {
  kBatch,
  kSession,
  kService,
  kHolder,  ///< runs nothing of its own: its ranks hold the nodes of a cluster for other jobs
};

enum class Status {
  kPending,     ///< waits for a place
  kStarting,    ///< placed; its ranks prepare
  kRunning,     ///< every rank passed the gang barrier
  kRecovering,  ///< an attempt ended by no fault of the user's; the next one waits or prepares
  kCancelling,  ///< its ranks are being stopped
  kSucceeded,
  kFailed,
  kCancelled,
};
[[nodiscard]] bool is_terminal(Status status);

/// Why a job FAILED.
enum class Cause {
  kNone,
  kUser,   ///< its own exit code
  kSetup,  ///< its setup's exit code, or mounts that could not be brought
  kHardware,
  kPreempted,
  kLimit,       ///< time or memory limit
  kNoResource,  ///< no node can ever hold it
  kInternal,    ///< lost to the platform more often than allowed
};

/// Why an attempt ended.
enum class Verdict {
  kNone,
  kSuccess,
  kUser,
  kHardware,
  kPreempted,  ///< for work of higher priority
  kDrained,    ///< its node was being emptied, or shut down in good order
  kEvicted,    ///< its node ran short of something
  kDeleted,    ///< by somebody, past Quad
  kRefused,    ///< its node would not have it
  kPlatform,   ///< by something else that is not the user's
  kCancelled,
  kUnknown
};
inline constexpr std::size_t kVerdicts = 12;

std::string_view to_string(Kind kind);
std::string_view to_string(Status status);  ///< "PENDING", …
std::string_view to_string(Cause cause);    ///< "user", …
std::string_view to_string(Verdict verdict);
/// The cause of a job that FAILED because its last attempt ended so, and nothing more is known.
Cause cause_of(Verdict verdict);

/// One shape that would do for each rank of the job.
struct Shape {
  pool::Resources per_rank;
  std::string gpu_model;  ///< empty: any, or no GPUs
  std::string engine;     ///< empty: any; all ranks are on one in any case
  bool operator==(const Shape&) const = default;
};

struct RecoveryPolicy {
  std::int32_t max_restarts_on_errors = 0;
  std::vector<std::int32_t> recover_on_exit_codes;
  /// Recoveries in a row that brought no new valid checkpoint, after which the job fails.
  std::int32_t max_without_progress = 3;
  bool strict_fence = false;
};

/// What was asked for. Immutable once accepted; `body` is for the runner and the readers, and
/// opaque here.
struct Request {
  std::string name;
  std::string owner;
  /// The server's own user asked for it, over its socket: the one of that name, not somebody with a
  /// token who is called alike. nullopt: recorded before that was told apart.
  std::optional<bool> by_server_user;
  Kind kind = Kind::kBatch;
  std::string cluster;  ///< that it runs on, or, of a holder, whose nodes it holds; empty: none
  std::int32_t ranks = 1;
  std::vector<Shape> shapes;  ///< in order of preference; never empty
  std::int32_t priority = 0;  ///< higher first
  RecoveryPolicy recovery;
  std::vector<NodeId> exclude_nodes;
  Millis stop_grace{30'000};
  std::optional<Millis> max_duration;  ///< of running time, over all attempts
  std::string body;                    ///< JSON: task as written, script, mounts, sealed secrets
};

enum class RankPhase {
  kOrdered,    ///< the engine was told to start its runner
  kConnected,  ///< its runner said hello
  kSettingUp,  ///< mounts and setup
  kReady,      ///< waits at the gang barrier
  kRunning,    ///< user code
  kEnded,
};
std::string_view to_string(RankPhase phase);

/// How a rank ended.
struct RankEnd {
  enum class How {
    kExited,    ///< its process exited with `code`
    kSignaled,  ///< its process was killed by signal `code`
    kGone,      ///< its runner vanished and left no result
    kNodeLost,  ///< its node is lost
    kNeverRan,  ///< it was stopped, or failed, before user code
  };
  How how = How::kExited;
  std::int32_t code = 0;
  bool by_quad = false;  ///< Quad had sent the signal
  bool out_of_memory = false;
  bool in_setup = false;  ///< mounts or setup, before the barrier
  bool confirmed = true;  ///< the death is certain, so that no fence has to wait for it
  /// Why, where whoever ended it has said so: `detail` is in their words. Of the user, it was a
  /// limit. kNone: it is judged by the rest.
  Verdict verdict = Verdict::kNone;
  std::string detail;  ///< evidence, or what went wrong, in a sentence
  WallTime at;
};

std::string_view to_string(RankEnd::How how);

/// That a rank is being ended by somebody else than Quad or its own program, told before its end.
struct Taken {
  Verdict verdict = Verdict::kNone;
  std::string detail;  ///< as RankEnd's
  bool operator==(const Taken&) const = default;
};

struct RankRecord {
  pool::Holding holding;
  RankPhase phase = RankPhase::kOrdered;
  std::string nonce;      ///< of the runner that was accepted; empty before its hello
  std::string address;    ///< where other ranks reach it
  std::int32_t port = 0;  ///< a port that was free there: MASTER_PORT, from rank 0
  std::int32_t pid = 0;   ///< of its runner on the node, which everything of the rank descends from
  std::optional<Taken> taken;
  std::optional<RankEnd> end;
};

/// From where an attempt resumed; recorded when its rank 0 has chosen.
struct Resume {
  std::string path;  ///< empty: there was no valid checkpoint
  std::int64_t step = -1;
  std::string note;  ///< sentences on what was passed over and how it was brought
};

struct Attempt {
  Epoch epoch;
  std::vector<RankRecord> ranks;
  std::int32_t shape = 0;  ///< which of the request's shapes it was placed with
  WallTime placed_at;
  std::optional<WallTime> running_at;
  std::optional<WallTime> ended_at;
  Millis fence_wait{
      0};  ///< how long it waits behind the fence for old ranks that may still be alive
  Millis lease{
      0};  ///< of a strict job: after so long out of touch its ranks stop themselves; 0: never
  std::optional<Resume> resume;
  std::optional<std::int64_t> checkpoint_step;  ///< of the newest valid checkpoint it wrote
  bool wrote_checkpoint = false;
  bool stopping = false;  ///< its ranks have been told to end
  Verdict verdict = Verdict::kNone;
  std::string reason;  ///< the verdict in a sentence
};

struct Job {
  JobId id;
  std::shared_ptr<const Request> request;
  Status status = Status::kPending;
  Cause cause = Cause::kNone;
  std::string message;  ///< the last thing to tell the owner, in a sentence
  WallTime submitted_at;
  std::optional<WallTime> started_at;  ///< first RUNNING
  std::optional<WallTime> ended_at;
  std::int32_t recoveries = 0;  ///< by no fault of the user's
  std::int32_t recoveries_without_progress = 0;
  std::int32_t restarts_on_errors = 0;
  std::int32_t exit_code = 0;       ///< of the rank that decided; meaningful once terminal
  std::vector<NodeId> avoid_nodes;  ///< nodes that failed it
  std::string cancelled_by;         ///< who asked, while CANCELLING and after
  std::vector<Attempt> attempts;

  /// The attempt that has not ended, or null. Only the last can be live.
  [[nodiscard]] const Attempt* live() const;
  [[nodiscard]] Attempt* live();
  [[nodiscard]] Epoch epoch() const;  ///< of the last attempt; 0 before the first
};

/// Whether this runner was accepted for a rank of the live attempt and has not been given up: only
/// such a one has its lease renewed.
bool is_in_charge(const Job& job, const RankKey& key, std::string_view nonce);

/// Whether a rank's program may run, or come to run. One whose runner was never accepted has no
/// order, and will get none once it has ended, dead for certain or not.
bool may_still_act(const RankRecord& rank);

/// Whether nothing of the attempts before the last can act any more.
bool earlier_ranks_are_dead(const Job& job);

/// What SkyPilot calls the status: FAILED_SETUP, FAILED_NO_RESOURCE, … for scripts that look for
/// it.
std::string_view skypilot_status(const Job& job);

/// The first invariant that does not hold, as a sentence; empty when all do.
std::string check(const Job& job);

}  // namespace quad::job
