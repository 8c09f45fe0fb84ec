#include "engine/kubernetes/check_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/text.h"
#include "engine/kubernetes/views/node_match.h"

namespace quad::kubernetes {

namespace {

using Level = engine::CheckLevel;

constexpr int kOldestMinor = 30;  // Kubernetes 1.30
constexpr std::string_view kDocs = "docs/kubernetes.md, \"What the server may do\"";

CheckLine line(std::string_view topic, Level level, std::string text, std::string fix = {}) {
  return {std::string(topic), level, std::move(text), std::move(fix)};
}

std::string counted(std::size_t count, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

/// At most three of them by name.
std::string some(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 3;
  std::vector<std::string_view> shown;
  for (std::size_t i = 0; i < std::min(names.size(), kMost); ++i) {
    shown.emplace_back(names[i]);
  }
  if (names.size() <= kMost) {
    return join_words(shown);
  }
  return fmt::format("{} and {} more", fmt::join(shown, ", "), names.size() - kMost);
}

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(),
                     [&](std::string_view one) { return text.starts_with(one); });
}

bool is_rdma(std::string_view resource) {
  return starts_with_any(
      resource, {"rdma/", "nvidia.com/hostdev", "nvidia.com/rdma", "openshift.io/", "mellanox.com/",
                 "vpc.amazonaws.com/efa", "intel.com/irdma", "intel.com/sriov"});
}

/// The GPU that node feature discovery saw on the PCI bus, whether a driver is there or not.
std::string_view pci_gpu(const NodeView& node) {
  for (const auto& [key, value] : node.labels) {
    if (value == "true" && key.starts_with("feature.node.kubernetes.io/pci-")) {
      if (key.find("10de") != std::string::npos) {
        return "NVIDIA";
      }
      if (key.find("_1002") != std::string::npos || key.find("-1002") != std::string::npos) {
        return "AMD";
      }
    }
  }
  return {};
}

json::object selector_only(const PodSettings& settings) {
  json::object selector;
  for (const auto& [key, value] : settings.node_selector) {
    selector[key] = value;
  }
  return {{"nodeSelector", std::move(selector)}, {"tolerations", settings.tolerations}};
}

bool is_default(const json::object& storage_class) {
  const json::object* metadata = get_object(storage_class, "metadata");
  const json::object* marks = metadata ? get_object(*metadata, "annotations") : nullptr;
  return marks != nullptr &&
         get_string(*marks, "storageclass.kubernetes.io/is-default-class") == "true";
}

std::string name_of(const json::object& object) {
  const json::object* metadata = get_object(object, "metadata");
  return metadata == nullptr ? std::string() : std::string(get_string(*metadata, "name"));
}

}  // namespace

CheckLine api_line(const Result<std::string>& version, const ClusterAccess& access) {
  if (!version.ok()) {
    if (version.error().code == ErrorCode::kDenied) {
      return line("API server", Level::kMissing, version.error().message,
                  "Renew the credentials of the kubeconfig, or of the service account.");
    }
    return line(
        "API server", Level::kMissing, version.error().message,
        fmt::format("See that {} can be reached from the machine of Quad's server (address, "
                    "proxy, firewall).",
                    access.server));
  }
  const auto parsed = parse_json_object(*version);
  const std::string text(parsed.ok() ? get_string(*parsed, "gitVersion") : "");
  const std::string minor(parsed.ok() ? get_string(*parsed, "minor") : "");
  if (text.empty()) {
    return line("API server", Level::kUnknown,
                fmt::format("{} answers, and tells no version", access.server),
                "Make sure that this is the address of a Kubernetes API server.");
  }
  if (get_string(*parsed, "major") == "1" && std::atoi(minor.c_str()) < kOldestMinor) {
    return line("API server", Level::kMissing,
                fmt::format("{} is Kubernetes {}", access.server, text),
                fmt::format("Quad needs Kubernetes 1.{} or newer.", kOldestMinor));
  }
  return line("API server", Level::kOk, fmt::format("{} is Kubernetes {}", access.server, text));
}

