#include "engine/kubernetes/views/pod_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "base/file.h"
#include "engine/kubernetes/views/pod_config_rules.h"
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

TEST(PodConfig, OfATaskSaysNoMoreThanTheTableHas) {
  const Case all[] = {
      {R"({"spec": {"hostNetwork": true}})", "pod_config.spec.hostNetwork",
       "the node's own network; the administrator can add spec.hostNetwork to allow_pod_config"},
      {R"({"spec": {"hostPID": true}})", "pod_config.spec.hostPID", "the node's own processes"},
      {R"({"spec": {"shareProcessNamespace": true}})", "pod_config.spec.shareProcessNamespace",
       "the hot tier"},
      {R"({"spec": {"serviceAccountName": "admin"}})", "pod_config.spec.serviceAccountName",
       "rights in the cluster"},
      {R"({"spec": {"automountServiceAccountToken": true}})",
       "pod_config.spec.automountServiceAccountToken", "rights"},
      {R"({"spec": {"schedulerName": "mine"}})", "pod_config.spec.schedulerName", "kube-scheduler"},
      {R"({"spec": {"toleration": []}})", "pod_config.spec.toleration",
       "did you mean 'tolerations'?"},
      {R"({"spec": {"resourceClaims": []}})", "pod_config.spec.resourceClaims", "none of the keys"},
      {R"({"spec": {"securityContext": {"runAsUser": 0}}})",
       "pod_config.spec.securityContext.runAsUser", "their user's own id"},
      {R"({"spec": {"securityContext": {"sysctls": []}}})",
       "pod_config.spec.securityContext.sysctls", "walls"},
      {R"({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}})",
       "pod_config.spec.securityContext.seccompProfile.type", "walls"},
      {R"({"spec": {"containers": [{"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}})",
       "pod_config.spec.containers[0].securityContext.appArmorProfile.type", "walls"},
      {R"({"spec": {"containers": [{"securityContext": {"privileged": true}}]}})",
       "pod_config.spec.containers[0].securityContext.privileged",
       "add spec.containers.securityContext.privileged to allow_pod_config"},
      {R"({"spec": {"containers": [{"securityContext": {"allowPrivilegeEscalation": true}}]}})",
       "pod_config.spec.containers[0].securityContext.allowPrivilegeEscalation", "own id"},
      {R"({"spec": {"initContainers": [{"name": "x", "securityContext": {"runAsUser": 0}}]}})",
       "pod_config.spec.initContainers[0].securityContext.runAsUser", "own id"},
      {R"({"spec": {"containers": [{"securityContext": {"capabilities": {"add": ["IPC_LOCK", "SYS_ADMIN"]}}}]}})",
       "pod_config.spec.containers[0].securityContext.capabilities.add[1]",
       "'SYS_ADMIN' is none of IPC_LOCK, SYS_NICE and SYS_PTRACE"},
      {R"({"spec": {"containers": [{"lifecycle": {"postStart": {}}}]}})",
       "pod_config.spec.containers[0].lifecycle", "the kubelet would act"},
      {R"({"spec": {"containers": [{"ports": [{"containerPort": 80, "hostPort": 80}]}]}})",
       "pod_config.spec.containers[0].ports[0].hostPort", "a port of the node"},
      {R"({"spec": {"containers": [{"volumeMounts": [{"name": "x", "mountPath": "/x/../quad"}]}]}})",
       "pod_config.spec.containers[0].volumeMounts[0].mountPath", "without '..'"},
      {R"({"spec": {"containers": [{"volumeMounts": [{"name": "x", "mountPath": "/x", "mountPropagation": "Bidirectional"}]}]}})",
       "pod_config.spec.containers[0].volumeMounts[0].mountPropagation", "on the node"},
      {R"({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/etc"}}]}})",
       "pod_config.spec.volumes[0].hostPath.path", "'/etc' of the nodes"},
      {R"({"spec": {"volumes": [{"name": "x", "nfs": {"server": "nfs", "path": "/"}}]}})",
       "pod_config.spec.volumes[0].nfs", "add spec.volumes.nfs to allow_pod_config"},
      {R"({"spec": {"initContainers": [{"name": "i", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}]}})",
       "pod_config.spec.initContainers[0].env[0].name", "follows from its accelerators"},
      {R"({"spec": {"volumes": [{"name": "x", "iscsi": {}}]}})", "pod_config.spec.volumes[0].iscsi",
       "none of the keys"},
      {R"({"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}})",
       "pod_config.spec.volumes[0].projected.sources[0].serviceAccountToken", "rights"},
      {R"({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {"volumeName": "pv-1"}}}}]}})",
       "pod_config.spec.volumes[0].ephemeral.volumeClaimTemplate.spec.volumeName", "another's"},
      {R"({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "gold"}}}}}]}})",
       "pod_config.spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.annotations", ""},
      {R"({"spec": {"runtimeClassName": "kata"}})", "pod_config.spec.runtimeClassName",
       "'kata' is not the configured runtime_class"},
      {R"({"spec": {"priorityClassName": "system-node-critical"}})",
       "pod_config.spec.priorityClassName", "priority_classes.allowed"},
      {R"({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "other/net"}}})",
       "pod_config.metadata.annotations.k8s.v1.cni.cncf.io/networks",
       "add metadata.annotations.k8s.v1.cni.cncf.io/networks to allow_pod_config"},
      {R"({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/rank": "unconfined"}}})",
       "pod_config.metadata.annotations.container.apparmor.security.beta.kubernetes.io/rank",
       "others may act upon it"},
      {R"({"metadata": {"labels": {"app.kubernetes.io/name": "quad"}}})",
       "pod_config.metadata.labels.app.kubernetes.io/name", "know pods by it"},
      {R"({"metadata": {"labels": {"batch.kubernetes.io/job-name": "x"}}})",
       "pod_config.metadata.labels.batch.kubernetes.io/job-name", "Kubernetes' own"},
  };
  for (const Case& one : all) {
    const Status checked = check(one.config);
    ASSERT_FALSE(checked.ok()) << one.config;
    EXPECT_EQ(checked.error().where, one.where) << one.config;
    EXPECT_NE(checked.error().message.find(one.part), std::string::npos) << checked.error().message;
    EXPECT_TRUE(check(one.config, ConfigOf::kAdministrator).ok()) << one.config;
  }
}

