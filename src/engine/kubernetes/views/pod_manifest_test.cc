#include "engine/kubernetes/views/pod_manifest.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/attempt_manifest.h"
#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/views/pod_view.h"
#include "engine/kubernetes/views/test_json.h"
#include "engine/kubernetes/views/test_request.h"

namespace quad::kubernetes {
namespace {

json::value pod_of(const PodRequest& one, const PodSettings& some = settings()) {
  Result<json::object> pod = pod_manifest(one, some, "secret-uid");
  EXPECT_TRUE(pod.ok()) << pod.error().message;
  return pod.ok() ? json::value(*pod) : json::value();
}

/// The item of a list whose `key` is `value`; null if there is none.
json::value item(const json::value& list, std::string_view key, std::string_view value) {
  const json::array* items = list.if_array();
  for (std::size_t i = 0; items != nullptr && i < items->size(); ++i) {
    if ((*items)[i].is_object() && get_string((*items)[i].get_object(), key) == value) {
      return (*items)[i];
    }
  }
  return {};
}

json::value variable(const json::value& pod, std::string_view name) {
  const json::value rank = item(at(pod, "/spec/containers"), "name", "rank");
  return at(item(at(rank, "/env"), "name", name), "/value");
}

// Reviewed as a whole: what a rank of a plain GPU job is.
TEST(PodManifest, OfARankOfAGangIsThis) {
  EXPECT_EQ(pod_of(request()), json::value(object_of(R"({
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
      "name": "quad-1a2b3c4d-j17-e2-r1",
      "namespace": "jobs",
      "labels": {
        "app.kubernetes.io/managed-by": "quad", "quad.io/server": "1a2b3c4d", "quad.io/job": "17", "quad.io/epoch": "2",
        "quad.io/rank": "1", "quad.io/name": "train", "quad.io/owner": "ana_example.edu",
        "quad.io/node": "gpu-07"
      },
      "ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "quad-1a2b3c4d-j17-e2", "uid": "secret-uid"}],
      "annotations": {
        "quad.io/job-name": "train", "quad.io/owner-name": "ana@example.edu",
        "kubectl.kubernetes.io/default-container": "rank",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"
      }
    },
    "spec": {
      "restartPolicy": "Never",
      "hostname": "train-17-r1",
      "subdomain": "quad-1a2b3c4d-j17-e2",
      "terminationGracePeriodSeconds": 45,
      "automountServiceAccountToken": false,
      "enableServiceLinks": false,
      "tolerations": [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
      ],
      "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
      "containers": [{
        "name": "quad-install",
        "image": "registry.example.edu/quad:0.1",
        "command": ["/usr/bin/quad-runner", "keep", "/quad"],
        "lifecycle": {"postStart": {"exec": {"command": ["/usr/bin/quad-runner", "installed", "/quad"]}}},
        "resources": {"requests": {"cpu": "0", "memory": "0"}},
        "volumeMounts": [{"name": "quad", "mountPath": "/quad"}, {"name": "quad-start", "mountPath": "/quad-start", "readOnly": true}],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError"
      }, {
        "name": "rank",
        "image": "nvcr.io/nvidia/pytorch:25.10-py3",
        "command": ["/quad/quad-runner", "/quad/rank"],
        "resources": {"requests": {"cpu": "8", "memory": "32G", "nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "2"}},
        "env": [
          {"name": "SKYPILOT_POD_NODE_TYPE", "value": "worker"}, {"name": "SKYPILOT_POD_CPU_CORE_LIMIT", "value": "8"},
          {"name": "SKYPILOT_POD_MEMORY_BYTES_LIMIT", "value": "32000000000"}
        ],
        "volumeMounts": [{"name": "quad", "mountPath": "/quad"}, {"name": "dshm", "mountPath": "/dev/shm"}],
        "terminationMessagePolicy": "FallbackToLogsOnError"
      }],
      "volumes": [
        {"name": "quad", "emptyDir": {}},
        {"name": "quad-start", "secret": {"secretName": "quad-1a2b3c4d-j17-e2", "defaultMode": 292,
                                          "items": [{"key": "start-1.json", "path": "start.json"}]}},
        {"name": "dshm", "emptyDir": {"medium": "Memory"}}
      ],
      "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-07"]}]}]}}}
    }
  })")));
}

