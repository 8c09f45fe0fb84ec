// engine/kubernetes/views/merge.h
//
// How a pod_config is laid over a pod's manifest, by SkyPilot's rules: mappings are merged key by
// key; of `containers` and `imagePullSecrets` there is one, which is merged with the first of the
// base; lists that Kubernetes keys by a member (volumes, volumeMounts, env and initContainers by
// name, ports by containerPort, hostAliases by ip, …) are merged by that member; every other list
// (tolerations, args, …) is appended to; anything else is replaced. Pure; O(size of both).

#pragma once

#include <string>

#include "base/json.h"

namespace quad::kubernetes {

/// `config` without the members that are null, which say nothing: as the API server takes them, but
/// with no way to undo what Quad has set.
json::object without_nulls(const json::object& config);

/// Lays `over`, which has no nulls, on `base`. kInvalid, with the place below `path` as `where`, if
/// the two do not have the same form there; `base` is then half merged, and of no use.
Status merge_pod_config(json::object& base, const json::object& over, const std::string& path);

}  // namespace quad::kubernetes