using Places = std::vector<std::string_view>;
/// Each place of a pod_config that can name a Secret, a ConfigMap or a claim.
const Places kSecretPlaces = {
    R"({"spec": {"volumes": [{"name": "x", "secret": {"secretName": "NAME"}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"secret": {"name": "NAME"}}]}}]}})",
    R"({"spec": {"containers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "NAME", "key": "k"}}}]}]}})",
    R"({"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "NAME"}}]}]}})",
    R"({"spec": {"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "NAME"}}]}]}})",
    R"({"spec": {"initContainers": [{"name": "i", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "NAME"}}}]}]}})",
    R"({"spec": {"imagePullSecrets": [{"name": "NAME"}]}})",
};
const Places kConfigMapPlaces = {
    R"({"spec": {"volumes": [{"name": "x", "configMap": {"name": "NAME"}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"configMap": {"name": "NAME"}}]}}]}})",
    R"({"spec": {"containers": [{"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "NAME"}}}]}]}})",
    R"({"spec": {"containers": [{"envFrom": [{"configMapRef": {"name": "NAME"}}]}]}})",
    R"({"spec": {"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "NAME"}}]}})",
};
/// Closed unless the administrator opens them; what is Quad's own stays closed.
const Places kClosedPlaces = {
    R"({"spec": {"volumes": [{"name": "x", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "NAME"}}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "flexVolume": {"driver": "d", "secretRef": {"name": "NAME"}}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "cephfs": {"monitors": ["a"], "secretRef": {"name": "NAME"}}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "azureFile": {"shareName": "d", "secretName": "NAME"}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {"dataSource": {"name": "NAME"}}}}}]}})",
    R"({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {"dataSourceRef": {"name": "NAME"}}}}}]}})",
};

bool may_name(std::string_view place, std::string_view name, const PodSettings& settings) {
  std::string config(place);
  config.replace(config.find("NAME"), 4, name);
  const Status checked = check(config, ConfigOf::kTask, false, settings);
  EXPECT_TRUE(checked.ok() || checked.error().code == ErrorCode::kDenied) << config;
  return checked.ok();
}

TEST(PodConfig, NamesNothingOfQuadsInAnySpelling) {
  PodSettings settings;
  settings.hot = HotTier{};
  settings.hot->claim = "home";
  settings.reserved_names = {"server-records"};
  settings.permissions.secrets = {"quad-1a2b3c4d-j1-e1", "server-records"};  // even then
  settings.permissions.pod_config = {"spec.volumes.csi", "spec.volumes.flexVolume",
                                     "spec.volumes.cephfs", "spec.volumes.azureFile",
                                     "spec.volumes.ephemeral"};
  for (const std::string_view name : {"quad-1a2b3c4d-j1-e1", "server-records", "home"}) {
    for (const Places& places : {kSecretPlaces, kConfigMapPlaces, kClosedPlaces}) {
      for (const std::string_view place : places) {
        EXPECT_FALSE(may_name(place, name, settings)) << name << " in " << place;
      }
    }
  }
  for (const std::string_view place : kClosedPlaces) {
    EXPECT_TRUE(may_name(place, "mine", settings)) << place;
    EXPECT_FALSE(may_name(place, "mine", PodSettings())) << place;
  }
}

