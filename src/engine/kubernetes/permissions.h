// engine/kubernetes/permissions.h
//
// All that the server asks of a cluster's API server, and so all that its service account may do:
// what docs/kubernetes.md lists ("What the server may do") and the Helm chart gives. Tests compare
// all three. Plain values, any thread.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/kubernetes/client/resource.h"

namespace quad::kubernetes {

struct Permission {
  enum class Where { kJobs, kNodeLeases, kCluster };  ///< kNodeLeases: in kLeaseNamespace
  Where where = Where::kJobs;
  bool with_taint = false;  ///< only with out_of_service_taint
  ResourceType type;
  std::vector<std::string_view> verbs;
  std::string_view why;  ///< what does not work without it, as the end of a sentence
};

const std::vector<Permission>& needed_permissions();

/// "the jobs' namespace", "kube-node-lease", "the whole cluster", as the documentation has it.
std::string_view place_of(Permission::Where where);
/// "poddisruptionbudgets.policy"
std::string resource_name(const ResourceType& type);

}  // namespace quad::kubernetes
