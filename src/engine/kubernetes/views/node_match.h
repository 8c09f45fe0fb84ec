// engine/kubernetes/views/node_match.h
//
// Whether kube-scheduler would let a pod onto a node: its taints, the pod's node selector and its
// required node affinity. Quad asks this before it chooses a node, as it pins the pod there.
// Amounts are the pool's matter. Pure.

#pragma once

#include <string>

#include "base/json.h"
#include "engine/kubernetes/views/node_view.h"

namespace quad::kubernetes {

/// Whether the list of tolerations (as in a pod's spec) tolerates the taint.
bool tolerates(const json::array& tolerations, const Taint& taint);

/// Why the pod cannot run on the node ("has the taint team=a:NoSchedule, which the job does not
/// tolerate"), as the end of a sentence that begins with the node; empty if it can. `spec` is the
/// pod's, pinned or not. Taints that only say that the node is unwell are left to node_trouble().
std::string node_refusal(const json::object& spec, const NodeView& node);

}  // namespace quad::kubernetes
