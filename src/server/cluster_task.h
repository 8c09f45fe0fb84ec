// server/cluster_task.h
//
// What a task becomes that is to run on a cluster, and the job that is to hold the cluster's nodes.
// Tasks share a cluster as SkyPilot's do: each counts as half a CPU and its GPUs, whatever else it
// asks for, which must only fit; so a cluster is full when its GPUs are. Pure but for sealing; any
// thread.

#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "control/core.h"
#include "job/job.h"
#include "server/unhonoured.h"
#include "spec/task.h"

namespace quad::server {

/// The cluster that a submission names.
struct ClusterTarget {
  std::string name;
  bool exec = false;                       ///< neither mounts nor setup
  std::shared_ptr<const job::Job> holder;  ///< of one that is there; null: it is to be made
};

/// One alternative of the task's resources on a cluster that is there; nothing, and a finding, if
/// it does not fit. `alone`: there is no other alternative.
std::optional<job::Shape> shape_on(const ClusterTarget& cluster, const spec::Resources& resources,
                                   bool alone, Findings& findings);
/// Whether the cluster has as many nodes.
void check_nodes_of(const ClusterTarget& cluster, const spec::Task& task, Findings& findings);

/// What a rank of a task takes of a cluster's node that has been made for `whole`.
job::Shape share_of(const job::Shape& whole, const std::string& cluster);

/// The job that holds the nodes of a cluster made for `request`, whose shapes are still those of
/// machines. `pods`: the task's wishes for its pods, null without Kubernetes. `body`: what its own
/// body has of the task.
job::Request holder_of(const job::Request& request, const std::string& cluster,
                       const json::value& pods, json::object body, bool has_secrets,
                       const std::string& secret_key);

std::optional<control::Autostop> autostop_of(const spec::Task& task);

}  // namespace quad::server
