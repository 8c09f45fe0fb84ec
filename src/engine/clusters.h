// engine/clusters.h
//
// Clusters as an engine, in front of the one that runs machines. A cluster is an allocation that is
// kept: the ranks of a holder job, each of which stands for a node of the cluster. What is placed
// on such a node is started by the holder's runner there, as a child of its own; every other order
// goes to the machines' engine.
//
// The node's name says which runner that is ("dev:0@17.1": node 0 of cluster dev, as held by
// attempt 1 of job 17), so nothing has to be remembered here, and what a holder that was given up
// still runs never takes room of the one that took its place. That such nodes exist, and that they
// are lost, is for control to say: it follows from the holder's record. What the holder's runner
// has running it tells when it connects, and what it is told meanwhile may be lost: control then
// sees what is missing, and says it again.
//
// Threads: as engine.h. The holders' functions are called on control's thread and must only hand
// over.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/engine.h"

namespace quad::engine {

struct ClusterNode {
  std::string cluster;
  RankKey holder;  ///< the rank that holds it
  bool operator==(const ClusterNode&) const = default;
};

NodeId cluster_node(std::string_view cluster, const RankKey& holder);
/// Nothing for any other node: no machine's name has an @.
std::optional<ClusterNode> parse_cluster_node(const NodeId& node);
/// The name of the engine that a cluster is, for jobs that ask for it: "cluster dev".
std::string cluster_engine(std::string_view cluster);

/// How the runner of a holder's rank is told.
struct Holders {
  std::function<void(const RankKey& holder, const StartOrder& order)> start;
  std::function<void(const RankKey& holder, const RankKey& task)> kill;
  std::function<void(const RankKey& holder, const RankKey& task)> forget;
};

std::unique_ptr<Engine> with_clusters(std::unique_ptr<Engine> machines, Holders holders);

}  // namespace quad::engine
