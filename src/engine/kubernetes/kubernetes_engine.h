// engine/kubernetes/kubernetes_engine.h
//
// How kubernetes.h keeps its promises. One thread owns all state; everything comes to it through an
// inbox: orders from control, changes from the watchers' threads, and what became of a write from
// the writers'. It blocks on nothing else.
//
// A rank's way: ordered -> (the attempt's Secret and Services are made, once) -> its pod is made ->
// seen in the watch -> ended -> reported. What is known of a rank is what the watch says of its
// pod; a write's answer only tells whether to try again. So a server that is killed at any moment
// finds every pod again, by its labels, and an order that is given again finds its pod made.
//
// Nothing is ordered unless the server's lease is held (server_lease.h). Whenever it was taken
// anew, at the start among others, the engine begins with what the cluster has then: it tells an
// inventory, and orders that it was given before are carried out after that.
//
// A refusal that may pass (a quota, an API server that is away) is tried again, with pauses of up
// to ten seconds, and told as the reason for the wait; one that will not is a failed start.
//
// API writes for a job of one rank: its Secret, its pod, the Secret's removal, with which the
// cluster's own garbage collection removes the pod.

#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "engine/kubernetes/client/watch.h"
#include "engine/kubernetes/kubernetes.h"
#include "engine/kubernetes/server_lease.h"
#include "engine/kubernetes/views/event_view.h"
#include "engine/kubernetes/views/lease_view.h"
#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/pod_end.h"
#include "engine/kubernetes/views/pod_view.h"
#include "engine/kubernetes/writers.h"

namespace quad::kubernetes {

/// What is kept of any pod of the cluster: what it takes of its node, and all of it if it is a rank
/// of this server's.
struct PodSeen {
  std::string node;
  pool::Resources uses;  ///< nothing once it has finished
  std::string version;   ///< of a rank's
  std::shared_ptr<const PodView> rank;
  bool operator==(const PodSeen& other) const {
    return node == other.node && uses == other.uses && version == other.version;
  }
};

/// A warning about something in Quad's namespace.
struct EventSeen {
  std::string about;  ///< "Pod/quad-…"
  std::string words;
  bool operator==(const EventSeen&) const = default;
};

class KubernetesEngine final : public engine::Engine {
 public:
  KubernetesEngine(KubernetesOptions options, std::shared_ptr<ApiServer> server,
                   std::shared_ptr<net::Cancel> cancel, const Clock& clock);
  ~KubernetesEngine() override;

  Result<std::vector<engine::Inventory>> begin(engine::Sink sink) override;
  [[nodiscard]] std::string engine_of(const NodeId& node) const override;
  void start(const engine::StartOrder& order) override;
  void kill(const RankKey& key, const NodeId& node, Millis grace) override;
  void forget(const RankKey& key, const NodeId& node) override;
  Status node_action(const NodeId& node, const std::string& verb) override;
  void end() override;

