// control/control.h
//
// The loop that joins everything: one thread owns the jobs, the pool and the planner. It drains its
// inbox (requests, engine observations, runner reports, ticks), applies them, plans, writes one
// transaction for the whole batch, and only then answers and gives orders. Readers use immutable
// snapshots.
//
// Threads: submit() and the other askers may be called from any thread and never block; their
// callbacks are called on the control thread after the commit, so they must only hand over (post to
// an executor). snapshot() takes one short lock.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "control/core.h"

namespace quad::control {

class Control {
 public:
  /// Nothing runs before start(). The references must outlive the Control; they are used by its
  /// thread only.
  Control(Options options, store::Store& store, engine::Engine& engine,
          std::unique_ptr<plan::Scheduler> scheduler, const Clock& clock);
  ~Control();

  /// Loads the store, asks the engine what exists, reconciles, starts the thread.
  Status start(RunnerOrders orders);
  /// Commits what is in the inbox and stops the thread. Runners live on.
  void stop();

  [[nodiscard]] std::shared_ptr<const Snapshot> snapshot() const;
  /// What waits to be taken; any thread.
  [[nodiscard]] std::size_t inbox_length() const;
  /// Progress of the live ranks of a job; any thread.
  [[nodiscard]] std::vector<RankLive> live(JobId job) const;

  // Requests. `done` is called after the commit, on the control thread.
  void submit(std::vector<Submission> submissions, SubmitDone done);
  void cancel(JobId job, std::string by, Done done);
  void drain(NodeId node, bool drained, std::string by, Done done);
  void node_action(NodeId node, std::string verb, std::string by, Done done);
  /// Durable settings of the server's own, such as token hashes: key and value; empty value
  /// removes.
  void set_setting(std::string key, std::string value, job::Event event, Done done);
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> settings() const;  ///< any thread

  /// Puts an event on record that changes nothing else.
  void record(job::Event event, Done done);
  void change_cluster(ChangeCluster change);
  void change_sessions(SessionChange change);

  // Reports of runner sessions.
  void report(RunnerReport report);
  void report(HolderReport report);
  void heartbeat(const RankKey& key, RankLive live);
  void disconnected(const RankKey& key);

  /// Called on the control thread after each commit, with its events: wakes the streams. Set before
  /// start().
  void on_commit(CommitListener listener);

  /// The token by which the runners of an attempt prove themselves: JOB.EPOCH.MAC.
  [[nodiscard]] std::string attempt_token(JobId job, Epoch epoch) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quad::control
