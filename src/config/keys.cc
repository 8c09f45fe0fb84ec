#include "config/keys.h"

#include <algorithm>

#include <fmt/format.h>

namespace quad::config {

namespace {

// Pattern; default; what happens where there is none; an example; the meaning.
std::vector<Key> build() {
  return {
      {"listen", "127.0.0.1", "", "0.0.0.0",
       "Address to listen on; beyond loopback always with TLS"},
      {"port", "", "that of last time, at first any free one", "8443",
       "Port to listen on; 0 takes any free one"},
      {"url", "", "the address listened on", "https://quad.example.edu:8443",
       "Where people and pods reach the server, if that is another address"},
      {"tls.certificate", "", "one of the server's own; on loopback no TLS", "/etc/quad/server.pem",
       "PEM file of the certificate chain"},
      {"tls.key", "", "as tls.certificate", "/etc/quad/server.key", "PEM file of its key"},
      {"tls.ca", "", "the machine's own authorities; the server's own, if it makes one",
       "/etc/quad/ca.pem", "PEM file of the authority that signed it, for runners"},
      {"runners_over_tcp", "false", "", "true",
       "Local runners connect to url, not to the unix socket"},
      {"node_lost_after", "20s", "", "30s",
       "Silence of both channels until a node counts as lost, 1s to 1d"},
      {"suspect_after", "5s", "", "8s",
       "Silence until nothing new starts on a node; at most node_lost_after"},
      {"strict_lease", "30s", "", "60s",
       "Time out of touch until a rank of a job with fence: strict stops itself, 3s to 1h"},
      {"spool", "1GB", "", "4GB",
       "Output that each rank keeps while the server is away, 1MB to 1000TB"},
      {"hot_tier.host_path", "", "the folder hot of the data directory", "/data/quad",
       "Folder that all nodes share, for checkpoints; of this server alone"},
      {"hot_tier.nfs.server", "", "", "nfs.example.edu", "NFS server that pods mount"},
      {"hot_tier.nfs.path", "", "", "/export/quad", "What it exports"},
      {"hot_tier.pvc", "", "", "quad-home", "ReadWriteMany claim that pods mount"},
      {"hot_tier.mount", "/home", "", "/shared", "Where pods see the hot tier"},
      {"jobs.defaults.image", "", "needed by each task in containers", "debian:12",
       "Image of a task that names none; on Kubernetes"},
      {"jobs.defaults.cpus", "2", "", "4", "CPUs of a task that asks for none"},
      {"jobs.defaults.memory", "2GB", "", "8GB", "Memory of a task that asks for none"},
      {"jobs.defaults.cpus_per_gpu", "4", "", "12", "The same for each GPU of a task with GPUs"},
      {"jobs.defaults.memory_per_gpu", "16GB", "", "120GB",
       "The same for each GPU of a task with GPUs"},
      {"jobs.defaults.max_duration", "", "jobs.limits.max_duration", "1d",
       "quad.max_duration of a task that has none"},
      {"jobs.limits.max_duration", "", "no limit", "7d",
       "The longest quad.max_duration that a task may have"},
      {"jobs.limits.active_per_user", "10000", "", "100",
       "How many jobs of one user may wait or run"},
      {"users", "", "the machine's account of the user's name",
       "{ana: ana, bob: {uid: 5001, gid: 5001, groups: [3000]}}",
       "Who each user's pods run as: uid, gid and groups; on the local engine no effect yet"},
      {"engines.local.nodes", "0", "", "4",
       "Pretend nodes to divide this machine into; 0 takes it as it is"},
      {"engines.local.gpus", "", "none", "H100:8", "GPUs of each pretend node"},
      {"engines.local.cpus", "", "the machine's, at least 8", "64", "CPUs of each pretend node"},
      {"engines.local.memory", "", "the machine's, at least 32 GiB", "256GB",
       "Memory of each pretend node"},
      {"engines.local.reserved_uids", "2010000000-2010065535", "", "3000000-3009999",
       "Uids for users without an account; no effect yet"},
      {"engines.local.processes", "", "32768, at most a quarter of what the machine can have",
       "4096", "Processes and threads that each rank may have"},
      {"engines.local.environment", "", "none", "[HTTPS_PROXY, LD_LIBRARY_PATH]",
       "Variables of the server's own environment that jobs get too"},
      {"engines.NAME.type", "kubernetes", "", "kubernetes", "What the engine is"},
      {"engines.NAME.in_cluster", "false", "", "true",
       "Use the service account of the server's own pod, no kubeconfig"},
      {"engines.NAME.context", "", "the file's current one", "west",
       "Context of the kubeconfig; NAME is the engine's own name, as in infra: k8s/NAME"},
      {"engines.NAME.kubeconfig", "", "KUBECONFIG, else ~/.kube/config", "/etc/quad/kubeconfig",
       "The kubeconfig file"},
      {"engines.NAME.namespace", "",
       "that of the context; in_cluster: that of the server's pod with -jobs behind it",
       "quad-jobs", "Where pods are made: best one of their own"},
      {"engines.NAME.image", "", "in_cluster: that of the server's pod; else needed",
       "registry.example.edu/quad:1.0", "Quad's own image, which brings the runner"},
      {"engines.NAME.default_image", "", "jobs.defaults.image", "nvcr.io/nvidia/pytorch:24.10-py3",
       "Image of a task that names none"},
      {"engines.NAME.server_url", "", "url; in_cluster: the server's Service",
       "https://quad.example.edu:8443", "Where its pods reach the server"},
      {"engines.NAME.hot_tier.host_path", "", "the hot_tier of the server", "/mnt/quad",
       "The engine's own hot tier: a folder of its nodes"},
      {"engines.NAME.hot_tier.nfs.server", "", "", "nfs.example.edu", "or an NFS server"},
      {"engines.NAME.hot_tier.nfs.path", "", "", "/export/quad", "and what it exports"},
      {"engines.NAME.hot_tier.pvc", "", "", "quad-home", "or a ReadWriteMany claim"},
      {"engines.NAME.hot_tier.mount", "", "hot_tier.mount", "/home", "Where its pods see it"},
      {"engines.NAME.storage_classes.default", "", "the cluster's own", "longhorn",
       "StorageClass of a volume that names none"},
      {"engines.NAME.storage_classes.allowed", "", "all", "[longhorn, local-path]",
       "Those that volumes may name"},
      {"engines.NAME.priority_classes.default", "", "the cluster's own", "research",
       "PriorityClass of pods that name none"},
      {"engines.NAME.priority_classes.allowed", "", "all but system-…", "[research, urgent]",
       "Those that tasks may name"},
      {"engines.NAME.allow_host_paths", "", "none", "[/data/sets, /scratch]",
       "Folders of the nodes that volumes may be in"},
      {"engines.NAME.allow_pod_config", "", "none", "[spec.hostNetwork, spec.volumes.nfs]",
       "Key paths, with all below them, that a task's pod_config may have beside those of "
       "kubernetes.md"},
      {"engines.NAME.allow_secrets", "", "none", "[hf-token]",
       "Secrets of the namespace that tasks may name"},
      {"engines.NAME.reserved_names", "", "none", "[records, server-tls]",
       "Claims, Secrets and ConfigMaps that tasks may not name, beside quad-… and the hot tier"},
      {"engines.NAME.runtime_class", "", "nvidia for GPUs, if there is one", "nvidia",
       "RuntimeClass of pods"},
      {"engines.NAME.node_selector", "", "all nodes", "{quad.io/pool: a100}",
       "Labels of the nodes that Quad uses; it shows no others"},
      {"engines.NAME.tolerations", "", "those for GPUs",
       "[{key: dedicated, operator: Equal, value: research, effect: NoSchedule}]",
       "More tolerations of pods"},
      {"engines.NAME.pod_config", "", "none", "{spec: {hostNetwork: true}}",
       "Merged into each pod, below the task's own config.kubernetes.pod_config"},
      {"engines.NAME.custom_metadata", "", "none", "{labels: {team: vision}}",
       "Labels and annotations of all that Quad makes"},
      {"engines.NAME.rdma.resources", "", "no RDMA",
       "{openshift.io/rail0: 1, openshift.io/rail1: 1}",
       "What a rank with network_tier: best asks for: a name, names, or names and counts"},
      {"engines.NAME.rdma.networks", "", "none", "train/rail0,train/rail1",
       "Its annotation k8s.v1.cni.cncf.io/networks"},
      {"engines.NAME.rdma.env", "", "none", "{NCCL_IB_HCA: ^mlx5_bond, NCCL_SOCKET_IFNAME: eth0}",
       "Its NCCL variables"},
      {"engines.NAME.image_pull_secrets", "", "none", "[registry]",
       "Secrets in the namespace that log in to registries"},
      {"engines.NAME.write_rate", "200", "", "50", "Writes to the API server in a second, at most"},
      {"engines.NAME.write_burst", "400", "", "100", "Writes that may come at once"},
      {"engines.NAME.out_of_service_taint", "false", "", "true",
       "Taint a confirmed dead node node.kubernetes.io/out-of-service, so that volumes come free"},
      {"engines.NAME.provision_timeout", "15m", "", "1h",
       "Time for the pods of an attempt to run before it is placed anew; a plain number is "
       "seconds, "
       "-1 waits for ever"},
      {"engines.NAME.autoscaler", "", "none", "karpenter",
       "What adds nodes for pods that wait: gke, karpenter, coreweave, nebius or generic; no "
       "effect "
       "yet"},
      {"kubernetes.allowed_contexts", "", "none", "[west, east]",
       "An engine for each context, of its name"},
  };
}

}  // namespace

const std::vector<Key>& keys() {
  static const std::vector<Key> kAll = build();
  return kAll;
}

const Key* find_key(std::string_view pattern) {
  const auto& all = keys();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Key& key) { return key.pattern == pattern; });
  return found == all.end() ? nullptr : &*found;
}

std::string canonical(std::string_view pattern) {
  for (const std::string_view prefix : {"kubernetes.context_configs.NAME.", "kubernetes."}) {
    if (pattern.starts_with(prefix)) {
      std::string of_engine = fmt::format("engines.NAME.{}", pattern.substr(prefix.size()));
      if (find_key(of_engine) != nullptr) {
        return of_engine;
      }
    }
  }
  return std::string(pattern);
}

}  // namespace quad::config