 private:
  using AttemptKey = std::pair<JobId, Epoch>;
  static constexpr Millis kLongestPause{10'000};  ///< between tries of a write

  // What comes in.
  struct Kill {
    RankKey key;
    NodeId node;
    Millis grace;
  };
  struct Forget {
    RankKey key;
  };
  struct AllPodsTold {};
  /// Of a write: nothing, or why it failed.
  struct RootMade {
    Result<std::string> uid;
    std::set<std::string> cordoned;  ///< as the budget for disruptions knows them
  };
  using Requests = std::shared_ptr<const std::vector<PodRequest>>;  ///< of each rank
  struct AttemptMade {
    AttemptKey attempt;
    Result<std::string> secret_uid;
    bool hopeless = false;
    Requests requests;
  };
  struct AttemptRemoved {
    AttemptKey attempt;
    Status status;
  };
  struct PodMade {
    RankKey key;
    Status status;
    bool hopeless = false;
  };
  struct PodRemoved {
    RankKey key;
    Result<Removal> removal;
  };
  struct NodeTainted {
    std::string node;
    bool tainted = false;
    Status status;
  };
  using Item =
      std::variant<engine::StartOrder, Kill, Forget, AllPodsTold, LeaseState, RootMade, AttemptMade,
                   AttemptRemoved, PodMade, PodRemoved, NodeTainted, Change<NodeView>,
                   Change<LeaseView>, Change<PodSeen>, Change<EventSeen>>;

  struct Node {
    std::optional<NodeView> view;
    pool::Resources used_by_others;
    Millis beat{10'000};
    std::optional<WallTime> renewed;  ///< as its lease says, by its own clock
    MonoTime heard;                   ///< when it was last seen to be renewed
    std::optional<pool::NodeSpec> told;
    std::optional<MonoTime> gone_at;  ///< when it was told to be removed from the cluster
    bool gone_for_good = false;       ///< that was told, too
    bool dead = false;                ///< told that it is off for certain
    bool tainting = false;            ///< a write of its taint is under way
    MonoTime next_taint;
    int taint_failures = 0;
    bool changed = true;
  };
  struct RankState {
    std::optional<engine::StartOrder> order;  ///< until its pod has been seen
    NodeId node;
    std::shared_ptr<const PodView> pod;
    bool making = false;    ///< a write is under way
    bool removing = false;  ///< likewise
    bool made = false;      ///< its pod was, though it may not have been seen yet
    bool to_kill = false;
    bool started = false;  ///< its container runs, or did
    bool told_end = false;
    bool told_taken = false;
    /// Its pod went without its node's doing; it has surely ended once the node's kubelet has lived
    /// on beyond this.
    std::optional<MonoTime> ended_by;
    bool forgotten = false;
    int failures = 0;
    MonoTime next_try;
    Millis waited{0};                ///< to start, while the cluster was seen
    std::optional<Millis> patience;  ///< its task's provision_timeout
    std::string reason;              ///< why it has not started, as it stands now
    MonoTime reason_since;
    std::string told;  ///< the last reason that was told
    MonoTime told_at;
  };
  struct Attempt {
    std::string secret_uid;  ///< empty until it is made
    Requests requests;       ///< from then on, while a pod is still to be made
    bool making = false;
    bool removing = false;
    bool removed = false;  ///< its Secret is; its pods follow
    int failures = 0;
    MonoTime next_try;
    std::map<Rank, RankState> ranks;
  };
  struct OtherPod {
    std::string node;
    pool::Resources uses;
  };

  void post(Item item);
  void run();

  // Orders.
  void take(engine::StartOrder& order);
  void take(const Kill& kill);
  void take(const Forget& forget);
  // Observations.
  void take(const AllPodsTold& told);
  void take(const LeaseState& lease);
  void take(Change<NodeView>& change);
  void take(const Change<LeaseView>& change);
  void take(const Change<PodSeen>& change);
  void take(const Change<EventSeen>& change);
  // Ends of writes.
  void take(const RootMade& made);
  void take(const AttemptMade& made);
  void take(const AttemptRemoved& removed);
  void take(const PodMade& made);
  void take(const PodRemoved& removed);
  void take(const NodeTainted& tainted);

  /// All pods are known, and the lease is held: the work begins, perhaps once more.
  void begin_work();
  /// Whether anything may be written now.
  [[nodiscard]] bool may_order() const { return synced_ && lease_->good(); }
  /// The ConfigMap of all that there is, and the budget for disruptions as it should be now.
  void make_root();
  [[nodiscard]] std::set<std::string> cordoned() const;
  /// What failed is tried again at once: the API server is back.
  void forget_pauses();
  void make_attempt(const AttemptKey& key, Attempt& attempt);
  void make_pod(const RankKey& key, RankState& rank, const Attempt& attempt);
  void fail_start(const RankKey& key, RankState& rank, const std::string& reason);
  void remove_pod(const RankKey& key, RankState& rank, std::int64_t grace);
  void remove_attempt(const AttemptKey& key, Attempt& attempt);
  void advance(const AttemptKey& key, Attempt& attempt);
  void drop_if_gone(const AttemptKey& key);
  void judge(const RankKey& key, RankState& rank, const PodView& pod, bool gone);
  void tell_end(const RankKey& key, RankState& rank, std::optional<job::RankEnd> end,
                std::string detail);
  /// When a kubelet that lives has ended a pod that was deleted behind its back.
  [[nodiscard]] MonoTime surely_ended(Millis grace) const;
  /// A reason is told when it has stood for a moment: most pass by themselves.
  void note_wait(RankState& rank, const std::string& reason);
  void tell_waits(const RankKey& key, RankState& rank, MonoTime now);
  /// Gives up a rank that has taken too long to start.
  void watch_start(const RankKey& key, RankState& rank, Millis passed);
  /// Tells that a node is off for certain, or back, and sees to its taint.
  void watch_death(const std::string& name, Node& node);
  void set_taint(const std::string& name, Node& node, bool tainted);
  void count_use(const std::string& node, const pool::Resources& uses, int sign);
  void tell_nodes();
  /// Ends that were doubtful are certain when there was time enough.
  void tell_certain_ends();
  void watch_the_watchers();
  void retry(Millis passed);
  [[nodiscard]] RankState* find(const RankKey& key);
  [[nodiscard]] Millis pause_after(int failures) const;
  /// Whether the node is one of those that Quad uses, or was; or ranks of ours are on it.
  [[nodiscard]] bool is_ours(const std::string& name, const Node& node) const;
  /// Why nothing of Quad should start on the node.
  [[nodiscard]] std::string closed(const NodeView& view) const;
  [[nodiscard]] Result<std::vector<PodRequest>> describe_all(const engine::StartOrder& order) const;

  KubernetesOptions options_;
  std::shared_ptr<ApiServer> server_;
  std::shared_ptr<net::Cancel> cancel_;
  const Clock& clock_;
  engine::Sink sink_;

  std::mutex mutex_;  ///< of the inbox
  std::condition_variable arrived_;
  std::deque<Item> inbox_;
  bool ending_ = false;

  // The engine's thread only, once it runs.
  bool pods_known_ = false;
  LeaseState lease_state_;
  bool synced_ = false;  ///< the work has begun
  bool root_made_ = false;
  bool root_making_ = false;
  MonoTime next_root_;
  int root_failures_ = 0;
  std::set<std::string> budgeted_;  ///< the nodes that ranks may be evicted from, as was made known
  std::vector<engine::StartOrder> early_;  ///< ordered before all pods were known
  std::vector<Kill> early_kills_;
  std::vector<Forget> early_forgets_;
  std::map<AttemptKey, Attempt> attempts_;
  std::deque<AttemptKey> erased_;  ///< the last that were removed, pods and all
  std::map<std::string, Node> nodes_;
  std::unordered_map<std::string, OtherPod> others_;  ///< by uid
  engine::EngineAway away_;                           ///< as it was told last
  std::optional<MonoTime> unsynced_since_;
  bool nodes_changed_ = false;
  json::object usual_spec_;  ///< of any pod: what says on which nodes it may be
  MonoTime looked_at_;       ///< when what waits for time to pass was last looked at

  std::unique_ptr<ServerLease> lease_;
  std::unique_ptr<Writers> writers_;
  std::unique_ptr<Watcher<NodeView>> node_watch_;
  std::unique_ptr<Watcher<LeaseView>> lease_watch_;
  std::unique_ptr<Watcher<PodSeen>> pod_watch_;
  std::unique_ptr<Watcher<EventSeen>> event_watch_;
  std::thread thread_;
};

}  // namespace quad::kubernetes
