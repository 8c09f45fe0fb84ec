// engine/kubernetes/check_view.h
//
// What `quad check` says of a cluster: lines from what was seen there (cluster_check.h looks). Each
// is about one thing, and tells what to do where it is lacking. Pure; tested line by line.

#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/check.h"
#include "engine/kubernetes/client/kubeconfig.h"
#include "engine/kubernetes/permissions.h"
#include "engine/kubernetes/views/event_view.h"
#include "engine/kubernetes/views/lease_view.h"
#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

using engine::CheckLine;

/// A kind of what the configuration names, and all that there are of it; an error where they could
/// not be listed.
using Names = Result<std::set<std::string>>;

/// `version` is the body of /version.
CheckLine api_line(const Result<std::string>& version, const ClusterAccess& access);

struct Refused {
  const Permission* permission = nullptr;
  std::vector<std::string_view> verbs;
};
/// `refused` are those that the server has not got; `asked` is how many there are.
std::vector<CheckLine> permission_lines(const std::vector<Refused>& refused, std::size_t asked,
                                        std::string_view jobs_namespace);

/// A dry run of a rank's pod, of a `kind`: "pods", "GPU pods", …
CheckLine admission_line(std::string_view kind, const Status& answer,
                         std::string_view jobs_namespace);

/// Nodes that Quad may use, and their GPUs; what stands against the others.
std::vector<CheckLine> node_lines(const std::vector<NodeView>& nodes, const PodSettings& settings);
std::vector<CheckLine> gpu_lines(const std::vector<NodeView>& nodes);
std::vector<CheckLine> rdma_lines(const std::vector<NodeView>& nodes,
                                  const std::optional<RdmaSettings>& rdma,
                                  const Result<bool>& has_multus);

/// `claim` is the hot tier's, where it is one.
CheckLine hot_tier_line(const std::optional<HotTier>& hot, const Result<json::object>& claim,
                        std::string_view jobs_namespace);

/// `configured`: those that the configuration names; `fallback`: the one of volumes that name none.
std::vector<CheckLine> storage_lines(const Result<std::vector<json::object>>& classes,
                                     const std::vector<std::string>& configured,
                                     std::string_view fallback);

/// `on` has the images of each node, as it tells them; `failures` are events about pulls.
CheckLine image_line(std::string_view what, const std::string& image,
                     const std::map<std::string, std::set<std::string>>& on,
                     const std::vector<EventView>& failures);
/// The same image whichever way it is written: "python:3.12", "docker.io/library/python:3.12".
std::string full_image_name(std::string_view image);

/// Who measures. Names of the pods' own words for themselves: labels `app` and the like.
struct Programs {
  bool metrics_server = false;
  bool prometheus = false;
  bool dcgm_exporter = false;
  bool gpu_operator = false;
  bool dns = false;
};
/// What a pod is of these, by its labels.
void note_program(const json::object& pod, Programs& programs);
std::vector<CheckLine> metrics_lines(const Programs& programs, bool has_gpus);

/// `resolved`: whether a name of the cluster was found from here; absent where that says nothing.
CheckLine dns_line(const Programs& programs, const std::optional<bool>& resolved);

/// Whether this server gives the orders, by the lease of its id as it is at `now`; `holder` is what
/// it calls itself.
CheckLine orders_line(const LeaseView& lease, std::string_view holder, WallTime now,
                      std::string_view jobs_namespace);
/// "another server with the same records, on HOST, runs jobs in namespace 'research'".
std::string in_other_hands(std::string_view holder, std::string_view jobs_namespace);

/// Whether jobs have a namespace of their own. `own` is that of the server's pod, empty where it is
/// none; `elsewhere` counts pods that have the labels of this server's ranks in other namespaces.
std::vector<CheckLine> namespace_lines(std::string_view jobs_namespace, std::string_view own,
                                       const std::map<std::string, int>& elsewhere);

/// Where pods are told to find the server.
CheckLine server_line(std::string_view url);

}  // namespace quad::kubernetes
