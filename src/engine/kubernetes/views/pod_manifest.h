// engine/kubernetes/views/pod_manifest.h
//
// The objects of an attempt, as they are sent to the API server (docs/kubernetes.md). A rank is one
// pod. The attempt's Secret is the root of all the others: they belong to it (ownerReferences), and
// it belongs to the server's own ConfigMap, so that nothing is left behind, even when Quad is gone.
// Every object has a name made from (server, job, epoch, rank): to send it twice is to send it
// once.
//
// Pure: the same request and settings give the same manifests.

#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

/// After stop_grace, for the runner to deliver what is left before the kubelet kills it.
inline constexpr Millis kDeliveryMargin{15'000};

/// What the runner is told (docs/runner-protocol.md): the rank's start.json.
json::object start_file(const PodRequest& request, const PodSettings& settings,
                        std::string_view token);

/// Where the ranks of this cluster find their hot tier; without one, a folder that is lost with the
/// pod.
std::string hot_folder(const std::optional<HotTier>& hot);

/// The rank's pod. `secret_uid` is that of the attempt's Secret. kInvalid or kDenied if the task
/// asks for what cannot be, with a sentence that names the key.
Result<json::object> pod_manifest(const PodRequest& request, const PodSettings& settings,
                                  std::string_view secret_uid);

/// What of any pod's spec says on which nodes it may be, before a task has said more: for
/// node_match.h.
json::object usual_spec(const PodSettings& settings);

/// What the task asks for that this cluster's settings do not give, each as (key, sentence).
std::vector<NamedText> pod_warnings(const PodRequest& request, const PodSettings& settings);

}  // namespace quad::kubernetes
