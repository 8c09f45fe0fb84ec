// control/clusters.h
//
// The records of clusters: allocations that are kept, for further jobs to run on. A cluster is a
// thin record above jobs: its nodes are held by a job of its own (job::Kind::kHolder), and what
// runs on it are ordinary jobs that name it. So all that a job has (places, recovery, logs, a
// story) a cluster has too, and the state of a cluster is read off its holder, never kept twice.
// Plain values and pure functions.
//
// The record says what is wanted of the cluster; control works towards that step by step, so a
// server that is killed on the way goes on where it was.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/json.h"
#include "base/result.h"
#include "base/time.h"
#include "job/job.h"

namespace quad::control {

/// When a cluster that nobody uses ends by itself.
struct Autostop {
  enum class WaitFor {
    kJobsAndSsh,  ///< while a job or a session is there, it is used
    kJobs,
    kNone,  ///< only the time counts, from when it was asked for
  };
  Millis idle{0};
  bool down = false;  ///< remove it, rather than stop it
  WaitFor wait_for = WaitFor::kJobsAndSsh;
  bool operator==(const Autostop&) const = default;
};
std::string_view to_string(Autostop::WaitFor wait_for);  ///< "jobs_and_ssh", …
std::optional<Autostop::WaitFor> wait_for_of(std::string_view text);
/// How long one may be: what is longer is never.
inline constexpr Millis kLongestIdle{std::int64_t{366} * 24 * 60 * 60 * 1000};

struct Cluster {
  enum class Wanted {
    kUp,
    kStopped,  ///< holds no nodes, but is known
    kGone,
  };
  std::string name;
  std::string owner;
  JobId holder;  ///< the job that holds its nodes, or was the last to
  Wanted wanted = Wanted::kUp;
  std::string wanted_by;  ///< who wants it so
  std::string reason;     ///< why it is not up, in a sentence; empty while that is wanted
  bool settled = true;    ///< what is wanted has been told and come about
  std::optional<Autostop> autostop;
  WallTime launched_at;
  WallTime used_at;  ///< from when on it is idle, if nothing uses it

  bool operator==(const Cluster&) const = default;
};

/// Under which the store keeps their records: this and the name.
inline constexpr std::string_view kClusterSetting = "cluster/";

using Clusters = std::map<std::string, Cluster>;

/// INIT, UP, STOPPING or STOPPED, in SkyPilot's words but for STOPPING. `holder` may be null.
std::string_view status_of(const Cluster& cluster, const job::Job* holder);

/// A letter, then letters, digits and - _ . with a letter or digit at the end: never a number,
/// which would be a job's. kInvalid says so.
Status check_cluster_name(std::string_view name);

json::object to_json(const Cluster& cluster);
Result<Cluster> cluster_from_json(const json::object& object);

}  // namespace quad::control
