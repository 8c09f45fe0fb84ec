// control/core.h
//
// The control loop without its thread: one step takes what arrived and the time, applies it to the
// jobs and the pool, plans, commits one batch, publishes a snapshot, and only then gives orders and
// answers. Deterministic: the same messages at the same times give the same records, which is how
// the simulation drives this very class. control.h puts a thread and an inbox around it.
//
// When the store refuses a commit (full disk), the batch is kept and tried again with the next
// steps; nothing is answered or ordered until it is durable, and new submissions are refused with
// the store's own words.
//
// Threads: step() and load() from one thread; snapshot() and the LiveTable from any.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "control/clusters.h"
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
  MonoTime heard;  ///< the same instant, for measuring silence
  std::int64_t step = -1;
  std::int64_t total = -1;
  WallTime step_at;              ///< when that step was told, by the runner's clock
  std::int64_t first_step = -1;  ///< told first on this connection: what a rate is counted from
  WallTime first_step_at;
  json::object metrics;
  std::int64_t rss_bytes = 0;
  double cpu_percent = 0;
};

/// What readers see: one consistent state of everything, never changed once published. Held by
/// shared_ptr for as long as a reader needs it.
struct Snapshot {
  Revision revision;  ///< of the last event that is in it
  WallTime at;
  /// Jobs by id, in chunks that are shared between snapshots: copying a snapshot costs O(jobs /
  /// kChunk + changes).
  static constexpr std::size_t kChunk = 256;
  using Chunk = std::vector<std::shared_ptr<const job::Job>>;
  std::vector<std::shared_ptr<const Chunk>>
      chunks;  ///< job id i is at [(i-1) / kChunk][(i-1) % kChunk], where a chunk reaches so far
  pool::Pool pool;
  std::shared_ptr<const plan::Queue>
      queue;            ///< who waits and why; at most 100 ms older than the rest
  std::string breaker;  ///< why nothing is started or killed; empty: all is well
  std::map<std::string, std::string> away;  ///< engines that give no orders at the moment: why
  std::shared_ptr<const Clusters> clusters = std::make_shared<Clusters>();

  [[nodiscard]] std::shared_ptr<const job::Job> find(JobId id) const;
  [[nodiscard]] std::int64_t last_job() const;
};

/// What a runner reports over its connection (docs/runner-protocol.md), as the session hands it on.
struct RunnerReport {
  RankKey key;
  std::string nonce;
  job::Happening happening;  ///< RankHello, RankSettingUp, RankReady, RankEnded, ResumeChosen,
                             ///< CheckpointSeen, CheckpointsGone, Noted
  std::function<void()>
      durable;  ///< called on the control thread once it is committed (or recorded as ignored)
};

/// What control tells a runner's session; called on the control thread.
struct RunnerOrders {
  std::function<void(const RankKey&, std::shared_ptr<const job::Job>)> order;
  std::function<void(const RankKey&, std::shared_ptr<const job::Job>)> go;
  std::function<void(const RankKey&)> end_fence_wait;
  std::function<void(const RankKey&, Millis grace, std::string reason)> stop;
  std::function<void(const RankKey&, std::string nonce, std::string reason)> leave;
  std::function<void(const RankKey&)> bye;
};

