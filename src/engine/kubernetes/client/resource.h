// engine/kubernetes/client/resource.h
//
// The kinds of objects that Quad reads and writes, and where the API serves them. Plain values, any
// thread.

#pragma once

#include <string>
#include <string_view>

namespace quad::kubernetes {

struct ResourceType {
  std::string_view group;  ///< empty for the core
  std::string_view version;
  std::string_view plural;
  std::string_view kind;
  bool namespaced = true;
};

inline constexpr ResourceType kPods{"", "v1", "pods", "Pod"};
inline constexpr ResourceType kNodes{"", "v1", "nodes", "Node", false};
inline constexpr ResourceType kNamespaces{"", "v1", "namespaces", "Namespace", false};
inline constexpr ResourceType kServices{"", "v1", "services", "Service"};
inline constexpr ResourceType kSecrets{"", "v1", "secrets", "Secret"};
inline constexpr ResourceType kConfigMaps{"", "v1", "configmaps", "ConfigMap"};
inline constexpr ResourceType kEvents{"", "v1", "events", "Event"};
inline constexpr ResourceType kServiceAccounts{"", "v1", "serviceaccounts", "ServiceAccount"};
inline constexpr ResourceType kResourceQuotas{"", "v1", "resourcequotas", "ResourceQuota"};
inline constexpr ResourceType kClaims{"", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"};
inline constexpr ResourceType kLeases{"coordination.k8s.io", "v1", "leases", "Lease"};
inline constexpr ResourceType kDisruptionBudgets{"policy", "v1", "poddisruptionbudgets",
                                                 "PodDisruptionBudget"};
inline constexpr ResourceType kStorageClasses{"storage.k8s.io", "v1", "storageclasses",
                                              "StorageClass", false};
inline constexpr ResourceType kRuntimeClasses{"node.k8s.io", "v1", "runtimeclasses", "RuntimeClass",
                                              false};
inline constexpr ResourceType kPriorityClasses{"scheduling.k8s.io", "v1", "priorityclasses",
                                               "PriorityClass", false};

/// One object, or one of its subresources ("status", "eviction", "binding", "log", …).
struct ObjectRef {
  ResourceType type;
  std::string name_space;  ///< ignored for a type without namespaces
  std::string name;
  std::string subresource;
};

/// "/api/v1/namespaces/train/pods"; "/api/v1/pods" for all namespaces if `name_space` is empty.
[[nodiscard]] std::string collection_path(const ResourceType& type, std::string_view name_space);
[[nodiscard]] std::string object_path(const ObjectRef& ref);
/// For messages: "pods 'train/j1-e1-r0'", "nodes 'n1'", "pods/eviction '…'".
[[nodiscard]] std::string describe(const ObjectRef& ref);

}  // namespace quad::kubernetes