TEST(PodManifest, IsReadBackAsTheRankThatItIs) {
  const auto view = read_pod(pod_of(request()).get_object(), "1a2b3c4d");
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->rank, request().key);
  EXPECT_EQ(view->wanted_node, "gpu-07");
  EXPECT_EQ(view->requests, request().amount);  // the installer asks for nothing
}

TEST(PodManifest, IsTheSameEachTime) {
  EXPECT_EQ(to_text(pod_of(request())), to_text(pod_of(request())));
}

TEST(PodManifest, OfACpuTaskHidesTheNodesGpus) {
  PodRequest one = request();
  one.ranks = 1;
  one.key.rank = Rank(0);
  one.amount = {500, 2'000'000'000, 0};
  one.image = "";
  const json::value pod = pod_of(one);
  EXPECT_EQ(variable(pod, "NVIDIA_VISIBLE_DEVICES"), "none");
  EXPECT_EQ(variable(pod, "SKYPILOT_POD_NODE_TYPE"), "head");
  EXPECT_EQ(at(pod, "/spec/containers/1/resources"),
            json::value(object_of(R"({"requests": {"cpu": "500m", "memory": "2G"}})")));
  EXPECT_EQ(at(pod, "/spec/containers/1/image"), "docker.io/library/python:3.12");
  EXPECT_TRUE(at(pod, "/spec/subdomain").is_null());
  EXPECT_EQ(at(pod, "/spec/tolerations").as_array().size(), 2U);
}

TEST(PodManifest, ShowsThePartsOfGpusThatAPodConfigAsksFor) {
  PodRequest one = request();
  one.amount.gpus = 0;
  one.pod_config = object_of(
      R"({"spec": {"tolerations": null,
                   "containers": [{"resources": {"limits": {"nvidia.com/mig-1g.5gb": 1}}}]}})");
  const json::value pod = pod_of(one);
  EXPECT_TRUE(variable(pod, "NVIDIA_VISIBLE_DEVICES").is_null());
  EXPECT_EQ(at(pod, "/spec/tolerations").as_array().size(), 2U);  // null undoes nothing
}

TEST(PodManifest, HasLimitsWhereTheyAreWanted) {
  PodSettings some = settings();
  some.limit_factor = 1.0;
  EXPECT_EQ(at(pod_of(request(), some), "/spec/containers/0/resources/limits"),
            json::value(object_of(R"({"cpu": "8", "memory": "32G", "nvidia.com/gpu": "2"})")));
  // All containers have the limits: the pod's class is Guaranteed.
  const json::value guaranteed = pod_of(request(), some);
  EXPECT_EQ(at(guaranteed, "/spec/containers").as_array().size(), 1U);
  EXPECT_EQ(at(guaranteed, "/spec/initContainers/0/command/1"), "install");
  EXPECT_EQ(at(guaranteed, "/spec/initContainers/0/resources/limits/memory"), "32G");
  PodRequest one = request();
  one.limit_factor = 1.5;
  EXPECT_EQ(at(pod_of(one, some), "/spec/containers/0/resources/limits/cpu"), "12");
  one.limit_factor = 0;  // set_pod_resource_limits: false
  EXPECT_TRUE(at(pod_of(one, some), "/spec/initContainers").is_null());
  EXPECT_EQ(at(pod_of(one, some), "/spec/containers/1/resources/limits"),
            json::value(object_of(R"({"nvidia.com/gpu": "2"})")));
}

