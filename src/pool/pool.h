// pool/pool.h
//
// What there is: nodes with their capacity and health, and which rank holds how much of which. A
// plain value owned by the control thread (the planner works on it, the simulator copies it); no
// I/O, no clock.
//
// Invariants, checked by check(): on every node, what ranks hold, what others use and what is free
// make the capacity, and no GPU is held by two ranks. What is free is negative only where the
// capacity shrank, or others came, below what ranks hold.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::pool {

/// An amount of what a node has. Fixed point: a thousand milli-CPUs are one CPU.
struct Resources {
  std::int64_t cpu_milli = 0;
  std::int64_t memory_bytes = 0;
  std::int32_t gpus = 0;  ///< whole devices
  /// All else that is counted, by name: parts of GPUs ("nvidia.com/mig-1g.5gb"), RDMA devices.
  /// None has the amount 0.
  std::map<std::string, std::int64_t> devices;
  bool operator==(const Resources&) const = default;

  /// Adds `more`, `times` over; less than 0 takes it away.
  void add(const Resources& more, std::int64_t times = 1);
};

/// One node as its engine describes it.
struct NodeSpec {
  NodeId id;
  std::string address;  ///< where its ranks are reached by other ranks
  Resources capacity;
  std::string gpu_model;         ///< canonical, such as "H100"; empty without GPUs
  bool pretend = false;          ///< a share of one machine that plays a node
  std::string engine = "local";  ///< that it is of
  bool only_gpus = false;        ///< ranks without a GPU, or a part of one, have no place there
  /// Why its engine wants nothing to start there ("cordoned"), in a few words; empty: it is open.
  std::string closed;
  Millis beat{1'000};  ///< how often its engine hears of it when all is well
  /// Of the capacity, what others than Quad's ranks use at present: not free, but it may be again,
  /// so a job that needs it is not impossible.
  Resources reserved;
  /// Only for jobs that name its engine: a node of somebody's cluster.
  bool by_name = false;
  bool operator==(const NodeSpec&) const = default;
};

enum class NodeHealth {
  kReady,    ///< work may start
  kSuspect,  ///< a channel has fallen silent: nothing new starts
  kLost,     ///< death confirmed or presumed
};
std::string_view to_string(NodeHealth health);

/// What a rank holds of its node.
struct Holding {
  NodeId node;
  Resources amount;
  std::vector<std::int32_t> gpu_indices;  ///< ascending
  bool operator==(const Holding&) const = default;
};

struct Node {
  NodeSpec spec;
  NodeHealth health = NodeHealth::kReady;
  bool drained = false;  ///< a person asked that nothing starts here
  std::string reason;    ///< why it is not ready, in a few words
  Resources free;
  std::vector<bool> gpu_used;
  std::map<RankKey, Holding> holdings;

  [[nodiscard]] bool schedulable() const {
    return health == NodeHealth::kReady && !drained && spec.closed.empty();
  }
};

class Pool {
 public:
  /// Adds a node, or changes its spec; what ranks hold there stays held, even past a smaller
  /// capacity.
  void put_node(const NodeSpec& spec);
  /// Removes a node that nobody holds anything of; false if somebody does.
  bool remove_node(const NodeId& id);
  [[nodiscard]] const std::map<NodeId, Node>& nodes() const { return nodes_; }
  [[nodiscard]] const Node* find(const NodeId& id) const;
  /// Who holds anything of the node, whether it is known or not. O(all that hold).
  [[nodiscard]] std::vector<RankKey> holders_on(const NodeId& id) const;
  void set_health(const NodeId& id, NodeHealth health, std::string reason);
  void set_drained(const NodeId& id, bool drained, std::string reason);

  /// Whether `amount` is free on the node now, whatever its health.
  [[nodiscard]] static bool fits(const Node& node, const Resources& amount);
  /// Gives `amount` to `key`, lowest free GPUs first. kExhausted if it does not fit, kExists if the
  /// key holds already.
  Result<Holding> hold(const RankKey& key, const NodeId& id, const Resources& amount);
  /// Restores a holding as recorded (after a restart). The node may be unknown: then it waits until
  /// it is put.
  void restore(const RankKey& key, const Holding& holding);
  /// Gives back what `key` holds; nothing if it holds nothing.
  void release(const RankKey& key);

  /// The first invariant that does not hold, as a sentence; empty when all do.
  [[nodiscard]] std::string check() const;

 private:
  std::map<NodeId, Node> nodes_;
  std::map<RankKey, Holding> homeless_;  ///< restored, but their node has not been put yet
  std::map<RankKey, NodeId> holders_;
};

}  // namespace quad::pool