std::vector<CheckLine> permission_lines(const std::vector<Refused>& refused, std::size_t asked,
                                        std::string_view jobs_namespace) {
  if (refused.empty()) {
    return {line("permissions", Level::kOk, fmt::format("all {} that Quad needs", asked))};
  }
  std::vector<CheckLine> lines;
  for (const auto& [permission, verbs] : refused) {
    const std::string where = permission->where == Permission::Where::kJobs
                                  ? fmt::format("in namespace '{}'", jobs_namespace)
                              : permission->where == Permission::Where::kNodeLeases
                                  ? fmt::format("in namespace '{}'", kLeaseNamespace)
                                  : "of the whole cluster";
    lines.push_back(
        line("permissions", Level::kMissing,
             fmt::format("may not {} {} {}, so {}", join_words(verbs, "or"),
                         resource_name(permission->type), where, permission->why),
             fmt::format("Give this account the {} of {}, or install the Helm chart "
                         "with rbac.create.",
                         permission->where == Permission::Where::kCluster ? "ClusterRole" : "Role",
                         kDocs)));
  }
  return lines;
}

CheckLine admission_line(std::string_view kind, const Status& answer,
                         std::string_view jobs_namespace) {
  if (answer.ok()) {
    return line(kind, Level::kOk,
                fmt::format("namespace '{}' takes a rank's pod (a dry run)", jobs_namespace));
  }
  const Error& failure = answer.error();
  const std::string& words = failure.message;
  const auto says = [&](std::string_view text) { return words.find(text) != std::string::npos; };
  if (says("does not support dry run")) {
    return line(kind, Level::kUnknown, words,
                "The webhook declares side effects, so this can only be told by a job.");
  }
  std::string fix;
  if (failure.code == ErrorCode::kNotFound || says("NamespaceTerminating") ||
      says("is being terminated")) {
    fix = fmt::format("kubectl create namespace {}, or name another one in the configuration.",
                      jobs_namespace);
  } else if (says("PodSecurity")) {
    fix = fmt::format(
        "kubectl label --overwrite namespace {} pod-security.kubernetes.io/enforce="
        "{}.",
        jobs_namespace, says("restricted:") ? "baseline" : "privileged");
  } else if (says("quota")) {
    fix = "Raise the ResourceQuota of the namespace, or let jobs ask for less.";
  } else if (says("RuntimeClass")) {
    fix = "Set runtime_class of the engine to one of `kubectl get runtimeclasses`, or to nothing.";
  } else if (says("PriorityClass")) {
    fix = "Set priority_classes.default of the engine to one of `kubectl get priorityclasses`.";
  } else if (says("webhook")) {
    fix = "Exempt the namespace from that webhook, or set what it wants in pod_config.";
  } else if (failure.code == ErrorCode::kDenied) {
    fix = fmt::format("Give this account the Role of {}.", kDocs);
  } else {
    fix = "Change what the message names in the engine's pod_config or in the namespace.";
  }
  return line(kind, Level::kMissing, words, std::move(fix));
}

std::vector<CheckLine> node_lines(const std::vector<NodeView>& nodes, const PodSettings& settings) {
  if (nodes.empty()) {
    return {line("nodes", Level::kMissing, "there are none", "Add nodes to the cluster.")};
  }
  const json::object spec = selector_only(settings);
  std::map<std::string, std::vector<std::string>> against;  // why: nodes
  std::size_t usable = 0;
  pool::Resources all;
  for (const NodeView& node : nodes) {
    std::string why = node_trouble(node);
    if (why.empty()) {
      why = node_refusal(spec, node);
    }
    if (why.empty()) {
      ++usable;
      all.cpu_milli += node.allocatable.cpu_milli;
      all.memory_bytes += node.allocatable.memory_bytes;
    } else {
      against[why].push_back(node.name);
    }
  }
  std::vector<CheckLine> lines;
  if (usable > 0) {
    lines.push_back(line("nodes", Level::kOk,
                         fmt::format("{} of {} can take jobs: {:.0f} CPUs, {:.0f} GiB", usable,
                                     counted(nodes.size(), "node", "nodes"),
                                     static_cast<double>(all.cpu_milli) / 1000,
                                     static_cast<double>(all.memory_bytes) / (1U << 30U))));
  } else {
    lines.push_back(
        line("nodes", Level::kMissing,
             fmt::format("none of {} can take jobs", counted(nodes.size(), "node", "nodes")),
             "Uncordon or mend nodes, or change node_selector and tolerations."));
  }
  for (const auto& [why, names] : against) {
    lines.push_back(line("nodes", Level::kAdvice, fmt::format("{}: {}", some(names), why),
                         why.find("taint") != std::string::npos
                             ? "If jobs may run there, add it to the engine's tolerations."
                             : std::string()));
  }
  return lines;
}

