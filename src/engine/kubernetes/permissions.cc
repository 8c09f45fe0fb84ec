#include "engine/kubernetes/permissions.h"

#include <fmt/format.h>

#include "engine/kubernetes/views/lease_view.h"

namespace quad::kubernetes {

const std::vector<Permission>& needed_permissions() {
  using Where = Permission::Where;
  static const std::vector<Permission> kAll = {
      {Where::kJobs, false, kPods, {"create", "get", "delete"}, "no rank can run"},
      {Where::kJobs, false, kSecrets, {"create", "get", "patch", "delete"}, "no rank can run"},
      {Where::kJobs, false, kServices, {"create", "patch"}, "ranks do not find each other"},
      {Where::kJobs, false, kClaims, {"create", "get", "patch"}, "gangs get no volume to share"},
      {Where::kJobs, false, kConfigMaps, {"create", "get"}, "no rank can run"},
      {Where::kJobs, false, kDisruptionBudgets, {"create", "patch"}, "drains evict ranks"},
      {Where::kJobs, false, kLeases, {"create", "get", "patch"}, "no rank can run"},
      {Where::kJobs, false, kEvents, {"list", "watch"}, "nobody is told why a pod does not start"},
      {Where::kNodeLeases, false, kLeases, {"list", "watch"}, "a lost node is noticed late"},
      {Where::kCluster, false, kNodes, {"list", "watch"}, "there is nothing to run on"},
      {Where::kCluster, false, kPods, {"list", "watch"}, "jobs are placed where there is no room"},
      {Where::kCluster, true, kNodes, {"get", "patch"}, "volumes of a dead node stay there"},
  };
  return kAll;
}

std::string_view place_of(Permission::Where where) {
  switch (where) {
    case Permission::Where::kJobs:
      return "the jobs' namespace";
    case Permission::Where::kNodeLeases:
      return kLeaseNamespace;
    case Permission::Where::kCluster:
      break;
  }
  return "the whole cluster";
}

std::string resource_name(const ResourceType& type) {
  return type.group.empty() ? std::string(type.plural)
                            : fmt::format("{}.{}", type.plural, type.group);
}

}  // namespace quad::kubernetes
