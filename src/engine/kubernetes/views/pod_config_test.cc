#include "engine/kubernetes/views/pod_config.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

Status check(std::string_view config, ConfigOf whose = ConfigOf::kTask, bool fixed_user = true,
             const PodSettings& settings = {}) {
  return check_pod_config(object_of(config), whose, settings, fixed_user, "pod_config");
}

struct Case {
  std::string_view config;
  std::string_view where;
  std::string_view part;  ///< of the message
};

TEST(PodConfig, MayNotTouchWhatIsQuads) {
  const Case all[] = {
      {R"({"kind": "Deployment"})", "pod_config.kind", "has metadata and spec"},
      {R"({"status": {}})", "pod_config.status", "has metadata and spec"},
      {R"({"metadata": {"name": "x"}})", "pod_config.metadata.name", "finds its pods by it"},
      {R"({"metadata": {"ownerReferences": []}})", "pod_config.metadata.ownerReferences",
       "clear up"},
      {R"({"metadata": {"labels": {"quad.io/rank": "9"}}})", "pod_config.metadata.labels",
       "kept for Quad"},
      {R"({"metadata": {"annotations": {"quad.io/x": "9"}}})", "pod_config.metadata.annotations",
       "kept for Quad"},
      {R"({"metadata": {"labels": {"a": 1}}})", "pod_config.metadata.labels", "put it in quotes"},
      {R"({"spec": {"nodeName": "n1"}})", "pod_config.spec.nodeName", "nodeSelector"},
      {R"({"spec": {"restartPolicy": "Always"}})", "pod_config.spec.restartPolicy", "as a whole"},
      {R"({"spec": {"hostname": "x"}})", "pod_config.spec.hostname", "find each other"},
      {R"({"spec": {"terminationGracePeriodSeconds": 5}})",
       "pod_config.spec.terminationGracePeriodSeconds", "quad.stop_grace"},
      {R"({"spec": {"containers": [{"command": ["sh"]}]}})",
       "pod_config.spec.containers[0].command", "write commands in run"},
      {R"({"spec": {"containers": [{"args": ["x"]}]}})", "pod_config.spec.containers[0].args",
       "write commands in run"},
      {R"({"spec": {"containers": [{"name": "main"}]}})", "pod_config.spec.containers[0].name",
       "leave the name out"},
      {R"({"spec": {"containers": [{}, {"name": "b"}]}})", "pod_config.spec.containers",
       "restartPolicy: Always"},
      {R"({"spec": {"containers": [{"resources": {"requests": {"cpu": "4"}}}]}})",
       "pod_config.spec.containers[0].resources.requests.cpu", "set resources.cpus"},
      {R"({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}})",
       "pod_config.spec.containers[0].resources.limits.nvidia.com/gpu",
       "set resources.accelerators"},
      {R"({"spec": {"containers": [{"volumeMounts": [{"name": "quad", "mountPath": "/x"}]}]}})",
       "pod_config.spec.containers[0].volumeMounts[0].name", "Quad's own"},
      {R"({"spec": {"containers": [{"volumeMounts": [{"name": "x", "mountPath": "//quad/./rank"}]}]}})",
       "pod_config.spec.containers[0].volumeMounts[0].mountPath", "mount elsewhere"},
      {R"({"spec": {"volumes": [{"name": "quad-start", "emptyDir": {}}]}})",
       "pod_config.spec.volumes[0].name", "Quad's own"},
      {R"({"spec": {"initContainers": [{"name": "quad-install"}]}})",
       "pod_config.spec.initContainers[0].name", "brings the runner"},
      {R"({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
           {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}}})",
       "pod_config.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution."
       "nodeSelectorTerms[0].matchFields",
       "use matchExpressions"},
      {R"({"spec": []})", "pod_config.spec", "must be a mapping"},
      {R"({"spec": {"volumes": {}}})", "pod_config.spec.volumes", "must be a list"},
  };
  for (const Case& one : all) {
    for (const ConfigOf whose : {ConfigOf::kTask, ConfigOf::kAdministrator}) {
      const Status checked = check(one.config, whose);
      ASSERT_FALSE(checked.ok()) << one.config;
      EXPECT_EQ(checked.error().code, ErrorCode::kInvalid) << one.config;
      EXPECT_EQ(checked.error().where, one.where) << one.config;
      EXPECT_NE(checked.error().message.find(one.part), std::string::npos)
          << checked.error().message;
      EXPECT_TRUE(checked.error().message.starts_with("pod_config")) << checked.error().message;
    }
  }
}

