// runner/order.h
//
// What the server tells a rank to do, read from the messages `order` and `go`
// (docs/runner-protocol.md). Pure.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::runner {

struct Variable {
  std::string name;
  std::string value;
  bool operator==(const Variable&) const = default;
};

/// Something to bring to the rank before its setup.
struct Mount {
  enum class Kind { kBlob, kHttp, kGit };
  std::string dst;  ///< absolute, "~/…", or relative to the workdir
  Kind kind = Kind::kBlob;
  std::string blob;      ///< of kBlob: the hash
  bool is_file = false;  ///< of kBlob: dst is the one file inside, not a folder
  std::string url;       ///< of kHttp and kGit
  std::string ref;       ///< of kGit: a branch, tag or commit; empty: the default branch
};

struct CheckpointOrder {
  std::string job_dir;  ///< <hot>/<job>; empty: no checkpoints, no fence
  Millis fence_wait{0};
  Millis lease{
      0};  ///< of a strict fence: out of touch for so long, the rank stops itself; 0: never
  std::string path;       ///< the task's own path to watch; empty: <job_dir>/e<epoch>
  std::int64_t keep = 0;  ///< how many steps to keep; 0: all
  std::string marker;
};

struct Order {
  std::int32_t num_ranks = 1;
  std::vector<std::string> ips;
  std::string task_id;
  std::string task_ids;  ///< of a pipeline, one a line; empty: only task_id
  std::string user;
  std::string name;
  std::string cluster_info;  ///< JSON text
  std::string jobgroup;      ///< empty: none
  std::int64_t job_rank = 0;
  std::int64_t num_jobs = 1;
  std::int64_t num_gpus = 0;  ///< per node, rounded up
  std::string setup;
  std::string run;
  std::vector<Variable> envs;
  std::vector<Variable> secrets;
  std::vector<Mount> mounts;  ///< the workdir first, if there is one
  Millis stop_grace{30'000};
  bool stop_signal_to_all = false;  ///< else to the script first (rank_init.h)
  bool hold = false;  ///< it runs nothing of its own, but tasks that the server has started here
  CheckpointOrder checkpoint;
};

struct Go {
  std::vector<std::string> ips;
  std::string master_addr;
  std::int64_t master_port = 0;
  std::string resume_from;  ///< empty: there is nothing to resume from
  std::int64_t resume_step = -1;
};

/// kInvalid with the member's name when the order cannot be followed.
Result<Order> read_order(const json::object& message);
Go read_go(const json::object& message);

}  // namespace quad::runner
