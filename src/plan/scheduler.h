// plan/scheduler.h
//
// The planner: which waiting job starts where, and why the others do not. A pure, incremental
// object owned by the control thread: told what changes, asked what to do; no clock and no I/O.
// Deterministic: the same calls give the same decisions, and ids break ties.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "job/job.h"
#include "pool/pool.h"

namespace quad::plan {

/// One narrowing step of the funnel: how many nodes are left after a condition.
struct FunnelStep {
  std::string condition;  ///< "nodes", "with H100", "healthy", "with 8 GPUs free"
  std::int64_t nodes = 0;
};

/// Why a job waits.
struct Why {
  std::int64_t position = 0;  ///< in the queue, from 1
  std::int64_t ahead = 0;     ///< jobs before it
  std::string message;        ///< the answer in a sentence
  std::string
      code;  ///< for programs: "waiting_for_resources", "behind_others", "no_node_fits", "breaker"
  std::vector<FunnelStep> funnel;
  bool impossible = false;  ///< no node could hold it even if everything were free
};

/// Start this job here: one holding for each rank, already taken in the pool given to decide().
struct Start {
  JobId job;
  Epoch epoch;
  std::int32_t shape = 0;
  std::vector<pool::Holding> holdings;
};

/// Whose turn it is among the users of one priority: whoever had theirs longest ago. Not recorded:
/// after a restart all begin alike.
class Turns {
 public:
  /// When the user's last turn was, as a number that grows; 0: never.
  [[nodiscard]] std::uint64_t of(const std::string& owner) const {
    const auto it = last_.find(owner);
    return it == last_.end() ? 0 : it->second;
  }
  void took(const std::string& owner) { last_[owner] = ++count_; }

 private:
  std::map<std::string, std::uint64_t> last_;
  std::uint64_t count_ = 0;
};

/// Who waits, in order, and why: an immutable value that readers share. Jobs of equal shape share
/// one answer.
struct Queue {
  std::vector<JobId> order;
  std::vector<std::uint32_t> group;  ///< of the job at the same place in `order`
  std::vector<Why> groups;           ///< position and ahead are filled in by why()
  Turns turns;                       ///< from which the order follows

  /// The answer for one job; nothing if it does not wait. O(jobs that wait).
  [[nodiscard]] std::optional<Why> why(JobId job) const;
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  /// A job waits for its next attempt (epoch + 1), or waits no longer.
  virtual void enqueue(const job::Job& job) = 0;
  virtual void remove(JobId job) = 0;
  /// One pass. Takes what it gives from `pool`. `frozen` (the breaker's text) starts nothing.
  virtual std::vector<Start> decide(pool::Pool& pool, const std::string& frozen) = 0;
  /// The queue as the last pass left it. O(jobs that wait) when something changed since it was last
  /// asked for.
  [[nodiscard]] virtual std::shared_ptr<const Queue> queue() = 0;
  [[nodiscard]] virtual std::size_t waiting() const = 0;
};

/// By priority; within one, first what lost its place, then the users in turn, each with their
/// earliest job, so that one user's waiting jobs hold up nobody for longer than one of them takes
/// to start. All-or-nothing gangs, first fit. A job that has to wait keeps the nodes that it could
/// use from those behind it, so that a large gang is not starved by small jobs; nodes that it
/// cannot use stay open to them.
std::unique_ptr<Scheduler> make_fifo(Turns turns = {});

}  // namespace quad::plan