TEST(PodManifest, RunsAsTheUserAndStaysSo) {
  PodRequest one = request();
  one.identity = Identity{5001, 500, {501, 502}, {}};
  one.pod_config = object_of(R"({"spec": {"initContainers": [{"name": "fetch", "image": "x"}]}})");
  const json::value pod = pod_of(one);
  EXPECT_EQ(
      at(pod, "/spec/securityContext"),
      json::value(object_of(
          R"({"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 5001, "runAsGroup": 500, "runAsNonRoot": true,
                                      "supplementalGroups": [501, 502]})")));
  EXPECT_EQ(at(pod, "/spec/containers/1/securityContext"),
            json::value(object_of(
                R"({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false})")));
  EXPECT_EQ(at(pod, "/spec/initContainers/0/securityContext"),
            json::value(object_of(
                R"({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})")));
  one.identity->fs_group = 500;
  EXPECT_EQ(at(pod_of(one), "/spec/securityContext/fsGroupChangePolicy"), "OnRootMismatch");
  EXPECT_EQ(at(pod_of(one), "/spec/volumes/1/secret/defaultMode"), json::value(0400));
  one.pod_config = object_of(R"({"spec": {"securityContext": {"runAsUser": 0}}})");
  EXPECT_FALSE(pod_manifest(one, settings(), "u").ok());
}

TEST(PodManifest, RunsAsItsOwnerWhereTheConfigurationSaysWhoThatIs) {
  PodSettings some = settings();
  some.identities["bob"] = Identity{5002, 500, {501}, {}};
  PodRequest one = request();
  EXPECT_TRUE(at(pod_of(one, some), "/spec/securityContext/runAsUser").is_null());
  one.owner = "bob";
  EXPECT_EQ(at(pod_of(one, some), "/spec/securityContext/runAsUser"), 5002);
  EXPECT_EQ(at(pod_of(one, some), "/spec/securityContext/supplementalGroups/0"), 501);
  one.pod_config = object_of(R"({"spec": {"securityContext": {"runAsUser": 5001}}})");
  EXPECT_FALSE(pod_manifest(one, some, "uid").ok());
}

TEST(PodManifest, LeavesAPrivilegedContainerAsTheAdministratorPermits) {
  PodSettings some = settings();
  some.permissions.pod_config = {"spec.initContainers.securityContext.privileged"};
  PodRequest one = request();
  one.identity = Identity{5001, 500, {}, {}};
  one.pod_config = object_of(
      R"({"spec": {"initContainers": [{"name": "a", "securityContext": {"privileged": true}},
                   {"name": "b", "securityContext": {"capabilities": {"drop": []}}}]}})");
  const json::value pod = pod_of(one, some);
  EXPECT_EQ(at(pod, "/spec/initContainers/0/securityContext"),
            json::value(object_of(R"({"privileged": true})")));
  EXPECT_EQ(at(pod, "/spec/initContainers/1/securityContext/capabilities/drop/0"), "ALL");
}

TEST(PodManifest, LaysTheAdministratorsConfigBelowTheTasks) {
  PodSettings some = settings();
  some.gpu_runtime_class = "b";
  some.pod_config = object_of(
      R"({"spec": {"runtimeClassName": "a", "schedulerName": "s", "containers": [{"env": [{"name": "X", "value": "1"}]}]}})");
  PodRequest one = request();
  one.pod_config = object_of(R"({"metadata": {"labels": {"team": "vision"}},
    "spec": {"runtimeClassName": "b", "volumes": [{"name": "dshm", "emptyDir": {"sizeLimit": "64Gi"}}],
             "containers": [{"name": "ray-node", "env": [{"name": "X", "value": "2"}], "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}]}})");
  const json::value pod = pod_of(one, some);
  EXPECT_EQ(at(pod, "/spec/runtimeClassName"), "b");
  EXPECT_EQ(at(pod, "/spec/schedulerName"), "s");
  EXPECT_EQ(variable(pod, "X"), "2");
  EXPECT_EQ(at(pod, "/spec/containers/1/name"), "rank");
  EXPECT_EQ(at(pod, "/spec/containers/1/securityContext/capabilities/add/0"), "IPC_LOCK");
  EXPECT_EQ(at(pod, "/metadata/labels/team"), "vision");
  EXPECT_EQ(at(item(at(pod, "/spec/volumes"), "name", "dshm"), "/emptyDir"),
            json::value(object_of(R"({"medium": "Memory", "sizeLimit": "64Gi"})")));
}

TEST(PodManifest, SaysWhoseConfigIsWrong) {
  PodRequest one = request();
  one.pod_config = object_of(R"({"spec": {"containers": [{"command": ["sh"]}]}})");
  EXPECT_EQ(pod_manifest(one, settings(), "u").error().where,
            "config.kubernetes.pod_config.spec.containers[0].command");
  PodSettings some = settings();
  some.pod_config = one.pod_config;
  EXPECT_EQ(pod_manifest(request(), some, "u").error().where,
            "kubernetes.pod_config.spec.containers[0].command");
}

TEST(PodManifest, PinsEveryTermOfTheTasksOwnAffinity) {
  PodRequest one = request();
  one.pod_config = object_of(
      R"({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]},
    {"matchExpressions": [{"key": "pool", "operator": "DoesNotExist"}]}]}},
    "podAntiAffinity": {}}}})");
  const json::value terms = at(pod_of(one),
                               "/spec/affinity/nodeAffinity/"
                               "requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
  ASSERT_EQ(terms.as_array().size(), 2U);
  for (const json::value& term : terms.as_array()) {
    EXPECT_EQ(at(term, "/matchFields/0/values/0"), "gpu-07");
    EXPECT_EQ(at(term, "/matchExpressions/0/key"), "pool");
  }
}

