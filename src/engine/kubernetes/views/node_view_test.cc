#include "engine/kubernetes/views/node_view.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

// As kube-apiserver 1.34 gives a GPU node of RKE2, shortened.
constexpr std::string_view kNode = R"({
  "apiVersion": "v1", "kind": "Node",
  "metadata": {
    "name": "gpu-07", "uid": "6f1c0f5e-7d1a-4a4e-9d0a-0f3e7d7a1b11", "resourceVersion": "48291",
    "creationTimestamp": "2026-08-02T09:11:04Z",
    "labels": {
      "kubernetes.io/hostname": "gpu-07", "kubernetes.io/arch": "amd64",
      "node.kubernetes.io/instance-type": "rke2",
      "topology.kubernetes.io/zone": "hall-1", "topology.kubernetes.io/region": "campus",
      "quad.io/rack": "r1", "network.topology.nvidia.com/leaf": "sw-11",
      "network.topology.nvidia.com/spine": "sp-1",
      "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "8"
    }
  },
  "spec": {
    "podCIDR": "10.42.7.0/24", "providerID": "rke2://gpu-07",
    "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
               {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "timeAdded": "2026-11-25T10:00:00Z"}],
    "unschedulable": true
  },
  "status": {
    "capacity": {"cpu": "96", "memory": "1056614332Ki", "nvidia.com/gpu": "8", "pods": "110"},
    "allocatable": {"cpu": "95500m", "ephemeral-storage": "1700Gi", "hugepages-2Mi": "0",
                    "memory": "1040Gi", "nvidia.com/gpu": "8", "pods": "110",
                    "rdma/hca_shared_devices_a": "63"},
    "conditions": [
      {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory",
       "message": "kubelet has sufficient memory available",
       "lastHeartbeatTime": "2026-11-25T10:02:31Z", "lastTransitionTime": "2026-08-02T09:11:04Z"},
      {"type": "Ready", "status": "True", "reason": "KubeletReady",
       "message": "kubelet is posting ready status",
       "lastHeartbeatTime": "2026-11-25T10:02:31Z", "lastTransitionTime": "2026-08-02T09:12:00Z"}],
    "addresses": [{"type": "InternalIP", "address": "10.0.0.17"}, {"type": "InternalIP", "address": "fd00::17"},
                  {"type": "Hostname", "address": "gpu-07"}],
    "nodeInfo": {"bootID": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "kubeletVersion": "v1.34.4+rke2r1",
                 "operatingSystem": "linux", "architecture": "amd64"}
  }
})";

