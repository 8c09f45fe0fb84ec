// engine/engine.h
//
// The seam to what runs machines: Kubernetes, Slurm, this machine, or a simulation. An engine only
// places runners and tells what it sees; the runner does the work (docs/design.md §3). Orders are
// idempotent by (job, epoch, rank): given twice, they are one.
//
// A server may have several engines; each node is of one, and so are all ranks of an attempt. An
// engine that cannot see its machines (an API server that does not answer) says so: then the
// silence of its nodes is no news of them, and what it has running counts as alive.
//
// Threads: control calls the methods from its own thread; none blocks for longer than a system
// call. Observations go to the sink from the engine's threads.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "job/job.h"
#include "pool/pool.h"

namespace quad::engine {

/// What an engine must know to place one runner.
struct StartOrder {
  RankKey key;
  pool::Holding holding;
  std::string token;  ///< of the attempt; reaches the runner by a file or secret, never by argv
  /// As it stands, its request with the body: for engines that place more than a process.
  std::shared_ptr<const job::Job> job;
};

/// A runner that the engine knew of before the server started.
struct Existing {
  RankKey key;
  bool alive = false;
  std::optional<job::RankEnd> result;  ///< what an ended one left behind
  NodeId node;
};

// What an engine sees.

/// A node exists, with this capacity. Also sent again when it changed.
struct NodeFound {
  pool::NodeSpec spec;
};
/// The engine's own channel to the node is alive, or was so long ago. Once in NodeSpec::beat or so
/// for each node.
struct NodeSeen {
  NodeId node;
  Millis ago{0};
};
/// The node is off, or the engine says that it is back. Where it may only be out of the engine's
/// hands it is not certain, and is told again when it is. One that is no longer among the engine's
/// nodes is forgotten once nothing of ours is there; should it come again, it is found anew.
struct NodeDown {
  NodeId node;
  std::string reason;
  bool certain = true;
  bool removed = false;
};
/// The engine says that it is back.
struct NodeBack {
  NodeId node;
};
/// A runner's process or pod has ended. `result` is what it left behind on disk, if it did. One
/// that is not confirmed, as its node had no part in it, is told again when it is.
struct RunnerEnded {
  RankKey key;
  std::optional<job::RankEnd> result;
  std::string detail;  ///< evidence: "its process was killed by signal 9"
};
/// Somebody past Quad is ending the rank, and has said why: told as soon as it is seen.
struct RankTaken {
  RankKey key;
  job::Taken taken;
};
/// The runner could not be started.
struct StartFailed {
  RankKey key;
  std::string reason;
  bool of_task = false;  ///< by what the task asks for, so that it would fail anywhere
};
/// The runner has not started yet, and why, in a sentence; told when the reason changes, and each
/// half minute while it stands: a start that nothing is told of is given up.
struct StartWaits {
  RankKey key;
  std::string reason;
};
/// What exists in an engine that could not tell so when it began.
struct Inventory {
  std::string engine;
  std::vector<Existing> existing;
  /// A runner that is not here has ended for certain.
  bool complete = true;
  std::optional<NodeId> node;  ///< only on this node; else on all
};
/// The engine does not see its machines at the moment, or sees them but may give no orders there,
/// or (with an empty reason) all is well again.
struct EngineAway {
  std::string engine;
  std::string reason;
  bool blind = true;
};

using Observation = std::variant<NodeFound, NodeSeen, NodeDown, NodeBack, RunnerEnded, RankTaken,
                                 StartFailed, StartWaits, Inventory, EngineAway>;
using Sink = std::function<void(Observation)>;

class Engine {
 public:
  virtual ~Engine() = default;
  /// Begins to observe, and tells what exists in each engine that can tell at once; of the others
  /// an Inventory is observed later. Called once, before any order.
  virtual Result<std::vector<Inventory>> begin(Sink sink) = 0;
  /// The name of the engine that a node is of, or would be if it existed. Any thread, any time.
  [[nodiscard]] virtual std::string engine_of(const NodeId& node) const = 0;
  virtual void start(const StartOrder& order) = 0;
  /// Kills the runner and everything it started, at once. Idempotent; RunnerEnded follows, also if
  /// the runner was not there any more: whoever asks had not heard of its end, or not that it is
  /// certain. (A node out of sight answers when it is back.) `grace` is what the runner had to end
  /// in when it was asked to: for engines to tell when one of which nothing is there has ended.
  virtual void kill(const RankKey& key, const NodeId& node, Millis grace) = 0;
  /// The rank's end is durable: what the engine keeps of it (folder, pod) may go.
  virtual void forget(const RankKey& key, const NodeId& node) = 0;
  /// `verb` is fail, return, freeze or thaw; kUnsupported where the engine cannot.
  virtual Status node_action(const NodeId& node, const std::string& verb) = 0;
  /// Stops observing. Runners live on.
  virtual void end() = 0;
};

}  // namespace quad::engine
