// runner/environment.h
//
// The environment of a rank, exactly as SkyPilot gives it, plus MASTER_* and QUAD_*. Pure.
//
// It reaches user code in two ways. The process environment is what bash starts with: the runner's
// own, with the rank's HOME and what the platform says about the node. The runner's own is made by
// the engine for the job and nobody else: an image's in a pod, one by a list on the local engine
// (engine/local/environment.h). The exports are lines of the
// script, after ~/.bashrc and conda: first defaults that the task may replace, then the task's envs
// and secrets, then what only Quad may say. No name appears twice in the exports.

#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runner/order.h"
#include "runner/start.h"

namespace quad::runner {

/// The marks by which every process of a rank can be told from all others, even those of another
/// server's rank of the same number: QUAD_RANK_KEY=17-2-0 and
/// QUAD_RANK_FOLDER=/path/of/its/folder/.
inline constexpr std::string_view kRankKeyVariable = "QUAD_RANK_KEY";
inline constexpr std::string_view kRankFolderVariable = "QUAD_RANK_FOLDER";

/// Of a task on a cluster: the rank that it runs below, with which it dies.
inline constexpr std::string_view kHolderKeyVariable = "QUAD_HOLDER_KEY";

/// Where a rank's things are.
struct Places {
  std::filesystem::path folder;    ///< the runner's
  std::filesystem::path home;      ///< HOME; the workdir is home/sky_workdir
  std::filesystem::path progress;  ///< QUAD_PROGRESS
  std::string program;             ///< the runner's own, for launch_agent.h; empty: not known

  [[nodiscard]] std::filesystem::path brought() const { return folder / "brought"; }
  [[nodiscard]] std::filesystem::path hostfile() const { return folder / "hostfile"; }
};

/// "NAME=value" entries for execve. `inherited` are those of the runner's own process.
std::vector<std::string> process_environment(const std::vector<std::string>& inherited,
                                             const Start& start, const Order& order,
                                             const Places& places);

/// What the setup script exports, in order.
std::vector<Variable> setup_exports(const Start& start, const Order& order, const Places& places);

/// What the run script exports, in order.
std::vector<Variable> run_exports(const Start& start, const Order& order, const Go& go,
                                  const Places& places);

}  // namespace quad::runner