std::vector<CheckLine> gpu_lines(const std::vector<NodeView>& nodes) {
  struct Model {
    std::int64_t gpus = 0;
    std::size_t nodes = 0;
    std::string resource;
  };
  std::map<std::string, Model> models;
  std::vector<std::string> unnamed;
  std::map<std::string_view, std::vector<std::string>> undriven;
  for (const NodeView& node : nodes) {
    if (node.allocatable.gpus > 0) {
      Model& model = models[node.gpu_model];
      model.gpus += node.allocatable.gpus;
      model.resource = node.gpu_resource;
      ++model.nodes;
      // A model that is only a maker's name: no label told more.
      if (node.gpu_model == "NVIDIA" || node.gpu_model == "AMD" || node.gpu_model == "Intel" ||
          node.gpu_model == "Habana") {
        unnamed.push_back(node.name);
      }
    } else if (const std::string_view maker = pci_gpu(node);
               !maker.empty() && node.devices.empty()) {
      undriven[maker].push_back(node.name);
    }
  }
  std::vector<CheckLine> lines;
  for (const auto& [name, model] : models) {
    lines.push_back(line("GPUs", Level::kOk,
                         fmt::format("{} {} on {} ({})", model.gpus, name,
                                     counted(model.nodes, "node", "nodes"), model.resource)));
  }
  if (!unnamed.empty()) {
    lines.push_back(line("GPUs", Level::kAdvice,
                         fmt::format("the model of the GPUs of {} is not known, so `accelerators` "
                                     "cannot ask for it",
                                     some(unnamed)),
                         "Install GPU feature discovery (it is in NVIDIA's GPU operator), or "
                         "kubectl label node NODE quad.io/gpu=H100."));
  }
  for (const auto& [maker, names] : undriven) {
    lines.push_back(line("GPUs", Level::kMissing,
                         fmt::format("{} {} {} of {} that no device plugin offers", some(names),
                                     names.size() == 1 ? "has" : "have", "GPUs", maker),
                         maker == "AMD" ? "Install AMD's GPU operator or its device plugin."
                                        : "Install NVIDIA's GPU operator: it brings driver, "
                                          "runtime and device plugin."));
  }
  if (lines.empty()) {
    lines.push_back(line("GPUs", Level::kAdvice, "no node offers GPUs",
                         "Where there are some, install NVIDIA's or AMD's GPU operator."));
  }
  return lines;
}

std::vector<CheckLine> rdma_lines(const std::vector<NodeView>& nodes,
                                  const std::optional<RdmaSettings>& rdma,
                                  const Result<bool>& has_multus) {
  std::map<std::string, std::size_t> offered;  // resource: nodes that have it
  for (const NodeView& node : nodes) {
    for (const auto& [name, count] : node.devices) {
      if (count > 0) {
        ++offered[name];
      }
    }
  }
  std::vector<CheckLine> lines;
  if (!rdma) {
    std::vector<std::string> found;
    for (const auto& [name, count] : offered) {
      if (is_rdma(name)) {
        found.push_back(name);
      }
    }
    if (found.empty()) {
      return {line("RDMA", Level::kAdvice, "not configured, and no node offers it",
                   "Gangs talk over the pods' network. For network_tier: best install the network "
                   "operator and set rdma.resources of the engine.")};
    }
    return {line("RDMA", Level::kAdvice,
                 fmt::format("nodes offer {}, and network_tier: best uses none of it", some(found)),
                 fmt::format("Set rdma.resources of the engine, such as {{{}: 1}}.", found[0]))};
  }
  for (const auto& [name, count] : rdma->resources) {
    if (const auto found = offered.find(name); found != offered.end()) {
      lines.push_back(
          line("RDMA", Level::kOk,
               fmt::format("{} is on {}", name, counted(found->second, "node", "nodes"))));
    } else {
      lines.push_back(line("RDMA", Level::kMissing,
                           fmt::format("no node offers {}, which rdma.resources names", name),
                           "Install its device plugin (NVIDIA's network operator or the SR-IOV "
                           "operator), or correct rdma.resources."));
    }
  }
  if (!rdma->networks.empty()) {
    if (!has_multus.ok()) {
      lines.push_back(line("RDMA", Level::kUnknown, has_multus.error().message));
    } else if (*has_multus) {
      lines.push_back(line("RDMA", Level::kOk, "the cluster knows additional networks (Multus)"));
    } else {
      lines.push_back(
          line("RDMA", Level::kMissing,
               fmt::format("rdma.networks names {}, and the cluster knows no additional "
                           "networks",
                           rdma->networks),
               "Install Multus, or remove rdma.networks."));
    }
  }
  return lines;
}

