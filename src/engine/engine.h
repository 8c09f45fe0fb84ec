// engine/engine.h
//
// The seam to what runs machines: Kubernetes, Slurm, this machine, or a simulation. An engine only
// places runners and tells what it sees; the runner does the work (docs/design.md §3). Orders are
// idempotent by (job, epoch, rank): given twice, they are one.
//
// Threads: control calls the methods from its own thread; none blocks for longer than a system
// call. Observations go to the sink from the engine's thread.

#pragma once

#include <functional>
#include <string>
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
};

// What an engine sees.

/// A node exists, with this capacity. Also sent again when it changed.
struct NodeFound {
  pool::NodeSpec spec;
};
/// The engine's own channel to the node is alive. Each second or so for each node.
struct NodeSeen {
  NodeId node;
};
/// The node is certainly off (confirmed), or the engine says that it is back.
struct NodeDown {
  NodeId node;
  std::string reason;
};
struct NodeBack {
  NodeId node;
};
/// A runner's process or pod has ended. `result` is what it left behind on disk, if it did.
struct RunnerEnded {
  RankKey key;
  std::optional<job::RankEnd> result;
  std::string detail;  ///< evidence: "its process was killed by signal 9"
};
/// The runner could not be started.
struct StartFailed {
  RankKey key;
  std::string reason;
};

using Observation = std::variant<NodeFound, NodeSeen, NodeDown, NodeBack, RunnerEnded, StartFailed>;
using Sink = std::function<void(Observation)>;

/// A runner that the engine knows of when the server starts.
struct Existing {
  RankKey key;
  bool alive = false;
  std::optional<job::RankEnd> result;  ///< what an ended one left behind
};

class Engine {
 public:
  virtual ~Engine() = default;
  /// The nodes and runners there are, then begins to observe. Called once, before any order.
  virtual Result<std::vector<Existing>> begin(Sink sink) = 0;
  virtual void start(const StartOrder& order) = 0;
  /// Kills the runner and everything it started, at once. Idempotent; RunnerEnded follows, also if
  /// the runner was not there any more: whoever asks had not heard of its end. (A node out of sight
  /// answers when it is back.)
  virtual void kill(const RankKey& key) = 0;
  /// The rank's end is durable: what the engine keeps of it (folder, pod) may go.
  virtual void forget(const RankKey& key) = 0;
  /// `verb` is fail, return, freeze or thaw; kUnsupported where the engine cannot.
  virtual Status node_action(const NodeId& node, const std::string& verb) = 0;
  /// Stops observing. Runners live on.
  virtual void end() = 0;
};

}  // namespace quad::engine