TEST(PodConfig, NamesTheSecretsThatAreOpenAndNoOthers) {
  PodSettings settings;
  settings.permissions.secrets = {"hf-token"};
  settings.image_pull_secrets = {"registry"};
  for (const std::string_view place : kSecretPlaces) {
    EXPECT_TRUE(may_name(place, "hf-token", settings)) << place;
    EXPECT_TRUE(may_name(place, "registry", settings)) << place;
    EXPECT_FALSE(may_name(place, "tls-of-another", settings)) << place;
  }
  for (const std::string_view place : kConfigMapPlaces) {
    EXPECT_TRUE(may_name(place, "mine", settings)) << place;
  }
}

TEST(PodConfig, HoldsToTheClassesThatAreOpen) {
  PodSettings settings;
  settings.priority_classes.allowed = {"research", "system-node-critical"};
  settings.storage_classes.allowed = {"silver"};
  settings.gpu_runtime_class = "nvidia";
  const auto is_open = [&](std::string_view config) {
    return check(config, ConfigOf::kTask, false, settings).ok();
  };
  EXPECT_TRUE(is_open(R"({"spec": {"priorityClassName": "research"}})"));
  EXPECT_FALSE(is_open(R"({"spec": {"priorityClassName": "urgent"}})"));
  EXPECT_TRUE(is_open(R"({"spec": {"priorityClassName": "system-node-critical"}})"));
  EXPECT_TRUE(is_open(R"({"spec": {"runtimeClassName": "nvidia"}})"));
  EXPECT_TRUE(is_open(
      R"({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "silver"}}}}]}})"));
  EXPECT_FALSE(is_open(
      R"({"spec": {"volumes": [{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "gold"}}}}]}})"));
}

TEST(PodConfig, LeavesTheAdministratorsVolumesAndInitContainersAsTheyAre) {
  PodSettings settings;
  settings.pod_config = object_of(
      R"({"spec": {"volumes": [{"name": "sets", "nfs": {"server": "nfs", "path": "/"}}],
                   "initContainers": [{"name": "tune", "securityContext": {"privileged": true}}],
                   "containers": [{"volumeMounts": [{"name": "sets", "mountPath": "/sets", "readOnly": true}]}]}})");
  const auto refused_at = [&](std::string_view config) {
    const Status checked = check(config, ConfigOf::kTask, false, settings);
    return checked.ok() ? std::string() : checked.error().where;
  };
  EXPECT_EQ(
      refused_at(
          R"({"spec": {"containers": [{"volumeMounts": [{"name": "sets", "mountPath": "/all"}]}]}})"),
      "pod_config.spec.containers[0].volumeMounts[0].name");
  EXPECT_EQ(refused_at(R"({"spec": {"volumes": [{"name": "sets", "emptyDir": {}}]}})"),
            "pod_config.spec.volumes[0].name");
  EXPECT_EQ(refused_at(R"({"spec": {"initContainers": [{"name": "tune", "image": "mine"}]}})"),
            "pod_config.spec.initContainers[0].name");
  EXPECT_TRUE(check(to_text(settings.pod_config), ConfigOf::kAdministrator, true, settings).ok());
}

TEST(PodConfig, MaySayAllThatIsHarmless) {
  PodSettings settings;
  settings.gpu_runtime_class = "nvidia";
  settings.image_pull_secrets = {"registry"};
  settings.permissions.secrets = {"my-key"};
  for (
      const std::string_view config : {
          "{}",
          R"({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"team": "vision", "lab.edu/project": "x"}, "annotations": {"note": "any text", "prometheus.io/port": "9"}}})",
          R"({"spec": {"runtimeClassName": "nvidia", "tolerations": [{"operator": "Exists"}], "priorityClassName": "low",
                        "nodeSelector": {"pool": "a"}, "imagePullSecrets": [{"name": "registry"}], "dnsPolicy": "Default",
                        "hostNetwork": false}})",
          R"({"spec": {"containers": [{"name": "ray-node", "image": "x", "env": [{"name": "A", "value": "1"}],
                "securityContext": {"capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]}, "privileged": false,
                                    "allowPrivilegeEscalation": false},
                "resources": {"limits": {"memory": "100Gi", "nvidia.com/mig-1g.5gb": 1, "rdma/ib": 1}},
                "ports": [{"containerPort": 8080, "name": "https"}],
                "volumeMounts": [{"name": "data", "mountPath": "/quadrant"}, {"mountPath": "/dev/shm", "name": "dshm"}]}]}})",
          R"({"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                                    {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
                                    {"name": "key", "secret": {"secretName": "my-key"}}],
                        "initContainers": [{"name": "fetch", "image": "x", "command": ["sh"], "restartPolicy": "Always"}]}})",
          R"({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}]}}}}})",
      }) {
    const Status checked = check(config, ConfigOf::kTask, true, settings);
    EXPECT_TRUE(checked.ok()) << config << "\n" << (checked.ok() ? "" : checked.error().message);
  }
}

