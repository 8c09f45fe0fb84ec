// engine/kubernetes/views/pod_request.h
//
// What a pod is made from: PodRequest, which control and the task say of one rank, and PodSettings,
// which the administrator says of the cluster. Plain values, read by pod_manifest.h and its parts.
//
// Which GPUs of a node a rank gets is not here: on Kubernetes the device plugin chooses them.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/json.h"
#include "base/time.h"
#include "pool/pool.h"

namespace quad::kubernetes {

using NamedText = std::pair<std::string, std::string>;

/// As whom a rank runs, from the user's record. Without one, as the image says.
struct Identity {
  std::int64_t uid = 0;
  std::int64_t gid = 0;
  std::vector<std::int64_t> groups;
  /// Kubernetes makes every volume that supports it belong to this group, recursively. On a claim
  /// that several users share that would take it from the others: only where volumes are not
  /// shared.
  std::optional<std::int64_t> fs_group;
};

struct RegistryLogin {
  std::string server;
  std::string username;
  std::string password;
};

/// One of the task's volumes.
struct VolumeRequest {
  enum class Kind {
    kClaim,      ///< a PersistentVolumeClaim that exists
    kHostPath,   ///< a folder of the node, where the administrator allows it
    kEphemeral,  ///< made with the attempt and gone with it
  };
  std::string destination;  ///< "/data" or "~/data"
  Kind kind = Kind::kClaim;
  std::string source;  ///< the claim's name, or the node's path
  std::string sub_path;
  bool read_only = false;
  std::int64_t size_bytes = 0;            ///< ephemeral
  std::string storage_class;              ///< ephemeral; empty: the cluster's default
  std::vector<std::string> access_modes;  ///< of the claim, or as asked; empty: not known
  std::vector<NamedText> labels;          ///< ephemeral
};

/// A secret that the task wants as a file of its own.
struct SecretFile {
  std::string path;  ///< absolute
  std::string content;
};

struct PodRequest {
  RankKey key;
  std::string job_name;
  std::string owner;
  std::int32_t ranks = 1;
  NodeId node;
  pool::Resources amount;
  std::string gpu_resource;            ///< by the node's kind, such as "nvidia.com/gpu"
  std::int64_t disk_bytes = 0;         ///< ephemeral storage; 0: not asked for
  std::optional<double> limit_factor;  ///< set_pod_resource_limits: limits are requests times this

  std::string image;  ///< without "docker:"; empty: the default
  std::optional<RegistryLogin> login;
  std::vector<VolumeRequest> volumes;
  std::vector<SecretFile> secret_files;
  std::string checkpoint_path;  ///< of the task's own; empty: none
  std::vector<std::uint16_t> ports;
  std::vector<NamedText> env;  ///< not secret: the pod shows it
  std::vector<NamedText> labels;
  json::object pod_config;       ///< config.kubernetes.pod_config
  json::object custom_metadata;  ///< config.kubernetes.custom_metadata
  /// config.kubernetes.provision_timeout; negative: for ever; nullopt: as the server says.
  std::optional<Millis> provision_timeout;
  std::string priority_class;  ///< a PriorityClass of the cluster
  bool best_network = false;   ///< network_tier: best
  Millis stop_grace{30'000};
  std::optional<Identity> identity;  ///< nullopt: as PodSettings::identities has it
  /// It holds the nodes of a cluster: what runs on them are jobs of the same owner, whose folders
  /// in the hot tier lie in this one's.
  bool holds = false;
  std::string home;  ///< the rank's HOME in the container; empty: the runner's folder
};

/// The storage of all nodes that outlives pods; a rank sees a part of it (pod_volumes.h).
struct HotTier {
  enum class Kind { kClaim, kNfs, kHostPath };
  Kind kind = Kind::kClaim;
  std::string claim;
  std::string nfs_server;
  std::string path;  ///< of the NFS export or on the node
  std::string mount = "/home";
  std::string folder = "/home/.quad";  ///< below `mount`: where jobs' checkpoints lie
};

/// What `network_tier: best` brings.
struct RdmaSettings {
  std::vector<std::pair<std::string, std::int64_t>> resources;  ///< "rdma/hca_shared_devices_a": 1
  std::string networks;        ///< for k8s.v1.cni.cncf.io/networks: "train/rail0,train/rail1"
  bool lock_memory = true;     ///< IPC_LOCK
  std::vector<NamedText> env;  ///< the site's NCCL variables; they come before nccl_defaults()
};

/// Which of the cluster's objects of a kind a task may name, and which it gets that names none.
struct Choice {
  std::string standard;              ///< empty: the cluster's own
  std::vector<std::string> allowed;  ///< empty: all
};

/// What tasks may ask for beyond what any pod may have.
struct Permissions {
  /// Key paths of a pod_config, with all below them and without the places in lists:
  /// "spec.hostNetwork", "spec.containers.securityContext.privileged".
  std::vector<std::string> pod_config;
  std::vector<std::string> secrets;     ///< by name
  std::vector<std::string> host_paths;  ///< of the nodes, with what lies below
};

struct PodSettings {
  std::string server;  ///< the server's short id: letters and digits
  std::string namespace_name = "default";
  std::string root_name;  ///< the ConfigMap that all of this server's objects belong to
  std::string root_uid;
  std::string server_url;  ///< where runners reach the server
  std::string ca;          ///< PEM of the authority that runners trust; empty: the image's own

  std::string quad_image;
  std::string runner_path = "/usr/bin/quad-runner";  ///< in quad_image
  std::string default_image;
  std::string image_pull_policy;  ///< empty: Kubernetes' own rule
  std::vector<std::string> image_pull_secrets;

  std::optional<HotTier> hot;
  std::optional<RdmaSettings> rdma;
  std::string gpu_runtime_class;
  Choice priority_classes;
  Choice storage_classes;
  std::string service_account;
  std::vector<NamedText> node_selector;
  json::array tolerations;
  json::object pod_config;             ///< laid below the task's
  json::object custom_metadata;        ///< labels and annotations of all that is made
  std::optional<double> limit_factor;  ///< where the task does not say
  std::string port_service_type = "ClusterIP";
  Permissions permissions;
  /// As whom the ranks of these users run; others' as their image says.
  std::map<std::string, Identity> identities;
  /// Claims, Secrets and ConfigMaps of the namespace that no task may name, beside those whose
  /// names begin with "quad-": the server's own, where it runs there.
  std::vector<std::string> reserved_names;
  std::uint64_t spool_bytes = 1ULL << 30U;
};

}  // namespace quad::kubernetes
