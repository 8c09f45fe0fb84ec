// engine/kubernetes/views/attempt_manifest.h
//
// What an attempt has in the cluster beside its pods (docs/kubernetes.md), and what the server has
// there once. The attempt's Secret is the root of the rest: all else belongs to it
// (ownerReferences), and it belongs to the server's own ConfigMap, so that nothing is left behind,
// even when Quad is gone. Names are made from (server, job, epoch): to send an object twice is to
// send it once. Pure.

#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "engine/kubernetes/views/lease_view.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

/// The attempt's Secret, from the request of any of its ranks and each rank's start.json.
/// kExhausted if that is more than a Secret holds.
Result<json::object> secret_manifest(const PodRequest& request, const PodSettings& settings,
                                     const std::vector<json::object>& start_files);

/// What else the attempt needs before its pods: the login to the image's registry, the headless
/// Service of a gang, the claims that its ranks share, the Service of its ports. In this order.
std::vector<json::object> attempt_manifests(const PodRequest& request, const PodSettings& settings,
                                            std::string_view secret_uid);

/// The ConfigMap that everything of this server belongs to.
json::object root_manifest(const PodSettings& settings);
/// Keeps ranks from being evicted, but from the nodes that are cordoned: who drains a node means
/// it. One for all ranks.
json::object disruption_budget_manifest(const PodSettings& settings,
                                        const std::set<std::string>& cordoned);
/// Of the Lease in the jobs' namespace by which servers with the same records tell which of them
/// gives the orders. It belongs to nobody: it is there before all else.
std::string server_lease_name(const PodSettings& settings);
/// That Lease as it is to be: to create it, or, with the version that is known, as a merge patch of
/// that version alone.
json::object server_lease_manifest(const PodSettings& settings, const LeaseView& lease,
                                   WallTime renewed);

// For the objects of an attempt, its pods among them.

std::string attempt_of(const PodRequest& request, const PodSettings& settings);
/// Of the Secret with the login to the image's registry.
std::string pull_secret_name(const PodRequest& request, const PodSettings& settings);
/// Name, namespace, the attempt's labels (without a rank), and the Secret as owner.
json::object attempt_metadata(const PodRequest& request, const PodSettings& settings,
                              std::string name, std::string_view secret_uid);

}  // namespace quad::kubernetes