TEST(PodConfig, NeedsPermissionForPowerOverTheClusterOrOthers) {
  const Case all[] = {
      {R"({"spec": {"hostNetwork": true}})", "pod_config.spec.hostNetwork",
       "the node's own network"},
      {R"({"spec": {"hostPID": true}})", "pod_config.spec.hostPID", "the node's own processes"},
      {R"({"spec": {"serviceAccountName": "admin"}})", "pod_config.spec.serviceAccountName",
       "rights in the cluster"},
      {R"({"spec": {"automountServiceAccountToken": true}})",
       "pod_config.spec.automountServiceAccountToken", "rights"},
      {R"({"spec": {"securityContext": {"runAsUser": 0}}})",
       "pod_config.spec.securityContext.runAsUser", "their user's own id"},
      {R"({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}})",
       "pod_config.spec.securityContext.seccompProfile.type", "walls"},
      {R"({"spec": {"containers": [{"securityContext": {"privileged": true}}]}})",
       "pod_config.spec.containers[0].securityContext.privileged", "the whole node"},
      {R"({"spec": {"containers": [{"securityContext": {"allowPrivilegeEscalation": true}}]}})",
       "pod_config.spec.containers[0].securityContext.allowPrivilegeEscalation", "own id"},
      {R"({"spec": {"initContainers": [{"name": "x", "securityContext": {"runAsUser": 0}}]}})",
       "pod_config.spec.initContainers[0].securityContext.runAsUser", "own id"},
      {R"({"spec": {"containers": [{"securityContext": {"capabilities": {"add": ["IPC_LOCK", "SYS_ADMIN"]}}}]}})",
       "pod_config.spec.containers[0].securityContext.capabilities.add[1]",
       "'SYS_ADMIN' is none of IPC_LOCK, SYS_NICE and SYS_PTRACE"},
      {R"({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/etc"}}]}})",
       "pod_config.spec.volumes[0].hostPath.path", "'/etc' of the nodes"},
      {R"({"spec": {"volumes": [{"name": "x", "secret": {"secretName": "quad-1a2b3c4d-j1-e1"}}]}})",
       "pod_config.spec.volumes[0].secret.secretName", "Quad's jobs"},
      {R"({"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"secret": {"name": "quad-1a2b3c4d-j1-e1"}}]}}]}})",
       "pod_config.spec.volumes[0].projected.sources[0].secret.name", "Quad's jobs"},
      {R"({"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}})",
       "pod_config.spec.volumes[0].projected.sources[0].serviceAccountToken", "rights"},
      {R"({"spec": {"containers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "quad-1a2b3c4d-j1-e1", "key": "k"}}}]}]}})",
       "pod_config.spec.containers[0].env[0].valueFrom.secretKeyRef.name", "Quad's jobs"},
      {R"({"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "quad-1a2b3c4d-j1-e1"}}]}]}})",
       "pod_config.spec.containers[0].envFrom[0].secretRef.name", "Quad's jobs"},
      {R"({"spec": {"imagePullSecrets": [{"name": "quad-1a2b3c4d-j1-e1-pull"}]}})",
       "pod_config.spec.imagePullSecrets[0].name", "Quad's jobs"},
  };
  for (const Case& one : all) {
    const Status checked = check(one.config);
    ASSERT_FALSE(checked.ok()) << one.config;
    EXPECT_EQ(checked.error().code, ErrorCode::kDenied) << one.config;
    EXPECT_EQ(checked.error().where, one.where) << one.config;
    EXPECT_NE(checked.error().message.find(one.part), std::string::npos) << checked.error().message;
    EXPECT_TRUE(check(one.config, ConfigOf::kAdministrator).ok()) << one.config;
  }
}

