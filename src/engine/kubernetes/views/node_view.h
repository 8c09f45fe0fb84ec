// engine/kubernetes/views/node_view.h
//
// A Node of the API server as Quad needs it: what it has, which GPUs by the names that task files
// use, where it stands in the network, what its conditions and taints say. Pure; a few microseconds
// a node. What the JSON lacks is left at its default.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "pool/pool.h"

namespace quad::kubernetes {

struct Taint {
  std::string key;
  std::string value;
  std::string effect;  ///< NoSchedule, PreferNoSchedule or NoExecute
  std::optional<WallTime> added;
  bool operator==(const Taint&) const = default;
};

struct Condition {
  std::string type;    ///< Ready, MemoryPressure, …
  std::string status;  ///< True, False or Unknown
  std::string reason;
  std::string message;
  std::optional<WallTime> heartbeat;
  std::optional<WallTime> changed;
  bool operator==(const Condition&) const = default;
};

/// Where a node stands; what is not known is empty. From near to far.
struct Topology {
  std::string nvlink;  ///< the domain of a multi-node NVLink
  std::string leaf;    ///< the switch; the rack where switches are not known
  std::string rack;
  std::string spine;
  std::string zone;
  std::string region;
  bool operator==(const Topology&) const = default;
};

struct NodeView {
  std::string name;
  std::string uid;
  std::string address;          ///< InternalIP, else the host's name
  pool::Resources allocatable;  ///< what pods may have; whole GPUs
  std::int64_t disk_bytes = 0;  ///< ephemeral storage that pods may have
  std::int64_t pods = 0;        ///< how many it takes
  std::string gpu_model;        ///< "H100", "A100-MIG-1g.5gb", "T4-SHARED"; empty without GPUs
  std::string gpu_resource;     ///< "nvidia.com/gpu"; empty without GPUs
  /// Every other device that can be asked for by its resource's name: parts of GPUs
  /// (nvidia.com/mig-1g.5gb, nvidia.com/gpu.shared), RDMA devices, …
  std::map<std::string, std::int64_t> devices;
  std::map<std::string, std::string> labels;
  std::vector<Taint> taints;
  std::vector<Condition> conditions;
  bool unschedulable = false;  ///< cordoned
  bool deleting = false;
  Topology topology;
  std::string instance_type;
  std::string boot_id;  ///< changes when it reboots
  std::string kubelet_version;
  bool spot = false;  ///< may be reclaimed by its provider

  [[nodiscard]] const Condition* condition(std::string_view type) const;
  [[nodiscard]] bool ready() const;
  bool operator==(const NodeView&) const = default;
};

/// kInvalid if this is no Node with a name. `gpu_resources` are counted as whole GPUs, too.
Result<NodeView> read_node(const json::object& node,
                           const std::vector<std::string>& gpu_resources = {});

/// The pool's view, with what others' pods use there.
pool::NodeSpec node_spec(const NodeView& view, const pool::Resources& used_by_others);

/// Why nothing of Quad should start there, in a few words ("not ready: KubeletNotReady, container
/// runtime is down"); empty if nothing speaks against it.
std::string node_trouble(const NodeView& view);

inline constexpr std::string_view kOutOfServiceTaint = "node.kubernetes.io/out-of-service";
/// Of the taint where it is this program's.
inline constexpr std::string_view kOwnTaintValue = "quad";

/// Why the node is off for certain, by the word of its provider or of an administrator; empty if
/// nobody says so, or its kubelet answers all the same.
std::string node_death(const NodeView& view);

/// Whether a resource counts whole GPUs.
bool is_whole_gpu(std::string_view resource);

/// Whether it counts parts of GPUs, such as "nvidia.com/mig-1g.5gb".
bool is_gpu_part(std::string_view resource);
/// What a task calls such a part: "MIG-1g.5gb", "GPU-SHARED"; for others, the resource's own name.
std::string device_name(std::string_view resource);

/// A list of conditions, of a node or a pod.
std::vector<Condition> read_conditions(const json::object& status);
/// A time as Kubernetes writes it; nullopt if it is absent.
std::optional<WallTime> get_time(const json::object& object, std::string_view key);

}  // namespace quad::kubernetes
