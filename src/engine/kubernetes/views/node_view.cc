#include "engine/kubernetes/views/node_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "engine/kubernetes/views/quantity.h"
#include "pool/gpu_names.h"

namespace quad::kubernetes {

namespace {

constexpr std::array kWholeGpus = {
    std::string_view("nvidia.com/gpu"),     std::string_view("amd.com/gpu"),
    std::string_view("gpu.intel.com/i915"), std::string_view("gpu.intel.com/xe"),
    std::string_view("habana.ai/gaudi"),
};

// Labels that name the GPU's model, the administrator's own word first. Those of providers come
// before GPU Feature Discovery's in SkyPilot, too; all of a node's labels name the same GPU.
constexpr std::array kModelLabels = {
    std::string_view("quad.io/gpu"),
    std::string_view("skypilot.co/accelerator"),
    std::string_view("cloud.google.com/gke-accelerator"),
    std::string_view("karpenter.k8s.aws/instance-gpu-name"),
    std::string_view("eks.amazonaws.com/instance-gpu-name"),
    std::string_view("karpenter.azure.com/sku-gpu-name"),
    std::string_view("nvidia.com/gpu.product"),
    std::string_view("gpu.nvidia.com/class"),
    std::string_view("gpu.nvidia.com/model"),
    std::string_view("amd.com/gpu.product-name"),
    std::string_view("beta.amd.com/gpu.product-name"),
    std::string_view("gpu.intel.com/product"),
    std::string_view("habana.ai/product"),
};

template <std::size_t count>
using Keys = std::array<std::string_view, count>;

constexpr Keys<3> kNvlinkLabels = {"quad.io/nvlink", "network.topology.nvidia.com/accelerator",
                                   "nvidia.com/gpu.clique"};
constexpr Keys<5> kLeafLabels = {
    "quad.io/leaf", "network.topology.nvidia.com/leaf", "network.topology.nvidia.com/tier-0",
    "network.topology.nvidia.com/block", "topology.kubernetes.io/leaf"};
constexpr Keys<2> kRackLabels = {"quad.io/rack", "topology.kubernetes.io/rack"};
constexpr Keys<4> kSpineLabels = {"quad.io/spine", "network.topology.nvidia.com/spine",
                                  "network.topology.nvidia.com/tier-1",
                                  "topology.kubernetes.io/spine"};
constexpr Keys<2> kZoneLabels = {"topology.kubernetes.io/zone",
                                 "failure-domain.beta.kubernetes.io/zone"};
constexpr Keys<2> kRegionLabels = {"topology.kubernetes.io/region",
                                   "failure-domain.beta.kubernetes.io/region"};
constexpr Keys<2> kInstanceLabels = {"node.kubernetes.io/instance-type",
                                     "beta.kubernetes.io/instance-type"};

struct Label {
  std::string_view key;
  std::string_view value;
};
constexpr std::array kSpotLabels = {
    Label{"quad.io/capacity", "spot"},
    Label{"cloud.google.com/gke-spot", "true"},
    Label{"cloud.google.com/gke-preemptible", "true"},
    Label{"karpenter.sh/capacity-type", "spot"},
    Label{"eks.amazonaws.com/capacityType", "SPOT"},
    Label{"kubernetes.azure.com/scalesetpriority", "spot"},
};

std::string label_of(const NodeView& node, std::string_view key) {
  const auto found = node.labels.find(std::string(key));
  return found == node.labels.end() ? std::string() : found->second;
}

template <std::size_t count>
std::string first_label(const NodeView& node, const Keys<count>& keys) {
  for (const std::string_view key : keys) {
    if (std::string value = label_of(node, key); !value.empty()) {
      return value;
    }
  }
  return {};
}

/// Without labels of any tool: what the resource's name says.
std::string_view model_of_resource(std::string_view resource) {
  return resource == "amd.com/gpu"           ? "AMD"
         : resource == "habana.ai/gaudi"     ? "GAUDI"
         : resource.starts_with("gpu.intel") ? "INTEL"
                                             : "NVIDIA";
}

/// "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb" is a part of an A100 and "Tesla-T4-SHARED" is lent to several
/// at once: whoever asks for the GPU must not get such a thing, so the name tells.
std::string model_of_label(std::string_view value) {
  constexpr std::string_view kMig = "-MIG-";
  constexpr std::string_view kShared = "-SHARED";
  const bool shared = value.ends_with(kShared);
  if (shared) {
    value.remove_suffix(kShared.size());
  }
  const std::size_t mig = value.find(kMig);
  std::string model = pool::canonical_gpu(value.substr(0, mig));
  if (mig != std::string_view::npos) {
    model += value.substr(mig);
  }
  return shared && !model.empty() ? model + std::string(kShared) : model;
}

std::string gpu_model(const NodeView& node) {
  for (const std::string_view key : kModelLabels) {
    if (const std::string value = label_of(node, key); !value.empty()) {
      if (std::string model = model_of_label(value); !model.empty()) {
        return model;
      }
    }
  }
  return std::string(model_of_resource(node.gpu_resource));
}

void read_allocatable(const json::object& list, const std::vector<std::string>& gpu_resources,
                      NodeView& node) {
  constexpr std::string_view kPlain[] = {"cpu", "memory", "ephemeral-storage", "pods"};
  node.allocatable.cpu_milli = milli_of(list, "cpu");
  node.allocatable.memory_bytes = units_of(list, "memory");
  node.disk_bytes = units_of(list, "ephemeral-storage");
  node.pods = units_of(list, "pods");
  for (const auto& [key, value] : list) {
    const std::string_view name = key;
    const std::int64_t amount = units_of(list, name);
    if (amount <= 0 || std::find(std::begin(kPlain), std::end(kPlain), name) != std::end(kPlain)) {
      continue;
    }
    const bool named =
        std::find(gpu_resources.begin(), gpu_resources.end(), name) != gpu_resources.end();
    // A node has one kind of GPU; one that claims several counts the first as such.
    if ((named || is_whole_gpu(name)) && node.gpu_resource.empty()) {
      node.gpu_resource = name;
      node.allocatable.gpus = static_cast<std::int32_t>(std::min<std::int64_t>(amount, 1'000'000));
    } else if (name.find('/') != std::string_view::npos) {
      node.devices[std::string(name)] = amount;  // what has no maker is memory by another name
    }
  }
}

void read_spec(const json::object& spec, NodeView& node) {
  node.unschedulable = get_bool(spec, "unschedulable");
  const json::array* taints = get_array(spec, "taints");
  for (std::size_t i = 0; taints != nullptr && i < taints->size(); ++i) {
    if (const json::object* taint = (*taints)[i].if_object()) {
      node.taints.push_back(
          {std::string(get_string(*taint, "key")), std::string(get_string(*taint, "value")),
           std::string(get_string(*taint, "effect")), get_time(*taint, "timeAdded")});
    }
  }
}

void read_status(const json::object& status, const std::vector<std::string>& gpu_resources,
                 NodeView& node) {
  if (const json::object* list = get_object(status, "allocatable")) {
    read_allocatable(*list, gpu_resources, node);
  }
  node.conditions = read_conditions(status);
  const json::array* addresses = get_array(status, "addresses");
  for (std::size_t i = 0; addresses != nullptr && i < addresses->size(); ++i) {
    const json::object* address = (*addresses)[i].if_object();
    if (address == nullptr) {
      continue;
    }
    const std::string_view type = get_string(*address, "type");
    // Of a node with two stacks the first InternalIP is the primary one.
    if (type == "InternalIP") {
      node.address = get_string(*address, "address");
      break;
    }
    if (type == "Hostname" && node.address.empty()) {
      node.address = get_string(*address, "address");
    }
  }
  if (const json::object* info = get_object(status, "nodeInfo")) {
    node.boot_id = get_string(*info, "bootID");
    node.kubelet_version = get_string(*info, "kubeletVersion");
  }
}

}  // namespace

const Condition* NodeView::condition(std::string_view type) const {
  const auto found = std::find_if(conditions.begin(), conditions.end(),
                                  [&](const Condition& one) { return one.type == type; });
  return found == conditions.end() ? nullptr : &*found;
}

bool NodeView::ready() const {
  const Condition* one = condition("Ready");
  return one != nullptr && one->status == "True";
}

bool is_whole_gpu(std::string_view resource) {
  return std::find(kWholeGpus.begin(), kWholeGpus.end(), resource) != kWholeGpus.end();
}

std::optional<WallTime> get_time(const json::object& object, std::string_view key) {
  const std::string_view text = get_string(object, key);
  if (text.empty()) {
    return std::nullopt;
  }
  const Result<WallTime> time = parse_rfc3339(text);
  return time.ok() ? std::optional(*time) : std::nullopt;
}

std::vector<Condition> read_conditions(const json::object& status) {
  std::vector<Condition> conditions;
  const json::array* list = get_array(status, "conditions");
  for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
    if (const json::object* one = (*list)[i].if_object()) {
      conditions.push_back(
          {std::string(get_string(*one, "type")), std::string(get_string(*one, "status")),
           std::string(get_string(*one, "reason")), std::string(get_string(*one, "message")),
           get_time(*one, "lastHeartbeatTime"), get_time(*one, "lastTransitionTime")});
    }
  }
  return conditions;
}