CheckLine hot_tier_line(const std::optional<HotTier>& hot, const Result<json::object>& claim,
                        std::string_view jobs_namespace) {
  if (!hot) {
    return line("hot tier", Level::kAdvice,
                "none, so a job that is brought back begins at step 0, unless it keeps its "
                "checkpoints on a volume of its own",
                "Set hot_tier: storage that all nodes share, such as {pvc: quad-home}.");
  }
  if (hot->kind == HotTier::Kind::kNfs) {
    return line("hot tier", Level::kUnknown,
                fmt::format("{}:{} is mounted with each pod", hot->nfs_server, hot->path),
                "Nodes need an NFS client (nfs-common); the first job tells.");
  }
  if (hot->kind == HotTier::Kind::kHostPath) {
    return line(
        "hot tier", Level::kUnknown,
        fmt::format("{} of each node, which must be one file system that they share", hot->path),
        "The first job tells whether it is there.");
  }
  if (!claim.ok()) {
    // It was asked with an apply that keeps nothing, which would make it where it is not.
    const bool absent =
        claim.error().code == ErrorCode::kInvalid || claim.error().code == ErrorCode::kNotFound;
    return line(
        "hot tier", absent ? Level::kMissing : Level::kUnknown,
        absent ? fmt::format("there is no claim '{}' in namespace '{}'", hot->claim, jobs_namespace)
               : claim.error().message,
        absent ? "Make a PersistentVolumeClaim of that name with accessModes: "
                 "[ReadWriteMany]."
               : "");
  }
  const json::object* status = get_object(*claim, "status");
  const std::string_view phase = status == nullptr ? "" : get_string(*status, "phase");
  const json::object* spec = get_object(*claim, "spec");
  const json::array* modes = spec == nullptr ? nullptr : get_array(*spec, "accessModes");
  const bool shared =
      modes != nullptr && std::any_of(modes->begin(), modes->end(), [](const json::value& mode) {
        return mode.is_string() && mode.get_string() == "ReadWriteMany";
      });
  if (!shared) {
    return line(
        "hot tier", Level::kMissing,
        fmt::format("claim '{}' is not ReadWriteMany, so only one node can use it at a time",
                    hot->claim),
        "Use a StorageClass for shared file systems (NFS, CephFS, Longhorn) and "
        "accessModes: [ReadWriteMany].");
  }
  if (phase == "Bound") {
    return line(
        "hot tier", Level::kOk,
        fmt::format("claim '{}' is bound, ReadWriteMany, seen at {}", hot->claim, hot->mount));
  }
  if (phase == "Lost") {
    return line("hot tier", Level::kMissing, fmt::format("claim '{}' lost its volume", hot->claim),
                "Restore the PersistentVolume, or name another claim.");
  }
  return line("hot tier", Level::kAdvice,
              fmt::format("claim '{}' is not bound yet ({})", hot->claim,
                          phase.empty() ? "no phase" : phase),
              "With a StorageClass that waits for the first consumer the first job binds it; else "
              "see kubectl describe pvc.");
}

