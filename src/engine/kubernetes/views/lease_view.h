// engine/kubernetes/views/lease_view.h
//
// A node's Lease (coordination.k8s.io/v1, namespace kube-node-lease): its kubelet renews it each 10
// seconds, and it is seen sooner than the node's Ready condition changes. Pure.

#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "base/time.h"

namespace quad::kubernetes {

inline constexpr std::string_view kLeaseNamespace = "kube-node-lease";

struct LeaseView {
  std::string node;
  std::string holder;
  /// By the node's own clock: only that it changed is evidence, not how old it is.
  std::optional<WallTime> renewed;
  std::int64_t duration_seconds = 40;
  bool operator==(const LeaseView&) const = default;
};

/// kInvalid if this is no Lease with a name.
Result<LeaseView> read_lease(const json::object& lease);

}  // namespace quad::kubernetes
