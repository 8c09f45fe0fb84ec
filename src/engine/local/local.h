// engine/local/local.h
//
// This machine as the cluster: runners are plain processes. It is one node with what was detected,
// or, for trying things out, several pretend nodes that share it, each with a loopback address and
// a power switch of its own. Pretend nodes each have all of the machine's CPUs and memory unless
// told otherwise: together they promise more than there is.
//
// Runners outlive the server, and a server that begins finds each of them exactly once, whenever
// its predecessor was killed (rank_folder.h says how). An order for a rank that was ever started is
// never a second start.
//
// Power of a pretend node, kept over restarts of the server:
//   fail    all its processes are killed with no goodbye, then NodeDown; no RunnerEnded. return:
//   NodeBack. freeze  all its processes stand still and the engine says nothing more about it:
//   neither NodeSeen nor ends; orders
//           to start or kill wait. thaw: waiting kills, then everything goes on, NodeBack, waiting
//           starts.
//
// Threads: the Engine's methods from one thread, control's; they hand the order over and return
// (node_action also writes a small file). Everything is done by the engine's own thread, from which
// observations come; begin() gives its own observations before it returns. Nothing is observed
// after end(). A start costs some hundred microseconds.

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace quad::engine {

struct LocalOptions {
  std::filesystem::path data_dir;
  std::filesystem::path hot;     ///< where checkpoints are kept; empty: hot in the data directory
  std::filesystem::path runner;  ///< the quad-runner program
  std::string server_url;  ///< where runners reach the server: "unix:/…", "http://…" or "https://…"
  std::string
      server_ca;  ///< PEM file of the authority of an https server; empty: the machine's own
  /// How many files a runner and its rank may open (the soft limit), where this process has raised
  /// its own; 0: as this process.
  std::uint64_t open_files = 0;
  int nodes = 0;                  ///< pretend nodes, local-1 and so on; 0: one real node
  std::string gpus;               ///< of each pretend node, such as "H100:8"; empty: none
  std::int64_t cpu_milli = 0;     ///< of each pretend node; 0: as the machine, at least 8 CPUs
  std::int64_t memory_bytes = 0;  ///< of each pretend node; 0: as the machine, at least 32 GiB
  std::uint64_t spool_bytes =
      1ULL << 30U;             ///< of output that each runner keeps for a server that is away
  std::int64_t processes = 0;  ///< of a rank, threads included; 0: as the machine can bear
  std::vector<std::string> environment;  ///< variables of this process's own that ranks get too
};

/// Detects the machine. kInvalid for options that make no sense, kNotFound if there is no runner
/// program.
Result<std::unique_ptr<Engine>> make_local(LocalOptions options);

}  // namespace quad::engine