TEST(NodeView, TellsWhatANodeHas) {
  const NodeView node = *read_node(object_of(kNode));
  EXPECT_EQ(node.name, "gpu-07");
  EXPECT_EQ(node.uid, "6f1c0f5e-7d1a-4a4e-9d0a-0f3e7d7a1b11");
  EXPECT_EQ(node.address, "10.0.0.17");
  EXPECT_EQ(node.allocatable, (pool::Resources{95'500, 1040LL << 30U, 8}));
  EXPECT_EQ(node.disk_bytes, 1700LL << 30U);
  EXPECT_EQ(node.pods, 110);
  EXPECT_EQ(node.gpu_model, "H100");
  EXPECT_EQ(node.gpu_resource, "nvidia.com/gpu");
  EXPECT_EQ(node.devices, (std::map<std::string, std::int64_t>{{"rdma/hca_shared_devices_a", 63}}));
  EXPECT_EQ(node.topology, (Topology{"", "sw-11", "r1", "sp-1", "hall-1", "campus"}));
  EXPECT_EQ(node.instance_type, "rke2");
  EXPECT_EQ(node.boot_id, "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
  EXPECT_EQ(node.kubelet_version, "v1.34.4+rke2r1");
  ASSERT_EQ(node.taints.size(), 2U);
  EXPECT_EQ(node.taints[1].added, *parse_rfc3339("2026-11-25T10:00:00Z"));
  EXPECT_TRUE(node.unschedulable);
  EXPECT_TRUE(node.ready());
  EXPECT_EQ(node.condition("Ready")->heartbeat, *parse_rfc3339("2026-11-25T10:02:31Z"));
  EXPECT_EQ(node_trouble(node), "cordoned");
}

TEST(NodeView, IsANodeOfThePoolWithWhatOthersUse) {
  const pool::NodeSpec spec = node_spec(*read_node(object_of(kNode)), {1'500, 16LL << 30U, 2});
  EXPECT_EQ(spec.id, NodeId("gpu-07"));
  EXPECT_EQ(spec.capacity,
            (pool::Resources{95'500, 1040LL << 30U, 8, {{"rdma/hca_shared_devices_a", 63}}}));
  EXPECT_EQ(spec.reserved, (pool::Resources{1'500, 16LL << 30U, 2, {}}));
  EXPECT_EQ(spec.gpu_model, "H100");
}

struct Naming {
  std::string_view label;
  std::string_view value;
  std::string_view model;
};

TEST(NodeView, NamesGpusAsTaskFilesDo) {
  const Naming namings[] = {
      {"nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3", "H100"},
      {"nvidia.com/gpu.product", "NVIDIA-A100-SXM4-80GB", "A100-80GB"},
      {"nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB", "A100"},
      {"nvidia.com/gpu.product", "NVIDIA-GeForce-RTX-4090", "RTX4090"},
      {"nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "A100-MIG-1g.5gb"},
      {"nvidia.com/gpu.product", "Tesla-T4-SHARED", "T4-SHARED"},
      {"nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb-SHARED",
       "H100-MIG-1g.10gb-SHARED"},
      {"skypilot.co/accelerator", "a100-80gb", "A100-80GB"},
      {"skypilot.co/accelerator", "t4g", "T4g"},
      {"cloud.google.com/gke-accelerator", "nvidia-tesla-v100", "V100"},
      {"cloud.google.com/gke-accelerator", "nvidia-h100-80gb", "H100"},
      {"karpenter.k8s.aws/instance-gpu-name", "a10g", "A10G"},
      {"gpu.nvidia.com/class", "A100_NVLINK_80GB", "A100-80GB"},
      {"amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM", "MI300X"},
      {"quad.io/gpu", "L40S", "L40S"},
      {"unrelated", "x", "NVIDIA"},
  };
  for (const Naming& one : namings) {
    const json::object node{
        {"metadata", {{"name", "n"}, {"labels", json::object{{one.label, one.value}}}}},
        {"status", {{"allocatable", json::object{{"nvidia.com/gpu", "8"}}}}}};
    EXPECT_EQ(read_node(node)->gpu_model, one.model) << one.label << "=" << one.value;
  }
}

TEST(NodeView, TakesTheAdministratorsWordBeforeAnyOther) {
  const NodeView node = *read_node(object_of(R"({
    "metadata": {"name": "n", "labels": {"quad.io/gpu": "H100-NVL", "nvidia.com/gpu.product": "NVIDIA-H100-NVL"}},
    "status": {"allocatable": {"nvidia.com/gpu": "2"}}})"));
  EXPECT_EQ(node.gpu_model, "H100");  // canonical all the same
}

TEST(NodeView, CountsPartsOfGpusByTheirOwnNames) {
  const NodeView node = *read_node(object_of(R"({
    "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB", "nvidia.com/mig.strategy": "mixed"}},
    "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": "0", "nvidia.com/mig-1g.5gb": "7", "nvidia.com/mig-3g.20gb": "0"}}})"));
  EXPECT_EQ(node.allocatable.gpus, 0);
  EXPECT_EQ(node.gpu_model, "");
  EXPECT_EQ(node.devices, (std::map<std::string, std::int64_t>{{"nvidia.com/mig-1g.5gb", 7}}));
}

TEST(NodeView, CountsGpusOfTheSitesOwnResource) {
  const json::object node = object_of(
      R"({"metadata": {"name": "n"}, "status": {"allocatable": {"example.edu/npu": "4"}}})");
  EXPECT_EQ(read_node(node)->allocatable.gpus, 0);
  EXPECT_EQ(read_node(node, {"example.edu/npu"})->allocatable.gpus, 4);
  EXPECT_EQ(read_node(node, {"example.edu/npu"})->gpu_resource, "example.edu/npu");
}

TEST(NodeView, TakesTheRackForTheLeafWhereSwitchesAreNotKnown) {
  const NodeView node =
      *read_node(object_of(R"({"metadata": {"name": "n", "labels": {"quad.io/rack": "r2"}}})"));
  EXPECT_EQ(node.topology.leaf, "r2");
  EXPECT_EQ(node.topology.rack, "r2");
}

TEST(NodeView, KnowsNodesThatMayBeReclaimed) {
  const auto spot = [](std::string_view key, std::string_view value) {
    return read_node(
               json::object{{"metadata", {{"name", "n"}, {"labels", json::object{{key, value}}}}}})
        ->spot;
  };
  EXPECT_TRUE(spot("cloud.google.com/gke-spot", "true"));
  EXPECT_TRUE(spot("karpenter.sh/capacity-type", "spot"));
  EXPECT_TRUE(spot("quad.io/capacity", "spot"));
  EXPECT_FALSE(spot("karpenter.sh/capacity-type", "on-demand"));
}

struct Trouble {
  std::string_view node;
  std::string_view words;
};

TEST(NodeView, SaysWhyNothingShouldStartThere) {
  const Trouble troubles[] = {
      {R"("status": {"conditions": [{"type": "Ready", "status": "True"}]})", ""},
      {R"("status": {})", "has not reported yet"},
      {R"("status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
          "message": "Kubelet stopped posting node status."}]})",
       "not heard from by Kubernetes (NodeStatusUnknown)"},
      {R"("status": {"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady",
          "message": "container runtime is down"}]})",
       "not ready: KubeletNotReady, container runtime is down"},
      {R"("status": {"conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "True"}]})",
       "short of disk space"},
      {R"("status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}, {"type": "Ready", "status": "True"}]})",
       "its pod network is not set up"},
      {R"("spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]})",
       "cordoned"},
  };
  for (const Trouble& one : troubles) {
    const auto node =
        read_node(object_of(fmt::format(R"({{"metadata": {{"name": "n"}}, {}}})", one.node)));
    EXPECT_EQ(node_trouble(*node), one.words);
  }
  EXPECT_EQ(node_trouble(*read_node(object_of(
                R"({"metadata": {"name": "n", "deletionTimestamp": "2026-11-25T10:00:00Z"}})"))),
            "is being removed from the cluster");
}

