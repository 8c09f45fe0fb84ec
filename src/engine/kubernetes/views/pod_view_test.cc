#include "engine/kubernetes/views/pod_view.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

// As kube-apiserver 1.34 gives one of Quad's pods, shortened.
constexpr std::string_view kPod = R"({
  "apiVersion": "v1", "kind": "Pod",
  "metadata": {
    "name": "quad-1a2b3c4d-j17-e2-r0", "namespace": "jobs", "uid": "9d0a", "creationTimestamp": "2026-11-25T10:00:00Z",
    "labels": {"app.kubernetes.io/managed-by": "quad", "quad.io/server": "1a2b3c4d", "quad.io/job": "17",
               "quad.io/epoch": "2", "quad.io/rank": "0"}
  },
  "spec": {
    "nodeName": "gpu-07",
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
      {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-07"]}]}]}}},
    "initContainers": [{"name": "quad-install", "resources": {"requests": {"cpu": "8", "memory": "64Gi"}}}],
    "containers": [{"name": "rank", "resources": {
      "limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2", "rdma/hca": "1"},
      "requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2", "rdma/hca": "1"}}}]
  },
  "status": {
    "phase": "Running", "podIP": "10.42.7.21", "hostIP": "10.0.0.17", "startTime": "2026-11-25T10:00:01Z",
    "conditions": [{"type": "PodReadyToStartContainers", "status": "True"}, {"type": "Ready", "status": "True"},
                   {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-25T10:00:00Z"}],
    "initContainerStatuses": [{"name": "quad-install", "image": "quad:1", "restartCount": 0,
      "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": "2026-11-25T10:00:02Z", "finishedAt": "2026-11-25T10:00:03Z"}}}],
    "containerStatuses": [
      {"name": "a-sidecar", "image": "x", "state": {"running": {}}},
      {"name": "rank", "image": "docker.io/library/python:3.12", "ready": true, "restartCount": 0,
       "state": {"running": {"startedAt": "2026-11-25T10:00:04Z"}},
       "allocatedResourcesStatus": [{"name": "nvidia.com/gpu", "resources": [
         {"resourceID": "GPU-1", "health": "Healthy"}, {"resourceID": "GPU-2", "health": "Unhealthy"}]}]}]
  }
})";

TEST(PodView, TellsWhoseAPodIsAndWhatItDoes) {
  const PodView pod = *read_pod(object_of(kPod), "1a2b3c4d");
  EXPECT_EQ(pod.rank, (RankKey{JobId(17), Epoch(2), Rank(0)}));
  EXPECT_EQ(pod.node, "gpu-07");
  EXPECT_EQ(pod.wanted_node, "gpu-07");
  EXPECT_EQ(pod.phase, "Running");
  EXPECT_EQ(pod.address, "10.42.7.21");
  EXPECT_EQ(pod.requests, (pool::Resources{8'000, 64LL << 30U, 2}));
  EXPECT_EQ(pod.devices, (std::map<std::string, std::int64_t>{{"rdma/hca", 1}}));
  EXPECT_EQ(pod.memory_limit, 64LL << 30U);
  EXPECT_EQ(pod.started, *parse_rfc3339("2026-11-25T10:00:01Z"));
  EXPECT_EQ(pod.deleted, std::nullopt);
  ASSERT_NE(pod.rank_container(), nullptr);
  EXPECT_EQ(pod.rank_container()->name, "rank");  // though the kubelet sorts by name
  EXPECT_EQ(pod.rank_container()->state, ContainerView::State::kRunning);
  EXPECT_EQ(pod.rank_container()->unhealthy_devices, (std::vector<std::string>{"GPU-2"}));
  ASSERT_NE(pod.installer(), nullptr);
  EXPECT_EQ(pod.installer()->image, "quad:1");
  ASSERT_EQ(pod.init_containers.size(), 1U);
  EXPECT_EQ(pod.init_containers[0].state, ContainerView::State::kTerminated);
  EXPECT_FALSE(pod.finished());
}

TEST(PodView, IsNoRankOfAnotherServer) {
  EXPECT_EQ(read_pod(object_of(kPod), "another")->rank, std::nullopt);
}

struct Asking {
  std::string_view what;
  std::string_view spec;
  pool::Resources requests;
};

TEST(PodView, CountsWhatAPodAsksForAsKubeSchedulerDoes) {
  const Asking all[] = {
      {"containers add up",
       R"("containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}, {"resources": {"requests": {"cpu": "500m"}}}])",
       {1'500, 1LL << 30U, 0}},
      {"a limit alone is a request",
       R"("containers": [{"resources": {"limits": {"nvidia.com/gpu": "4", "memory": "2Gi"}}}])",
       {0, 2LL << 30U, 4}},
      {"the request counts, not the limit",
       R"("containers": [{"resources": {"limits": {"cpu": "8"}, "requests": {"cpu": "2"}}}])",
       {2'000, 0, 0}},
      {"the neediest init container, if it needs more",
       R"("initContainers": [{"resources": {"requests": {"cpu": "3"}}}, {"resources": {"requests": {"cpu": "2"}}}],
          "containers": [{"resources": {"requests": {"cpu": "1", "memory": "5"}}}])",
       {3'000, 5, 0}},
      {"a sidecar counts with the containers, and with the init containers after it",
       R"("initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "3"}}}],
          "containers": [{"resources": {"requests": {"cpu": "2"}}}])",
       {4'000, 0, 0}},
      {"sidecars before it",
       R"("initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                             {"restartPolicy": "Always", "resources": {"requests": {"cpu": "2"}}}],
          "containers": [{"resources": {"requests": {"cpu": "4"}}}])",
       {7'000, 0, 0}},
      {"the pod's own word",
       R"("resources": {"requests": {"cpu": "6"}}, "containers": [{"resources": {"requests": {"cpu": "1", "memory": "7"}}}])",
       {6'000, 7, 0}},
      {"its runtime's overhead",
       R"("overhead": {"cpu": "250m", "memory": "10"}, "containers": [{"resources": {"requests": {"cpu": "1"}}}])",
       {1'250, 10, 0}},
      {"nothing", R"("containers": [{}])", {}},
  };
  for (const Asking& one : all) {
    const auto pod = read_pod(
        object_of(fmt::format(R"({{"metadata": {{"name": "p"}}, "spec": {{{}}}}})", one.spec)),
        "s");
    ASSERT_TRUE(pod.ok());
    EXPECT_EQ(pod->requests, one.requests) << one.what << ": " << pod->requests.cpu_milli;
  }
}

TEST(PodView, BearsJsonOfAnyForm) {
  EXPECT_FALSE(read_pod(json::object(), "s").ok());
  const auto pod = read_pod(
      object_of(
          R"({"metadata": {"name": "p", "labels": 1}, "spec": {"containers": [1], "initContainers": {}},
    "status": {"phase": 7, "conditions": [null], "containerStatuses": [{"state": []}], "startTime": "soon"}})"),
      "s");
  ASSERT_TRUE(pod.ok());
  EXPECT_EQ(pod->containers.at(0).state, ContainerView::State::kUnknown);
}

}  // namespace
}  // namespace quad::kubernetes