Result<NodeView> read_node(const json::object& object,
                           const std::vector<std::string>& gpu_resources) {
  const json::object* metadata = get_object(object, "metadata");
  const std::string_view name = metadata ? get_string(*metadata, "name") : std::string_view();
  if (name.empty()) {
    return error(ErrorCode::kInvalid, "This is no Node: it has no name");
  }
  NodeView node;
  node.name = name;
  node.uid = get_string(*metadata, "uid");
  node.deleting = metadata->contains("deletionTimestamp");
  if (const json::object* labels = get_object(*metadata, "labels")) {
    for (const auto& [key, value] : *labels) {
      if (value.is_string()) {
        node.labels[std::string(key)] = std::string(get_string(*labels, key));
      }
    }
  }
  if (const json::object* spec = get_object(object, "spec")) {
    read_spec(*spec, node);
  }
  if (const json::object* status = get_object(object, "status")) {
    read_status(*status, gpu_resources, node);
  }
  if (!node.gpu_resource.empty()) {
    node.gpu_model = gpu_model(node);
  }
  node.topology.nvlink = first_label(node, kNvlinkLabels);
  node.topology.rack = first_label(node, kRackLabels);
  node.topology.leaf = first_label(node, kLeafLabels);
  if (node.topology.leaf.empty()) {
    node.topology.leaf = node.topology.rack;
  }
  node.topology.spine = first_label(node, kSpineLabels);
  node.topology.zone = first_label(node, kZoneLabels);
  node.topology.region = first_label(node, kRegionLabels);
  node.instance_type = first_label(node, kInstanceLabels);
  node.spot = std::any_of(kSpotLabels.begin(), kSpotLabels.end(), [&](const Label& label) {
    return label_of(node, label.key) == label.value;
  });
  return node;
}