struct Options {
  Millis suspect_after{5'000};
  Millis node_lost_after{20'000};
  Millis strict_lease =
      job::kStrictLease;  ///< of ranks of jobs with a strict fence, from the next attempt on
  Millis start_timeout{120'000};  ///< from the order to its runner's hello
  std::size_t inbox_limit = 1'000'000;
  /// How many jobs of one user may wait or run; jobs that are there already stay.
  std::optional<std::int64_t> active_per_user;  ///< no bound without it
  std::string attempt_key;                      ///< secret from which the attempts' tokens are made
};

/// The cluster that a submission is to run on.
struct ClusterUse {
  std::string name;
  bool exec = false;      ///< only on one that is up or coming up
  bool by_admin = false;  ///< who may use anybody's
  /// The job to hold its nodes: for one that is not there, or that is stopped.
  std::optional<job::Request> holder;
  std::optional<Autostop> autostop;  ///< from now on
};

struct Submission {
  job::Request request;
  std::string client_key;
  std::optional<ClusterUse> cluster;
};

using CommitListener =
    std::function<void(std::shared_ptr<const Snapshot>, const std::vector<job::Event>&)>;

// What arrives.

using SubmitDone = std::function<void(Result<std::vector<JobId>>)>;
using Done = std::function<void(Status)>;

struct SubmitJobs {
  std::vector<Submission> submissions;
  SubmitDone done;
};
struct CancelJob {
  JobId job;
  std::string by;
  Done done;
};
struct DrainNode {
  NodeId node;
  bool drained = true;
  std::string by;
  Done done;
};
struct ActOnNode {
  NodeId node;
  std::string verb;
  std::string by;
  Done done;
};
struct ChangeSetting {
  std::string key;
  std::string value;
  job::Event event;
  Done done;
};
/// Something for the audit trail that changes nothing.
struct RecordEvent {
  job::Event event;
  Done done;
};

struct ChangeCluster {
  enum class Verb { kStop, kStart, kDown, kAutostop };
  std::string name;
  Verb verb = Verb::kStop;
  std::string by;
  bool by_admin = false;
  std::optional<job::Request> holder;  ///< to start it with
  std::optional<Autostop> autostop;    ///< of kAutostop; none: it stays up
  Done done;
};
/// What the runner of a cluster's node says of the tasks that it has running.
struct HolderReport {
  RankKey holder;
  std::string nonce;
  std::variant<std::vector<engine::Existing>, engine::RunnerEnded> what;
  std::function<void()> durable;  ///< as RunnerReport's
};

/// Somebody reaches into a rank of this job (+1), or does no more (-1). Not on record, as sessions
/// end with their server.
struct SessionChange {
  JobId job;
  int by = 1;
};

using Message =
    std::variant<SubmitJobs, CancelJob, DrainNode, ActOnNode, ChangeSetting, RecordEvent,
                 ChangeCluster, RunnerReport, HolderReport, SessionChange, engine::Observation>;

/// What the runners said last, outside the records: written by their sessions, read by everybody. A
/// lock, because both sides are many and a heartbeat must not wait for a commit.
class LiveTable {
 public:
  void heartbeat(const RankKey& key, RankLive live);
  void connected(const RankKey& key, Now now);
  void disconnected(const RankKey& key);
  void erase(const RankKey& key);
  /// Adds `gap` to every instant of hearing: the server itself was stopped for so long.
  void shift(Millis gap);
  [[nodiscard]] std::optional<RankLive> find(const RankKey& key) const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<RankKey, RankLive> ranks_;
};

class Core {
 public:
  Core(Options options, store::Store& store, engine::Engine& engine,
       std::unique_ptr<plan::Scheduler> scheduler, RunnerOrders orders, CommitListener listener);

  /// Loads the store and reconciles it with the runners that exist. Once, before the first step.
  /// What an engine without an inventory had running counts as alive until it is observed.
  Status load(const std::vector<engine::Inventory>& inventories, Now now);
  void step(std::vector<Message> messages, Now now);

  [[nodiscard]] std::shared_ptr<const Snapshot> snapshot() const;
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> settings() const;
  [[nodiscard]] LiveTable& live() { return live_; }
  [[nodiscard]] const LiveTable& live() const { return live_; }
  [[nodiscard]] std::string attempt_token(JobId job, Epoch epoch) const;
  /// The first invariant of jobs and pool that does not hold; empty when all do. O(everything): for
  /// tests.
  [[nodiscard]] std::string check() const;

 private:
  struct Silence {
    MonoTime engine_seen;
    std::optional<MonoTime> silent_since;  ///< when the engine's channel was first found silent
    bool holds_breaker = false;            ///< it opened the breaker, with others, and is not back
    bool down = false;                     ///< by its engine's word
    bool removed = false;                  ///< its engine has it no more
    bool found_away = false;  ///< suspect since it was found: that it is ready is no return
    MonoTime spared_until{};  ///< held the breaker when it closed: not given up before that
  };

  Status check_room_for(const SubmitJobs& message) const;
  void handle(SubmitJobs& message, Now now);
  void handle(CancelJob& message, Now now);
  void handle(DrainNode& message, Now now);
  void handle(ActOnNode& message, Now now);
  void handle(ChangeSetting& message, Now now);
  void handle(RecordEvent& message, Now now);
  void handle(const SessionChange& message, Now now);
  void handle(ChangeCluster& message, Now now);
  void handle(HolderReport& message, Now now);
  void handle(RunnerReport& message, Now now);
  void handle(engine::Observation& message, Now now);

  void observe(const engine::NodeFound& found, Now now);
  void observe(const engine::NodeSeen& seen, Now now);
  void observe(const engine::NodeDown& down, Now now);
  void observe(const engine::NodeBack& back, Now now);
  void observe(const engine::RunnerEnded& ended, Now now);
  void observe(const engine::RankTaken& taken, Now now);
  void observe(const engine::StartFailed& failed, Now now);
  void observe(const engine::StartWaits& waits, Now now);
  void observe(const engine::Inventory& inventory, Now now);
  void observe(const engine::EngineAway& away, Now now);
  /// Why nothing new starts on a node of this engine.
  static std::string why_away(const engine::EngineAway& away);

  /// Whether the end is one that its engine may explain, because the runner could not.
  [[nodiscard]] bool is_held(const RankKey& key, const job::RankEnded& ended) const;
  /// The end counts now. Nothing happens if none is held.
  void release_end(const RankKey& key, Now now);

  JobId accept(job::Request request, const std::string& client_key, Now now);
  /// Behind all that there are; numbers in between stay empty.
  void put(JobId id, std::shared_ptr<const job::Job> job);

  // Clusters (core_clusters.cc).
  Status use_cluster(ClusterUse& use, const std::string& owner, Now now);
  void start_cluster(Cluster& cluster, job::Request holder, const std::string& by, Now now);
  /// It is wanted stopped, or gone.
  void end_cluster(Cluster& cluster, Cluster::Wanted wanted, const std::string& by,
                   std::string reason, Now now);
  void load_clusters(Now now);
  /// A job that has to do with a cluster has changed.
  void touch_cluster(const job::Job& job);
  /// A machine that clusters may be on was drained, or takes work again.
  void touch_clusters();
  void settle_clusters(Now now);
  void settle_cluster(const std::string& name, Now now);
  void settle_holder(JobId id, bool loading, Now now);
  void watch_clusters(Now now);
  /// Whether somebody has a shell or the like on it. There are no such sessions yet.
  [[nodiscard]] bool has_sessions(const Cluster& cluster) const;
  void record_cluster(const Cluster& cluster);
  void record_cluster_event(const Cluster& cluster, std::string kind, std::string actor,
                            std::string message, Now now);

  [[nodiscard]] const job::Job* find(JobId id) const;
  /// The job, cloned at its first change in a step so that snapshots keep the old one. Null if
  /// there is none.
  job::Job* edit(JobId id);
  void apply(JobId id, const job::Happening& happening, Now now);
  /// What follows for queue, timers and pool after the job changed.
  void settle(const job::Job& job);
  void record_node_event(const NodeId& node, std::string kind, std::string actor,
                         std::string message, Now now);
  void lose_node(const NodeId& node, bool confirmed, const std::string& reason, Now now);
  /// Forgets the nodes that were removed and that no rank may still be on.
  void drop_removed_nodes(Now now);
  void set_setting(const std::string& key, const std::string& value);

  void tick(Now now);
  void watch_nodes(Now now);
  void watch_jobs(Now now);
  Millis running_time(const job::Job& job, Now now);
  void plan(Now now);
  /// Why nothing starts at all, if so.
  [[nodiscard]] const std::string& held_by() const {
    return breaker_.empty() ? no_room_ : breaker_;
  }
  bool commit();
  void publish(Now now);
  void publish_snapshot(Now now);
  void execute(const job::Effect& effect, Now now);
  [[nodiscard]] const job::RankRecord* find_rank(const RankKey& key) const;
  [[nodiscard]] Millis stop_grace_of(JobId id) const;
  /// The node that a rank was placed on; empty if there is no such rank.
  [[nodiscard]] NodeId node_of(const RankKey& key) const;
  void reconcile(const engine::Inventory& inventory, Now now);
  /// Gives out no number up to this one: jobs had them whose records are lost.
  void skip_to(JobId last);
  void learn_from(const RankKey& key, Now now);
  /// Ends attempts that were lost with records, and those that others run under their numbers.
  void take_back(const store::Loaded& loaded, const std::vector<engine::Inventory>& inventories,
                 Now now);
  void forget_again(const engine::Inventory& inventory);
  void take_up(Now now);

  Options options_;
  store::Store& store_;
  engine::Engine& engine_;
  std::unique_ptr<plan::Scheduler> scheduler_;
  RunnerOrders orders_;
  CommitListener listener_;

  std::vector<std::shared_ptr<Snapshot::Chunk>> chunks_;
  std::int64_t last_job_ = 0;
  Revision last_revision_;
  std::map<std::pair<std::string, std::string>, JobId> client_keys_;
  std::map<std::string, std::string> settings_;
  pool::Pool pool_;
  std::map<NodeId, Silence> silence_;
  std::map<std::string, engine::EngineAway> away_;  ///< engines that are, by name
  std::set<JobId> live_jobs_;                       ///< those with a live attempt
  std::map<std::string, std::set<JobId>> active_;   ///< by owner: those that have not ended
  Clusters clusters_;
  std::map<JobId, int> sessions_;                         ///< by job, where there are any
  std::map<std::string, std::set<JobId>> cluster_tasks_;  ///< by cluster: those that have not ended
  std::set<std::string> unsettled_clusters_;
  std::set<JobId> unsettled_holders_;
  std::set<std::string> up_;                        ///< clusters that were up when last looked at
  std::set<std::string> used_;                      ///< and those that had tasks then
  std::shared_ptr<const Clusters> shown_clusters_;  ///< as readers have them; null: they changed
  std::map<std::string, MonoTime> idle_since_;      ///< clusters that nobody uses
  /// How long a job with a time limit has run, over all attempts, on the monotonic clock: the time
  /// of day may jump.
  struct RunClock {
    Epoch epoch;
    Millis used{0};
    MonoTime at;  ///< up to when `used` counts
  };
  std::map<JobId, RunClock> run_clocks_;
  std::map<RankKey, MonoTime>
      kill_at_;  ///< when a stopped rank that has not ended is killed by the engine
  /// Ends of ranks that were told to end, not by Quad: their engine tells by whom, as soon as the
  /// runner is gone.
  struct HeldEnd {
    job::RankEnded ended;
    MonoTime until;
  };
  std::map<RankKey, HeldEnd> held_ends_;
  std::string breaker_;
  std::string no_room_;  ///< why nothing new starts although the nodes are there
  std::shared_ptr<const plan::Queue> queue_;  ///< as last published
  MonoTime queue_at_;
  std::optional<MonoTime> last_tick_;
  LiveTable live_;

  // What this step, and those before it that could not be committed, changed.
  std::map<JobId, std::string> new_jobs_;  ///< id -> client key
  std::set<JobId> changed_jobs_;
  std::vector<job::Event> events_;
  std::map<std::string, std::string> changed_settings_;
  std::vector<job::Effect> effects_;
  std::vector<std::function<void()>> answers_;
  std::set<std::size_t> cloned_chunks_;
  std::set<JobId> cloned_jobs_;
  bool pool_changed_ = true;
  std::optional<Error> store_failure_;

  /// Guards what other threads read: the published snapshot and a copy of the settings.
  mutable std::mutex published_mutex_;
  std::shared_ptr<const Snapshot> published_;
  std::vector<std::pair<std::string, std::string>> published_settings_;
};

}  // namespace quad::control