TEST(PodConfig, HasTheFoldersOfNodesThatAreOpenButNoneBelowThem) {
  PodSettings settings;
  settings.permissions.host_paths = {"/scratch/", "/data"};
  settings.hot = HotTier{};
  settings.hot->kind = HotTier::Kind::kHostPath;
  settings.hot->path = "/data/quad";
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
  EXPECT_FALSE(host_path("/scratch/link-of-bobs"));
  EXPECT_FALSE(host_path("/scratchy"));
  EXPECT_FALSE(host_path("/scratch/../etc"));
  EXPECT_FALSE(host_path("/data")) << "the hot tier is in it";
  EXPECT_FALSE(host_path("/data/quad"));
  EXPECT_FALSE(host_path(""));
}

TEST(PodConfig, SaysWhatTheAdministratorAdds) {
  PodSettings settings;
  settings.permissions.pod_config = {"spec.hostNetwork", "spec.volumes.nfs",
                                     "spec.containers.securityContext.privileged",
                                     "metadata.annotations.k8s.v1.cni.cncf.io/networks"};
  const auto is_open = [&](std::string_view config) {
    return check(config, ConfigOf::kTask, true, settings).ok();
  };
  EXPECT_TRUE(is_open(R"({"spec": {"hostNetwork": true}})"));
  EXPECT_FALSE(is_open(R"({"spec": {"hostIPC": true}})"));
  EXPECT_TRUE(is_open(R"({"spec": {"volumes": [{"name": "x", "nfs": {"path": "/"}}]}})"));
  EXPECT_FALSE(is_open(R"({"spec": {"volumes": [{"name": "x", "nfsx": {}}]}})"));
  EXPECT_TRUE(is_open(R"({"spec": {"containers": [{"securityContext": {"privileged": true}}]}})"));
  EXPECT_FALSE(is_open(
      R"({"spec": {"initContainers": [{"name": "a", "securityContext": {"privileged": true}}]}})"));
  EXPECT_TRUE(is_open(R"({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "a/b"}}})"));
  EXPECT_FALSE(
      is_open(R"({"metadata": {"annotations": {"v1.multus-cni.io/default-network": "a/b"}}})"));
}

TEST(PodConfig, MayChooseTheUserWhereJobsHaveNone) {
  const std::string_view config = R"({"spec": {"securityContext": {"runAsUser": 1000}}})";
  EXPECT_TRUE(check(config, ConfigOf::kTask, false).ok());
  EXPECT_FALSE(check(config, ConfigOf::kTask, true).ok());
  const std::string_view group = R"({"spec": {"securityContext": {"fsGroup": 1000}}})";
  EXPECT_TRUE(check(group, ConfigOf::kTask, false).ok());
  PodSettings settings;
  settings.hot = HotTier{};
  settings.hot->claim = "home";
  const Status checked = check(group, ConfigOf::kTask, false, settings);
  ASSERT_FALSE(checked.ok());
  EXPECT_NE(checked.error().message.find("all of the hot tier"), std::string::npos);
}

TEST(PodConfig, TableIsThatOfTheDocumentation) {
  const std::string page =
      read_file(std::filesystem::path(QUAD_SOURCE_DIR) / "docs/kubernetes.md").value();
  EXPECT_NE(page.find(pod_config_table()), std::string::npos)
      << "docs/kubernetes.md, \"pod_config\", should have this:\n"
      << pod_config_table();
}

TEST(CustomMetadata, HasLabelsAndAnnotationsOnly) {
  const auto check = [](std::string_view metadata, ConfigOf whose = ConfigOf::kTask) {
    return check_metadata(object_of(metadata), whose, PodSettings(), "m");
  };
  EXPECT_TRUE(check(R"({"labels": {"a": "b"}, "annotations": {"c": "d"}})").ok());
  EXPECT_EQ(check(R"({"name": "x"})").error().message,
            "m.name cannot be set: custom_metadata has labels and annotations.");
  EXPECT_FALSE(check(R"({"labels": {"quad.io/job": "1"}})").ok());
  EXPECT_FALSE(check(R"({"labels": []})").ok());
  for (const std::string_view taken :
       {R"({"labels": {"app.kubernetes.io/instance": "quad"}})",
        R"({"annotations": {"k8s.v1.cni.cncf.io/networks": "a/b"}})"}) {
    EXPECT_FALSE(check(taken).ok()) << taken;
    EXPECT_TRUE(check(taken, ConfigOf::kAdministrator).ok()) << taken;
  }
}

}  // namespace
}  // namespace quad::kubernetes
