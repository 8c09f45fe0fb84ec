// simulate/cluster.h
//
// A whole cluster in simulated time around the real control::Core: nodes, runners with their
// checkpoints and fences, a network that delays, repeats and loses, a server that crashes, a store
// that refuses. Everything random comes from one seed, so a seed replays a whole history.
// Single-threaded; a simulated minute of a busy cluster takes milliseconds.
//
// What may never happen (docs/design.md §6) is checked after every step of the server; the first
// violation is kept and ends the run.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "job/job.h"

namespace quad::simulate {

struct ClusterOptions {
  std::uint64_t seed = 1;
  int nodes = 4;
  int gpus_per_node = 8;
  /// Mean time between two faults of each kind; 0 turns the kind off.
  Millis node_power{0};     ///< a node is powered off, and returns later
  Millis node_freeze{0};    ///< a node stands still with everything on it, then goes on
  Millis runner_kill{0};    ///< a runner dies without a word
  Millis runner_hide{0};    ///< the engine says that a runner has ended, which it only does later
  Millis rank_kill{0};      ///< a rank's process dies of a signal from outside
  Millis server_crash{0};   ///< the server is killed and comes back
  Millis partition{0};      ///< a node loses the network to the server, both channels
  Millis store_refuses{0};  ///< the store takes no commit for a while
  Millis storage_stall{
      0};  ///< a node's way to the hot tier stalls: no fence, no checkpoint, for a while
  Millis clock_jump{0};         ///< wall time jumps, by up to a day either way
  Millis cancel{0};             ///< somebody cancels a job
  double message_repeated = 0;  ///< share of messages that arrive twice
};

/// What one simulated job does.
struct Workload {
  int ranks = 1;
  int gpus = 1;
  int steps = 20;            ///< of half a second each
  int checkpoint_every = 5;  ///< steps; 0: never
  int exit_code = 0;         ///< of rank 0 after its last step
  int priority = 0;
  bool strict_fence = false;
  int restarts_on_errors = 0;
};

/// How a job ended, with what the simulation itself knows of it.
struct Outcome {
  JobId id;
  job::Status status = job::Status::kPending;
  std::int32_t epochs = 0;
  std::int64_t steps_done = 0;
  bool cancelled = false;  ///< somebody asked for that, and was told that it is on record
};

class Cluster {
 public:
  explicit Cluster(ClusterOptions options);
  ~Cluster();

  /// Submits at the present simulated time.
  void submit(const Workload& workload);
  void cancel(JobId job);
  void fail_node(int index);
  void return_node(int index);
  void freeze_node(int index);
  void thaw_node(int index);
  void kill_runner(JobId job, int rank);
  void crash_server(Millis down_for);

  /// Lets `duration` go by; false as soon as an invariant is broken.
  bool run(Millis duration);
  /// No more faults, everything back; runs until every job has ended, at most `limit`. False if one
  /// has not.
  bool settle(Millis limit);

  [[nodiscard]] std::vector<Outcome> outcomes() const;
  /// The first broken invariant, with the time and the seed; empty while all hold.
  [[nodiscard]] const std::string& violation() const;
  /// A digest of every record and event, to compare two runs of one seed.
  [[nodiscard]] std::string digest() const;
  [[nodiscard]] std::string describe() const;

 private:
  struct World;
  std::unique_ptr<World> world_;
};

}  // namespace quad::simulate