std::vector<CheckLine> storage_lines(const Result<std::vector<json::object>>& classes,
                                     const std::vector<std::string>& configured,
                                     std::string_view fallback) {
  if (!classes.ok()) {
    return {line("storage", Level::kUnknown, classes.error().message,
                 "The server's account needs no right to it; an administrator sees it with quad "
                 "check --context.")};
  }
  std::set<std::string> names;
  std::vector<std::string> shown;
  std::string standard(fallback);
  for (const json::object& one : *classes) {
    names.insert(name_of(one));
    shown.push_back(name_of(one));
    if (standard.empty() && is_default(one)) {
      standard = name_of(one);
    }
  }
  std::vector<CheckLine> lines;
  for (const std::string& name : configured) {
    if (names.count(name) == 0) {
      lines.push_back(line("storage", Level::kMissing,
                           fmt::format("there is no StorageClass '{}', which the configuration "
                                       "names",
                                       name),
                           names.empty() ? "Install a storage provisioner, such as Longhorn."
                                         : fmt::format("There are {}.", some(shown))));
    }
  }
  if (names.empty()) {
    lines.push_back(line("storage", Level::kAdvice,
                         "there are no StorageClasses, so volumes with "
                         "a size cannot be made",
                         "Install a storage provisioner, such as Longhorn or local-path."));
  } else if (standard.empty()) {
    lines.push_back(line("storage", Level::kAdvice,
                         fmt::format("none of the StorageClasses ({}) is the default, so volumes "
                                     "must name one",
                                     some(shown)),
                         "Set storage_classes.default of the engine."));
  } else if (lines.empty()) {
    lines.push_back(line(
        "storage", Level::kOk,
        fmt::format("StorageClasses {}; volumes that name none get '{}'", some(shown), standard)));
  }
  return lines;
}

std::string full_image_name(std::string_view image) {
  std::string name(image);
  const std::size_t slash = name.find('/');
  const std::string first = slash == std::string::npos ? "" : name.substr(0, slash);
  if (first.find_first_of(".:") == std::string::npos && first != "localhost") {
    name = (slash == std::string::npos ? "docker.io/library/" : "docker.io/") + name;
  }
  if (name.find('@') == std::string::npos &&
      name.find(':', name.rfind('/') + 1) == std::string::npos) {
    name += ":latest";
  }
  return name;
}

CheckLine image_line(std::string_view what, const std::string& image,
                     const std::map<std::string, std::set<std::string>>& on,
                     const std::vector<EventView>& failures) {
  if (image.empty()) {
    return line("images", Level::kAdvice,
                fmt::format("no {} is configured, so each task must name its image", what),
                "Set jobs.defaults.image, such as nvcr.io/nvidia/pytorch:24.10-py3.");
  }
  const std::string full = full_image_name(image);
  const auto has = [&](const auto& node) { return node.second.count(full) > 0; };
  const auto there = static_cast<std::size_t>(std::count_if(on.begin(), on.end(), has));
  for (const EventView& event : failures) {
    if (there == 0 && event.message.find(image) != std::string::npos) {
      return line("images", Level::kMissing,
                  fmt::format("{}: {}", what, pull_failure(image, event.message).words),
                  "Correct its name, or give image_pull_secrets that log in to its registry.");
    }
  }
  if (there > 0) {
    return line("images", Level::kOk,
                fmt::format("{} '{}' is on {} of {}", what, image, there,
                            counted(on.size(), "node", "nodes")));
  }
  return line("images", Level::kUnknown,
              fmt::format("no node has told that it has {} '{}'", what, image),
              "Whether nodes can pull it is told by the first job.");
}

std::vector<CheckLine> namespace_lines(std::string_view jobs_namespace, std::string_view own,
                                       const std::map<std::string, int>& elsewhere) {
  std::vector<CheckLine> lines;
  if (jobs_namespace == own) {
    lines.push_back(line("namespace", Level::kAdvice,
                         fmt::format("jobs run in '{}', beside the server", own),
                         "Give them a namespace of their own (docs/kubernetes.md, \"Where jobs "
                         "run\")."));
  }
  for (const auto& [name, count] : elsewhere) {
    lines.push_back(
        line("namespace", Level::kAdvice,
             fmt::format("{} in namespace '{}' {} the labels of this server's ranks, but jobs run "
                         "in '{}'",
                         counted(static_cast<std::size_t>(count), "pod", "pods"), name,
                         count == 1 ? "has" : "have", jobs_namespace),
             "If jobs ran there before, delete what is left of them there; else somebody else made "
             "them, and Quad takes no notice."));
  }
  return lines;
}

void note_program(const json::object& pod, Programs& programs) {
  const json::object* metadata = get_object(pod, "metadata");
  const json::object* labels = metadata ? get_object(*metadata, "labels") : nullptr;
  if (labels == nullptr) {
    return;
  }
  for (const std::string_view key :
       {"app.kubernetes.io/name", "app.kubernetes.io/component", "app", "k8s-app"}) {
    const std::string_view name = get_string(*labels, key);
    const auto holds = [&](std::string_view word) {
      return name.find(word) != std::string_view::npos;
    };
    programs.dcgm_exporter |= holds("dcgm-exporter");
    programs.prometheus |= name == "prometheus";
    programs.metrics_server |= name == "metrics-server";
    programs.gpu_operator |= holds("gpu-operator") || holds("nvidia-device-plugin") ||
                             holds("amdgpu-device-plugin") || holds("gpu-feature-discovery");
    programs.dns |= holds("kube-dns") || holds("coredns");
  }
}

