// engine/kubernetes/kubernetes.h
//
// A Kubernetes cluster as an engine: one pod for each rank, made and removed through the API
// server, and what its watches tell of nodes, leases, pods and events as observations. It places
// and looks; it never decides. kubernetes_engine.h says how.
//
// When the API server does not answer, begin() succeeds all the same: the engine says that it is
// away, keeps its orders, and tells its inventory once it has seen the cluster.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/time.h"
#include "engine/engine.h"
#include "engine/kubernetes/client/client.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

/// How long a server's hold of a cluster lasts without being renewed, and how often it is, or is
/// looked at by one that waits for it.
struct LeaseTimes {
  Millis duration{15'000};
  Millis renew{5'000};
  Millis look{1'000};
};

struct KubernetesOptions {
  std::string name;  ///< of the engine
  ClusterAccess access;
  ApiOptions api;
  PodSettings settings;  ///< the root's uid is filled in once it is known
  int writers = 8;       ///< connections for writes
  /// This server, as no other calls itself that may have the same records: "HOST_…".
  std::string holder;
  LeaseTimes lease;
  /// After which a rank that has not started is given up there; nullopt: never.
  std::optional<Millis> provision_timeout;
  /// Whether to taint a node that is confirmed dead out of service.
  bool out_of_service_taint = false;
  /// What a rank's task asks of its pod; kInvalid if it cannot be. Called on the engine's thread.
  std::function<Result<PodRequest>(const engine::StartOrder&)> describe;
};

/// `clock` outlives the engine. Connects to nothing before begin().
Result<std::unique_ptr<engine::Engine>> make_kubernetes(KubernetesOptions options,
                                                        const Clock& clock);

}  // namespace quad::kubernetes