pool::NodeSpec node_spec(const NodeView& view, const pool::Resources& used_by_others) {
  pool::NodeSpec spec;
  spec.id = NodeId(view.name);
  spec.address = view.address;
  spec.capacity = view.allocatable;
  spec.capacity.devices = view.devices;
  spec.reserved = used_by_others;
  spec.gpu_model = view.gpu_model;
  return spec;
}

bool is_gpu_part(std::string_view resource) {
  return resource.starts_with("nvidia.com/mig-") || resource.starts_with("nvidia.com/gpu.") ||
         resource.starts_with("amd.com/gpu.") || resource.starts_with("amd.com/cpx_") ||
         resource.starts_with("amd.com/spx_");
}

std::string device_name(std::string_view resource) {
  constexpr std::string_view kMig = "nvidia.com/mig-";
  if (resource.starts_with(kMig)) {
    return "MIG-" + std::string(resource.substr(kMig.size()));
  }
  if (resource == "nvidia.com/gpu.shared") {
    return "GPU-SHARED";
  }
  return std::string(resource);
}

std::string node_death(const NodeView& view) {
  if (view.ready()) {
    return {};
  }
  for (const Taint& taint : view.taints) {
    if (taint.key == "node.cloudprovider.kubernetes.io/shutdown") {
      return "its provider says that it is shut down";
    }
    if (taint.key == kOutOfServiceTaint && taint.value != kOwnTaintValue) {
      return "an administrator has declared it out of service";
    }
  }
  return {};
}

std::string node_trouble(const NodeView& view) {
  if (view.deleting) {
    return "is being removed from the cluster";
  }
  const Condition* ready = view.condition("Ready");
  if (ready == nullptr) {
    return "has not reported yet";
  }
  if (ready->status == "Unknown") {
    return fmt::format("not heard from by Kubernetes ({})",
                       ready->reason.empty() ? "no reason given" : ready->reason);
  }
  if (ready->status != "True") {
    return fmt::format("not ready: {}{}{}", ready->reason, ready->message.empty() ? "" : ", ",
                       ready->message);
  }
  if (view.unschedulable) {
    return "cordoned";
  }
  for (const Condition& one : view.conditions) {
    if (one.type != "Ready" && one.status == "True" && one.type.ends_with("Pressure")) {
      return fmt::format("short of {}", one.type == "MemoryPressure" ? "memory"
                                        : one.type == "DiskPressure" ? "disk space"
                                                                     : "process ids");
    }
    if (one.type == "NetworkUnavailable" && one.status == "True") {
      return "its pod network is not set up";
    }
  }
  return {};
}

}  // namespace quad::kubernetes