std::vector<CheckLine> metrics_lines(const Programs& programs, bool has_gpus) {
  std::vector<CheckLine> lines;
  if (programs.metrics_server) {
    lines.push_back(line("metrics", Level::kOk, "metrics.k8s.io answers (kubectl top)"));
  } else {
    lines.push_back(line("metrics", Level::kAdvice, "nothing serves metrics.k8s.io",
                         "Install metrics-server for kubectl top; Quad does not need it."));
  }
  lines.push_back(programs.prometheus
                      ? line("metrics", Level::kOk, "Prometheus runs in the cluster")
                      : line("metrics", Level::kAdvice, "no Prometheus is seen in the cluster",
                             "The server's /metrics is there for any (serviceMonitor.enabled of "
                             "the Helm chart)."));
  if (has_gpus) {
    lines.push_back(programs.dcgm_exporter
                        ? line("metrics", Level::kOk, "NVIDIA's DCGM exporter runs")
                        : line("metrics", Level::kAdvice,
                               "no DCGM exporter is seen, so nothing tells how busy GPUs are and "
                               "of their faults (XID)",
                               "It comes with NVIDIA's GPU operator (dcgmExporter.enabled)."));
    lines.push_back(programs.gpu_operator
                        ? line("GPU operator", Level::kOk, "its pods run")
                        : line("GPU operator", Level::kAdvice,
                               "none is seen; the device plugin came by other means",
                               "It keeps driver, runtime and labels in step (NVIDIA's or AMD's)."));
  }
  return lines;
}

CheckLine dns_line(const Programs& programs, const std::optional<bool>& resolved) {
  if (resolved && *resolved) {
    return line("DNS", Level::kOk, "names of the cluster are found from here");
  }
  if (resolved) {
    return line("DNS", Level::kMissing,
                "kubernetes.default.svc is not found from here, so ranks do not find each other",
                "See that the cluster's DNS (CoreDNS) runs and that NetworkPolicies let pods reach "
                "it.");
  }
  if (programs.dns) {
    return line("DNS", Level::kOk, "CoreDNS or kube-dns runs");
  }
  return line("DNS", Level::kUnknown, "no pod of a DNS server is seen",
              "Ranks of a gang find each other by name: a cluster without CoreDNS needs another.");
}

std::string in_other_hands(std::string_view holder, std::string_view jobs_namespace) {
  return fmt::format("another server with the same records, on {}, runs jobs in namespace '{}'",
                     holder.substr(0, holder.rfind('_')), jobs_namespace);
}

CheckLine orders_line(const LeaseView& lease, std::string_view holder, WallTime now,
                      std::string_view jobs_namespace) {
  if (lease.holder == holder) {
    return line("orders", Level::kOk,
                fmt::format("this server gives them in namespace '{}'", jobs_namespace));
  }
  // By two clocks, so for this line alone.
  const Millis lasts(lease.duration_seconds * 1000);
  if (lease.holder.empty() || !lease.renewed || now - *lease.renewed > lasts * 4) {
    return line("orders", Level::kAdvice, "nobody gives them; this server is about to");
  }
  return line("orders", Level::kMissing,
              fmt::format("{}; this one waits", in_other_hands(lease.holder, jobs_namespace)),
              "Stop one of the two. Where one is to have jobs of its own, give it a data directory "
              "of its own, not a copy.");
}

CheckLine server_line(std::string_view url) {
  const std::size_t begin = url.find("://");
  const std::string_view host = begin == std::string_view::npos ? url : url.substr(begin + 3);
  if (starts_with_any(host, {"127.", "localhost", "[::1]", "0.0.0.0", "[::]"})) {
    return line("server", Level::kMissing,
                fmt::format("pods are told to find Quad at {}, which is the pod itself", url),
                "Set url (or server_url of the engine) to an address that pods reach.");
  }
  return line("server", Level::kOk, fmt::format("pods are told to find Quad at {}", url));
}

}  // namespace quad::kubernetes