TEST(PodManifest, CarriesLabelsAndMetadataOfTheTask) {
  PodRequest one = request();
  one.labels = {{"project", "p1"}};
  one.custom_metadata = object_of(R"({"labels": {"cost": "c1"}, "annotations": {"note": "n1"}})");
  const json::value pod = pod_of(one);
  EXPECT_EQ(at(pod, "/metadata/labels/project"), "p1");
  EXPECT_EQ(at(pod, "/metadata/labels/cost"), "c1");
  EXPECT_EQ(at(pod, "/metadata/annotations/note"), "n1");
  EXPECT_EQ(rank_of_labels(at(pod, "/metadata/labels").as_object(), "1a2b3c4d"), one.key);
  one.labels = {{"quad.io/job", "18"}};
  EXPECT_EQ(
      pod_manifest(one, settings(), "u").error().message,
      "resources.labels: 'quad.io/job' begins with quad.io/, which is kept for Quad's own labels.");
}

TEST(PodManifest, HasRdmaForTheBestNetwork) {
  PodSettings some = settings();
  some.rdma = RdmaSettings{{{"rdma/hca_shared_devices_a", 1}},
                           "train/rail0,train/rail1",
                           true,
                           {{"NCCL_IB_HCA", "^mlx5_bond"}, {"NCCL_SOCKET_IFNAME", "eth1"}}};
  EXPECT_TRUE(at(pod_of(request(), some), "/spec/containers/1/securityContext").is_null());
  PodRequest one = request();
  one.best_network = true;
  one.env = {{"NCCL_CROSS_NIC", "1"}};
  const json::value pod = pod_of(one, some);
  EXPECT_EQ(at(pod, "/spec/containers/1/resources/limits/rdma~1hca_shared_devices_a"), "1");
  EXPECT_EQ(at(pod, "/spec/containers/1/resources/requests/rdma~1hca_shared_devices_a"), "1");
  EXPECT_EQ(at(pod, "/metadata/annotations/k8s.v1.cni.cncf.io~1networks"),
            "train/rail0,train/rail1");
  EXPECT_EQ(at(pod, "/spec/containers/1/securityContext/capabilities"),
            json::value(object_of(R"({"add": ["IPC_LOCK"]})")));
  EXPECT_EQ(variable(pod, "NCCL_IB_HCA"), "^mlx5_bond");
  EXPECT_EQ(variable(pod, "NCCL_SOCKET_IFNAME"), "eth1");  // the site's own before the default
  EXPECT_EQ(variable(pod, "NCCL_CROSS_NIC"), "1");         // and the task's before both
  EXPECT_EQ(variable(pod, "TORCH_NCCL_ASYNC_ERROR_HANDLING"), "1");
  EXPECT_TRUE(pod_warnings(one, settings()).size() > pod_warnings(one, some).size());
}

TEST(PodManifest, KeepsSecretsOutOfThePod) {
  PodRequest one = request();
  one.login = RegistryLogin{"registry.example.edu", "ana", "hunter2"};
  one.secret_files = {{"/etc/hf/token", "hf_secret"}};
  const json::object start = start_file(one, settings(), "attempt-token");
  const auto secret = secret_manifest(one, settings(), {start, start});
  ASSERT_TRUE(secret.ok());
  const json::value pod = pod_of(one);
  for (const std::string_view hidden : {"hunter2", "hf_secret", "attempt-token"}) {
    EXPECT_EQ(to_text(pod).find(hidden), std::string::npos) << hidden;
  }
  EXPECT_EQ(at(pod, "/spec/imagePullSecrets/0/name"), "quad-1a2b3c4d-j17-e2-pull");
  EXPECT_EQ(
      item(at(pod, "/spec/containers/1/volumeMounts"), "name", "quad-files"),
      json::value(object_of(
          R"({"name": "quad-files", "mountPath": "/etc/hf/token", "subPath": "file-0", "readOnly": true})")));
  // The start files reach the installer alone.
  EXPECT_TRUE(item(at(pod, "/spec/containers/1/volumeMounts"), "name", "quad-start").is_null());
}