TEST(PodConfig, MaySayAllThatIsHarmless) {
  for (
      const std::string_view config : {
          "{}",
          R"({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"team": "vision"}, "annotations": {"a/b": "any text"}}})",
          R"({"spec": {"runtimeClassName": "nvidia", "tolerations": [{"operator": "Exists"}], "priorityClassName": "low",
                        "nodeSelector": {"pool": "a"}, "imagePullSecrets": [{"name": "registry"}], "dnsPolicy": "Default"}})",
          R"({"spec": {"containers": [{"name": "ray-node", "image": "x", "env": [{"name": "A", "value": "1"}],
                "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
                "resources": {"limits": {"memory": "100Gi", "nvidia.com/mig-1g.5gb": 1, "rdma/ib": 1}},
                "volumeMounts": [{"name": "data", "mountPath": "/quadrant"}, {"mountPath": "/dev/shm", "name": "dshm"}]}]}})",
          R"({"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                                    {"name": "key", "secret": {"secretName": "my-key"}}],
                        "initContainers": [{"name": "fetch", "image": "x", "command": ["sh"]}]}})",
          R"({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}]}}}}})",
      }) {
    const Status checked = check(config);
    EXPECT_TRUE(checked.ok()) << config << "\n" << (checked.ok() ? "" : checked.error().message);
  }
}

TEST(PodConfig, HeedsWhatTheAdministratorPermits) {
  PodSettings settings;
  settings.permissions.host_paths = {"/scratch/"};
  settings.permissions.host_network = true;
  const auto host_path = [&](std::string_view path) {
    return check(to_text(json::object{
                     {"spec",
                      {{"volumes",
                        json::array{json::object{{"name", "x"},
                                                 {"hostPath", json::object{{"path", path}}}}}}}}}),
                 ConfigOf::kTask, true, settings)
        .ok();
  };
  EXPECT_TRUE(host_path("/scratch"));
  EXPECT_TRUE(host_path("/scratch/ana"));
  EXPECT_FALSE(host_path("/scratchy"));
  EXPECT_FALSE(host_path("/scratch/../etc"));
  EXPECT_FALSE(host_path(""));
  EXPECT_TRUE(check(R"({"spec": {"hostNetwork": true}})", ConfigOf::kTask, true, settings).ok());
  EXPECT_FALSE(check(R"({"spec": {"hostIPC": true}})", ConfigOf::kTask, true, settings).ok());
  settings.permissions.privileged = true;
  EXPECT_TRUE(
      check(
          R"({"spec": {"hostIPC": true, "containers": [{"securityContext": {"privileged": true}}]}})",
          ConfigOf::kTask, true, settings)
          .ok());
}

TEST(PodConfig, MayChooseTheUserWhereJobsHaveNone) {
  EXPECT_TRUE(check(R"({"spec": {"securityContext": {"runAsUser": 1000, "fsGroup": 1000}}})",
                    ConfigOf::kTask, false)
                  .ok());
  EXPECT_FALSE(
      check(R"({"spec": {"securityContext": {"runAsUser": 1000}}})", ConfigOf::kTask, true).ok());
}

TEST(CustomMetadata, HasLabelsAndAnnotationsOnly) {
  EXPECT_TRUE(
      check_metadata(object_of(R"({"labels": {"a": "b"}, "annotations": {"c": "d"}})"), "m").ok());
  EXPECT_EQ(check_metadata(object_of(R"({"name": "x"})"), "m").error().message,
            "m.name cannot be set: custom_metadata has labels and annotations.");
  EXPECT_FALSE(check_metadata(object_of(R"({"labels": {"quad.io/job": "1"}})"), "m").ok());
  EXPECT_FALSE(check_metadata(object_of(R"({"labels": []})"), "m").ok());
}

}  // namespace
}  // namespace quad::kubernetes
