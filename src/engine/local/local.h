// engine/local/local.h
//
// This machine as the cluster: runners are plain processes. It is one node with what was detected, or, for trying
// things out, several pretend nodes that share it, each with a loopback address of its own and a power switch.
//
// Runners are started in sessions of their own and outlive the server; a new server finds them again by their command
// line, so an order given twice, or given before a crash and after it, is one start.
//
// Threads: the Engine's methods from the control thread; observations come from the engine's own thread. A start costs
// one vfork (under a millisecond).

#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/engine.h"

namespace quad::engine {

struct LocalOptions {
  std::filesystem::path data_dir;
  std::filesystem::path runner;    ///< the quad-runner program
  std::string server_url;          ///< where runners reach the server: "unix:/…" or "http://…"
  int nodes = 0;                   ///< pretend nodes; 0: one real node
  std::string gpus;                ///< of each pretend node, such as "H100:8"; empty: none
  std::int64_t cpu_milli = 0;      ///< of each pretend node; 0: as the machine, at least 8 CPUs
  std::int64_t memory_bytes = 0;   ///< of each pretend node; 0: as the machine, at least 64 GiB
};

/// kInvalid for options that make no sense, kNotFound if there is no runner program. Detects the machine.
Result<std::unique_ptr<Engine>> make_local(LocalOptions options);

}  // namespace quad::engine
