// control/control.h
//
// The loop that joins everything: one thread owns the jobs, the pool and the planner. It drains its inbox (requests,
// engine observations, runner reports, ticks), applies them, plans, writes one transaction for the whole batch, and
// only then answers and gives orders. Readers use immutable snapshots.
//
// Threads: post(), submit() and the other askers may be called from any thread and never block; their callbacks are
// called on the control thread after the commit, so they must only hand over (post to an executor). snapshot() is
// wait-free for readers apart from one atomic load.

#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "engine/engine.h"
#include "job/event.h"
#include "job/job.h"
#include "job/transition.h"
#include "plan/scheduler.h"
#include "store/store.h"

namespace quad::control {

/// What a rank's runner last said of itself; not durable.
struct RankLive {
  Rank rank;
  bool connected = false;
  WallTime heard_at;
  std::int64_t step = -1;
  std::int64_t total = -1;
  json::object metrics;
  std::int64_t rss_bytes = 0;
  double cpu_percent = 0;
};

/// What readers see: one consistent state of everything, never changed once published. Held by shared_ptr for as long
/// as a reader needs it.
struct Snapshot {
  Revision revision;  ///< of the last event that is in it
  WallTime at;
  /// Jobs by id, in chunks that are shared between snapshots: copying a snapshot costs O(jobs / kChunk + changes).
  static constexpr std::size_t kChunk = 256;
  using Chunk = std::vector<std::shared_ptr<const job::Job>>;
  std::vector<std::shared_ptr<const Chunk>> chunks;  ///< job id i is at [(i-1) / kChunk][(i-1) % kChunk]
  pool::Pool pool;
  std::map<JobId, plan::Why> why;             ///< for each job that waits
  std::string breaker;                        ///< why nothing is started or killed; empty: all is well

  [[nodiscard]] std::shared_ptr<const job::Job> find(JobId id) const;
  [[nodiscard]] std::int64_t last_job() const;
};

/// What a runner reports over its connection (docs/runner-protocol.md), as the session hands it on.
struct RunnerReport {
  RankKey key;
  std::string nonce;
  job::Happening happening;      ///< RankHello, RankSettingUp, RankReady, RankEnded, ResumeChosen, CheckpointSeen, Noted
  std::function<void()> durable; ///< called on the control thread once it is committed (or recorded as ignored)
};

/// What control tells a runner's session; called on the control thread.
struct RunnerOrders {
  std::function<void(const RankKey&, std::shared_ptr<const job::Job>)> prepare;  ///< send the order
  std::function<void(const RankKey&, std::shared_ptr<const job::Job>)> go;
  std::function<void(const RankKey&, Millis grace, std::string reason)> stop;
  std::function<void(const RankKey&, std::string nonce, std::string reason)> leave;
  std::function<void(const RankKey&)> bye;
};

struct Options {
  Millis suspect_after{5'000};
  Millis node_lost_after{20'000};
  Millis fence_grace{5'000};
  std::size_t inbox_limit = 1'000'000;
  std::string attempt_key;  ///< secret from which the attempts' tokens are made
};

struct Submission {
  job::Request request;
  std::string client_key;
};

class Control {
 public:
  /// Nothing starts before run(). All are kept for as long as the Control lives.
  Control(Options options, store::Store& store, engine::Engine& engine,
          std::unique_ptr<plan::Scheduler> scheduler, const Clock& clock);
  ~Control();

  /// Loads the store, asks the engine what exists, reconciles, starts the thread.
  Status start(RunnerOrders orders);
  /// Commits what is in the inbox and stops the thread. Runners live on.
  void stop();

  [[nodiscard]] std::shared_ptr<const Snapshot> snapshot() const;
  /// Progress of the live ranks of a job; any thread.
  [[nodiscard]] std::vector<RankLive> live(JobId job) const;

  // Requests. `done` is called after the commit, on the control thread.
  using SubmitDone = std::function<void(Result<std::vector<JobId>>)>;
  void submit(std::vector<Submission> submissions, SubmitDone done);
  void cancel(JobId job, std::string by, std::function<void(Status)> done);
  void drain(NodeId node, bool drained, std::string by, std::function<void(Status)> done);
  void node_action(NodeId node, std::string verb, std::string by, std::function<void(Status)> done);
  /// Durable settings of the server's own, such as token hashes: key and value; empty value removes.
  void set_setting(std::string key, std::string value, job::Event event, std::function<void(Status)> done);
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> settings() const;  ///< any thread

  // Reports of runner sessions.
  void report(RunnerReport report);
  void heartbeat(const RankKey& key, RankLive live);
  void disconnected(const RankKey& key);

  /// Called on the control thread after each commit that wrote events, with their range: wakes the streams.
  void on_commit(std::function<void(std::shared_ptr<const Snapshot>, std::vector<job::Event>)> listener);

  /// The token by which the runners of an attempt prove themselves.
  [[nodiscard]] std::string attempt_token(JobId job, Epoch epoch) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quad::control
