// engine/local/rank_folder.h
//
// The folder of one rank on this machine, `<data>/nodes/<node>/<job>-<epoch>-<rank>/`, and the two
// records in it that the engine lives by:
//
//   start.json  what the runner is told (docs/runner-protocol.md); 0600
//   started     the engine's own: the boot, then the /proc stat line of the process that became the
//   runner. That
//               process writes it itself, just before it becomes the runner, while the engine holds
//               a lock on the file which it inherits. So at any instant, also after a crash of the
//               server, the file says one of three things: not started (no line, no lock), about to
//               start (no line, locked), started (a line).
//
// Called by the engine's thread, and at start. Each call is a few system calls on small files.

#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/ids.h"
#include "base/result.h"
#include "engine/local/process.h"
#include "job/job.h"

namespace quad::engine {

/// "17-2-0" back to a key; nullopt for anything else.
std::optional<RankKey> parse_rank_key(std::string_view name);

/// What start.json says.
struct StartFile {
  std::string server;
  std::string ca;
  std::string token;
  RankKey key;
  NodeId node;
  std::string address;
  std::vector<std::int32_t> gpus;
  std::string gpu_env;
  std::int64_t cpu_milli = 0;
  std::vector<int> cpus;  ///< that it may run on; empty: all
  std::int64_t memory_bytes = 0;
  std::string hot;
  std::uint64_t spool_bytes = 0;
  std::int64_t processes = 0;  ///< threads included; 0: no limit
};

/// Makes the folder (0700) and its start.json. Not synced: after a power cut there is no runner to
/// read it.
Status prepare_rank_folder(const std::filesystem::path& folder, const StartFile& start);

/// The CPUs that its start.json names; empty if that cannot be read either.
std::vector<int> read_cpus(const std::filesystem::path& folder);

/// What `started` says.
struct StartRecord {
  enum class State { kNotStarted, kStarting, kStarted };
  State state = State::kNotStarted;
  Process process;  ///< as it was then; of an earlier boot if !this_boot
  bool this_boot = false;
};

/// The control groups that the rank's runner has made, and removes unless it is killed.
std::vector<std::filesystem::path> read_control_groups(const std::filesystem::path& folder,
                                                       const RankKey& key);

/// kStarting lasts for microseconds: the caller asks again. kIo if the file is there but cannot be
/// read.
Result<StartRecord> read_start_record(const std::filesystem::path& folder,
                                      const std::string& boot_id);

/// The same from the open file, of which whoever calls holds the lock: never kStarting.
Result<StartRecord> read_start_record(const UniqueFd& file, const std::string& boot_id);

/// An empty `started`, locked, with the boot in its first line: for the process to add its line.
/// kExists if a runner was started here before, kUnavailable if one is being started.
Result<UniqueFd> create_start_record(const std::filesystem::path& folder,
                                     const std::string& boot_id);

/// The result that a runner left behind; nullopt if there is none, or none that can be trusted. An
/// error if it is there but cannot be read now.
Result<std::optional<job::RankEnd>> read_result(const std::filesystem::path& folder);

}  // namespace quad::engine