/// With a hot tier, its installer.
json::value installer_of(const PodRequest& one, PodSettings some = settings()) {
  some.hot = HotTier{};
  some.hot->claim = "home";
  some.hot->folder = "/home/.quad/1a2b3c4d";
  const json::value pod = pod_of(one, some);
  const json::value init = item(at(pod, "/spec/initContainers"), "name", "quad-install");
  return init.is_null() ? item(at(pod, "/spec/containers"), "name", "quad-install") : init;
}

TEST(PodManifest, HasItsFoldersOfTheHotTierMadeByTheInstaller) {
  PodRequest one = request();
  const json::value anybodys = installer_of(one);
  EXPECT_EQ(at(anybodys, "/command"),
            json::value(json::array{"/usr/bin/quad-runner", "keep", "/quad", "/quad-start",
                                    "/quad-hot", ".quad/1a2b3c4d/17", "ana@example.edu"}));
  EXPECT_EQ(item(at(anybodys, "/volumeMounts"), "name", "quad-hot"),
            json::value(json::object{{"name", "quad-hot"}, {"mountPath", "/quad-hot"}}));
  one.identity = Identity{5001, 500, {}, {}};
  one.limit_factor = 1;
  const json::value owners = installer_of(one);
  EXPECT_EQ(at(owners, "/command/1"), "install");
  EXPECT_EQ(at(owners, "/command/7"), "5001:500");
  EXPECT_EQ(at(owners, "/securityContext"), json::value(object_of(R"({
    "allowPrivilegeEscalation": false, "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false,
    "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"]}})")));
}

TEST(PodWarnings, TellWhatTheClusterLacks) {
  PodRequest one = request();
  PodSettings some = settings();
  const auto without = pod_warnings(one, some);
  ASSERT_EQ(without.size(), 1U);
  EXPECT_NE(without[0].second.find("starts from step 0"), std::string::npos);
  some.hot = HotTier{};
  EXPECT_TRUE(pod_warnings(one, some).empty());
  for (const char* kept : {"/home/ana@example.edu/out", "/home/.quad/17/x", "out", "/data/out"}) {
    one.checkpoint_path = kept;
    EXPECT_TRUE(pod_warnings(one, some).empty()) << kept;
  }
  one.checkpoint_path = "/home/project/out";
  const auto lost = pod_warnings(one, some);
  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(lost[0].first, "quad.checkpoint.path");
  EXPECT_NE(lost[0].second.find("below /home/ana@example.edu"), std::string::npos);
}

TEST(PodManifest, AsksForDevicesByTheirNames) {
  PodRequest one = request();
  one.amount.gpus = 0;
  one.amount.devices = {{"nvidia.com/mig-1g.5gb", 2}};
  const json::value pod = pod_of(one, settings());
  EXPECT_EQ(at(pod, "/spec/containers/1/resources/limits/nvidia.com~1mig-1g.5gb"), "2");
  EXPECT_EQ(at(pod, "/spec/tolerations/2/key"), "nvidia.com/gpu") << "it has a part of a GPU";
  EXPECT_TRUE(variable(pod, "NVIDIA_VISIBLE_DEVICES").is_null()) << "the device plugin says it";
}

TEST(PodManifest, HasTheAdministratorsMetadataBelowTheTasks) {
  PodSettings some = settings();
  some.custom_metadata = object_of(R"({"labels": {"team": "a", "site": "x"}})");
  PodRequest one = request();
  one.custom_metadata = object_of(R"({"labels": {"team": "b"}})");
  const json::value pod = pod_of(one, some);
  EXPECT_EQ(at(pod, "/metadata/labels/team"), "b");
  EXPECT_EQ(at(pod, "/metadata/labels/site"), "x");
}

TEST(PodManifest, GivesThePriorityClassesThatAreOpen) {
  PodSettings some = settings();
  some.priority_classes = {"research", {"urgent"}};
  EXPECT_EQ(at(pod_of(request(), some), "/spec/priorityClassName"), "research");
  PodRequest one = request();
  one.priority_class = "urgent";
  EXPECT_EQ(at(pod_of(one, some), "/spec/priorityClassName"), "urgent");
  one.priority_class = "system-cluster-critical";
  const auto refused = pod_manifest(one, some, "uid");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().where, "resources.priority_class");
}

}  // namespace
}  // namespace quad::kubernetes