TEST(NodeView, IsNothingWithoutAName) {
  EXPECT_FALSE(read_node(json::object()).ok());
  EXPECT_FALSE(read_node(object_of(R"({"metadata": {"name": 7}})")).ok());
}

TEST(NodeView, BearsJsonOfAnyForm) {
  const auto node = read_node(
      object_of(R"({"metadata": {"name": "n", "labels": ["x"]}, "spec": {"taints": [1, null]},
    "status": {"allocatable": {"cpu": {}, "nvidia.com/gpu": "many"}, "conditions": [7], "addresses": [null], "nodeInfo": 3}})"));
  ASSERT_TRUE(node.ok());
  EXPECT_EQ(node->allocatable, pool::Resources{});
}

TEST(NodeView, IsDeadOnlyWhenSomebodySaysSoAndItsKubeletDoesNotAnswer) {
  const auto death = [](std::string_view key, std::string_view value, std::string_view ready) {
    return node_death(*read_node(object_of(fmt::format(
        R"({{"metadata": {{"name": "n"}}, "spec": {{"taints": [{{"key": "{}", "value": "{}", "effect": "NoExecute"}}]}},
             "status": {{"conditions": [{{"type": "Ready", "status": "{}"}}]}}}})",
        key, value, ready))));
  };
  EXPECT_NE(death("node.cloudprovider.kubernetes.io/shutdown", "", "Unknown"), "");
  EXPECT_NE(death("node.kubernetes.io/out-of-service", "nodeshutdown", "Unknown"), "");
  EXPECT_EQ(death("node.kubernetes.io/out-of-service", kOwnTaintValue, "Unknown"), "")
      << "Quad's own taint is no evidence for Quad";
  EXPECT_EQ(death("node.cloudprovider.kubernetes.io/shutdown", "", "True"), "");
  EXPECT_EQ(death("node.kubernetes.io/unreachable", "", "Unknown"), "");
}

TEST(NodeView, NamesDevicesAsTaskFilesDo) {
  EXPECT_EQ(device_name("nvidia.com/mig-1g.5gb"), "MIG-1g.5gb");
  EXPECT_EQ(device_name("nvidia.com/gpu.shared"), "GPU-SHARED");
  EXPECT_EQ(device_name("rdma/hca"), "rdma/hca");
  EXPECT_FALSE(is_gpu_part("rdma/hca"));
}

}  // namespace
}  // namespace quad::kubernetes
