// engine/kubernetes/views/lease_view.h
//
// Leases (coordination.k8s.io/v1). A node's, in the namespace kube-node-lease: its kubelet renews
// it each 10 seconds, and it is seen sooner than the node's Ready condition changes. And the
// server's own, by which two servers with the same records tell who of them gives the orders. Pure.

#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/time.h"

namespace quad::kubernetes {

inline constexpr std::string_view kLeaseNamespace = "kube-node-lease";

struct LeaseView {
  std::string node;     ///< its name, which is the node's
  std::string holder;   ///< empty: nobody
  std::string version;  ///< resourceVersion
  std::int64_t transitions = 0;
  /// By the holder's own clock: only that it changed is evidence, not how old it is.
  std::optional<WallTime> renewed;
  std::int64_t duration_seconds = 40;
  bool operator==(const LeaseView& other) const {
    return node == other.node && holder == other.holder && renewed == other.renewed &&
           duration_seconds == other.duration_seconds;
  }
};

/// kInvalid if this is no Lease with a name.
Result<LeaseView> read_lease(const json::object& lease);

}  // namespace quad::kubernetes
