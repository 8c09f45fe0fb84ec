// runner/start.h
//
// start.json: what the engine tells a runner when it starts it (docs/runner-protocol.md). Blocks
// for one small file.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/account.h"
#include "base/ids.h"
#include "base/result.h"

namespace quad::runner {

struct Start {
  std::string server;  ///< "unix:/path", "http://host:port" or "https://host:port"
  std::string
      ca;  ///< a file of certificates that the server's must descend from; empty: the system's
  std::string token;
  RankKey key;
  std::string node;
  std::string address;  ///< where other ranks reach this one; empty: as the connection shows it
  std::vector<std::int32_t> gpus;  ///< indices on the node
  std::string gpu_env;  ///< the variable that hides the others; empty: the engine has done so
  std::int64_t cpu_milli = 0;
  std::vector<int> cpus;            ///< that the rank may run on; empty: all
  std::int64_t memory_bytes = 0;    ///< 0: no limit
  std::uint64_t processes = 0;      ///< threads included; 0: no limit
  std::string hot;                  ///< the hot tier; empty: none
  std::string home;                 ///< the rank's HOME; empty: `home` in the runner's folder
  std::string termination_message;  ///< the file that a pod's end is told in; empty: none
  std::uint64_t spool_bytes = 1ULL << 30U;
  std::string brought;  ///< the folder that knows what was brought to HOME; empty: FOLDER/brought
  std::string holder;   ///< of a task on a cluster: the key of the rank that it runs below
  /// Who the rank's processes run as, and who does the runner's work with their files. None:
  /// whoever the runner is.
  std::optional<Account> account;
  /// Folders of the server's of which the rank sees only its own part (rank_view.h): then its
  /// things are in FOLDER/rank and FOLDER/home, and FOLDER itself is the runner's. Empty: it sees
  /// all.
  std::vector<std::string> hidden;
  bool namespaces =
      true;  ///< false: the rank's processes stay in the namespaces that the runner is in
};

/// kNotFound if the folder has none, kInvalid with the member's name if it cannot be used.
Result<Start> read_start(const std::filesystem::path& folder);

/// The same from its text: pure.
Result<Start> parse_start(std::string_view text);

}  // namespace quad::runner
