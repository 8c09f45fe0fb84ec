#include "engine/kubernetes/views/pod_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "engine/kubernetes/views/attempt_manifest.h"
#include "engine/kubernetes/views/merge.h"
#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/permitted.h"
#include "engine/kubernetes/views/pod_config.h"
#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/views/pod_volumes.h"
#include "engine/kubernetes/views/quantity.h"

namespace quad::kubernetes {

namespace {

constexpr std::string_view kTaskConfig = "config.kubernetes.pod_config";
constexpr std::string_view kTaskMetadata = "config.kubernetes.custom_metadata";
constexpr std::string_view kServerConfig = "kubernetes.pod_config";
constexpr std::string_view kServerMetadata = "kubernetes.custom_metadata";
constexpr std::string_view kRankFolder = "/quad/rank";
// Kubernetes' default for a container's terminationMessagePath, which no pod_config may change.
constexpr std::string_view kTerminationMessage = "/dev/termination-log";

// File modes, as JSON has no octal numbers.
constexpr int kOwnerReads = 0400;
constexpr int kAllRead = 0444;

/// NCCL as it should be on any site with RDMA; the site's own settings come before.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kNcclDefaults = {{
    {"NCCL_SOCKET_IFNAME", "eth0"},  // its control plane, over the pod network
    {"NCCL_CROSS_NIC", "0"},         // for rail-optimised fabrics
    {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"},
    {"TORCH_NCCL_TRACE_BUFFER_SIZE", "2000"},
}};

bool has_rdma(const PodRequest& request, const PodSettings& settings) {
  return request.best_network && settings.rdma.has_value();
}

/// The member `key` as an object, made if it is none.
json::object& object_at(json::object& object, std::string_view key) {
  json::value& value = object[key];
  return value.is_object() ? value.get_object() : value.emplace_object();
}

/// What every pod tolerates.
json::array usual_tolerations(const PodSettings& settings) {
  json::array tolerations;
  // Quad decides about its ranks, not the taint manager.
  for (const std::string_view key :
       {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}) {
    tolerations.push_back(
        json::object{{"key", key}, {"operator", "Exists"}, {"effect", "NoExecute"}});
  }
  tolerations.insert(tolerations.end(), settings.tolerations.begin(), settings.tolerations.end());
  return tolerations;
}

json::object node_selector(const PodSettings& settings) {
  json::object selector;
  for (const auto& [key, value] : settings.node_selector) {
    selector[key] = value;
  }
  return selector;
}

class PodMaker {
 public:
  PodMaker(const PodRequest& request, const PodSettings& settings)
      : request_(request), settings_(settings) {
    const auto known = settings.identities.find(request.owner);
    if (!request_.identity && known != settings.identities.end()) {
      request_.identity = known->second;
    }
  }

  Result<json::object> make(std::string_view secret_uid) {
    QUAD_TRY(check_priority_class(settings_, request_.priority_class, "resources.priority_class"));
    QUAD_ASSIGN(PodVolumes volumes, pod_volumes(request_, settings_));
    volumes_ = std::move(volumes);
    json::object pod{{"apiVersion", "v1"}, {"kind", "Pod"}};
    QUAD_ASSIGN(pod["metadata"], metadata(secret_uid));
    pod["spec"] = spec();
    QUAD_TRY(
        lay_over(pod, settings_.pod_config, ConfigOf::kAdministrator, std::string(kServerConfig)));
    QUAD_TRY(lay_over(pod, request_.pod_config, ConfigOf::kTask, std::string(kTaskConfig)));
    finish(pod["spec"].get_object());
    return pod;
  }

 private:
  Status lay_over(json::object& pod, const json::object& config, ConfigOf whose,
                  const std::string& path) const {
    const json::object said = without_nulls(config);
    QUAD_TRY(check_pod_config(said, whose, settings_, request_.identity.has_value(), path));
    return merge_pod_config(pod, said, path);
  }

  Status lay_metadata_over(json::object& metadata, const json::object& custom, ConfigOf whose,
                           std::string_view path) const {
    const json::object said = without_nulls(custom);
    QUAD_TRY(check_metadata(said, whose, settings_, std::string(path)));
    return merge_pod_config(metadata, said, std::string(path));
  }

  Result<json::object> metadata(std::string_view secret_uid) const {
    json::object metadata =
        attempt_metadata(request_, settings_, pod_name(settings_.server, request_.key), secret_uid);
    json::object labels = identity_labels(settings_.server, request_.key);
    for (const auto& [key, text] :
         {std::pair(kLabelName, std::string_view(request_.job_name)),
          std::pair(kLabelOwner, std::string_view(request_.owner)),
          std::pair(kLabelNode, std::string_view(request_.node.value()))}) {
      if (const std::string value = label_value(text); !value.empty()) {
        labels[key] = value;
      }
    }
    QUAD_TRY(check_labels(request_.labels, settings_, "resources.labels"));
    for (const auto& [key, value] : request_.labels) {
      labels[key] = value;
    }
    metadata["labels"] = std::move(labels);
    // A rank that an autoscaler tidied away would cost its whole gang a recovery.
    json::object annotations{{"quad.io/job-name", request_.job_name},
                             {"quad.io/owner-name", request_.owner},
                             {"kubectl.kubernetes.io/default-container", kRankContainer},
                             {"cluster-autoscaler.kubernetes.io/safe-to-evict", "false"},
                             {"karpenter.sh/do-not-disrupt", "true"}};
    if (has_rdma(request_, settings_) && !settings_.rdma->networks.empty()) {
      annotations["k8s.v1.cni.cncf.io/networks"] = settings_.rdma->networks;
    }
    metadata["annotations"] = std::move(annotations);
    QUAD_TRY(lay_metadata_over(metadata, settings_.custom_metadata, ConfigOf::kAdministrator,
                               kServerMetadata));
    QUAD_TRY(lay_metadata_over(metadata, request_.custom_metadata, ConfigOf::kTask, kTaskMetadata));
    return metadata;
  }

  [[nodiscard]] json::object spec() {
    json::object spec;
    spec["restartPolicy"] = "Never";
    spec["hostname"] = rank_hostname(request_.job_name, request_.key);
    if (request_.ranks > 1) {
      spec["subdomain"] = attempt_of(request_, settings_);
    }
    const auto seconds =
        std::chrono::ceil<std::chrono::seconds>(request_.stop_grace + kDeliveryMargin);
    spec["terminationGracePeriodSeconds"] = seconds.count();
    spec["automountServiceAccountToken"] = false;
    spec["enableServiceLinks"] = false;
    if (!settings_.service_account.empty()) {
      spec["serviceAccountName"] = settings_.service_account;
    }
    if (const std::string& name = request_.priority_class.empty()
                                      ? settings_.priority_classes.standard
                                      : request_.priority_class;
        !name.empty()) {
      spec["priorityClassName"] = name;
    }
    if (!gpu_resources().empty() && !settings_.gpu_runtime_class.empty()) {
      spec["runtimeClassName"] = settings_.gpu_runtime_class;
    }
    if (!settings_.node_selector.empty()) {
      spec["nodeSelector"] = node_selector(settings_);
    }
    spec["tolerations"] = tolerations();
    json::array pull_secrets;
    for (const std::string& name : settings_.image_pull_secrets) {
      pull_secrets.push_back(json::object{{"name", name}});
    }
    if (request_.login) {
      pull_secrets.push_back(json::object{{"name", pull_secret_name(request_, settings_)}});
    }
    if (!pull_secrets.empty()) {
      spec["imagePullSecrets"] = std::move(pull_secrets);
    }
    spec["securityContext"] = pod_security();
    if (!installer_stays()) {
      spec["initContainers"] = json::array{json::value(installer())};
    }
    spec["containers"] = json::array{json::value(rank())};
    spec["volumes"] = all_volumes();
    return spec;
  }

  [[nodiscard]] json::array tolerations() const {
    json::array tolerations = usual_tolerations(settings_);
    for (const std::string& key : gpu_resources()) {
      tolerations.push_back(
          json::object{{"key", key}, {"operator", "Exists"}, {"effect", "NoSchedule"}});
    }
    return tolerations;
  }

  /// Of GPUs that it has wholly or in part, by the names that nodes with them are tainted with.
  [[nodiscard]] std::vector<std::string> gpu_resources() const {
    std::vector<std::string> keys;
    if (request_.amount.gpus > 0) {
      keys.push_back(request_.gpu_resource);
    }
    for (const auto& [name, count] : request_.amount.devices) {
      const std::string key = name.substr(0, name.find('/')) + "/gpu";
      if (is_gpu_part(name) && std::find(keys.begin(), keys.end(), key) == keys.end()) {
        keys.push_back(key);
      }
    }
    return keys;
  }

  [[nodiscard]] json::object pod_security() const {
    json::object context{{"seccompProfile", {{"type", "RuntimeDefault"}}}};
    if (request_.identity) {
      const Identity& user = *request_.identity;
      context["runAsUser"] = user.uid;
      context["runAsGroup"] = user.gid;
      context["runAsNonRoot"] = user.uid != 0;
      if (!user.groups.empty()) {
        context["supplementalGroups"] = json::array(user.groups.begin(), user.groups.end());
      }
      if (user.fs_group) {
        context["fsGroup"] = *user.fs_group;
        context["fsGroupChangePolicy"] = "OnRootMismatch";
      }
    }
    return context;
  }

  [[nodiscard]] std::optional<double> limit_factor() const {
    const std::optional<double> factor =
        request_.limit_factor ? request_.limit_factor : settings_.limit_factor;
    return factor && *factor > 0 ? factor : std::nullopt;
  }

  /// Requests, and limits where they are wanted.
  [[nodiscard]] json::object resources(bool with_devices) const {
    json::object requests{{"cpu", cpu_quantity(request_.amount.cpu_milli)},
                          {"memory", byte_quantity(request_.amount.memory_bytes)}};
    json::object limits;
    if (const auto factor = limit_factor()) {
      const auto times = [&](std::int64_t amount) {
        return std::llround(static_cast<double>(amount) * *factor);
      };
      limits["cpu"] = cpu_quantity(times(request_.amount.cpu_milli));
      limits["memory"] = byte_quantity(times(request_.amount.memory_bytes));
    }
    if (with_devices) {
      if (request_.disk_bytes > 0) {
        requests["ephemeral-storage"] = byte_quantity(request_.disk_bytes);
      }
      if (request_.amount.gpus > 0) {
        const std::string count = fmt::format("{}", request_.amount.gpus);
        requests[request_.gpu_resource] = count;
        limits[request_.gpu_resource] = count;
      }
      std::map<std::string, std::int64_t> devices = request_.amount.devices;
      if (has_rdma(request_, settings_)) {
        // Counted already, unless the job is older than the setting.
        devices.insert(settings_.rdma->resources.begin(), settings_.rdma->resources.end());
      }
      for (const auto& [name, amount] : devices) {
        requests[name] = fmt::format("{}", amount);
        limits[name] = fmt::format("{}", amount);
      }
    }
    json::object resources{{"requests", std::move(requests)}};
    if (!limits.empty()) {
      resources["limits"] = std::move(limits);
    }
    return resources;
  }

  void put_image(json::object& container, const std::string& image) const {
    container["image"] = image;
    if (!settings_.image_pull_policy.empty()) {
      container["imagePullPolicy"] = settings_.image_pull_policy;
    }
  }

  /// Who brings the runner, in one of two ways, neither of which makes the pod need more than its
  /// rank. Usually a container that the kubelet starts just before the rank's, which asks for
  /// nothing and stays as long as the rank does. With limits it would have to ask for something, so
  /// that the pod's class stays Guaranteed: there it is an init container that asks for as much as
  /// the rank, whose end the kubelet notes only at its next look, up to a second later.
  [[nodiscard]] bool installer_stays() const { return !limit_factor(); }
  [[nodiscard]] json::object installer() const {
    const bool stays = installer_stays();
    json::object container{{"name", kInstallContainer}};
    put_image(container, settings_.quad_image);
    json::array command{settings_.runner_path, stays ? "keep" : "install", kQuadFolder};
    json::array mounts{
        json::object{{"name", kQuadVolume}, {"mountPath", kQuadFolder}},
        json::object{{"name", kStartVolume}, {"mountPath", kStartFolder}, {"readOnly", true}}};
    json::object security{{"allowPrivilegeEscalation", false},
                          {"capabilities", {{"drop", json::array{"ALL"}}}}};
    if (settings_.hot) {
      // It gives the rank's user its folders, so it is root, and may do no more than that.
      const HotFolders folders = hot_folders(request_, *settings_.hot);
      for (const std::string_view word : {kStartFolder, kTierFolder}) {
        command.emplace_back(word);
      }
      command.emplace_back(folders.job);
      command.emplace_back(folders.home);
      if (request_.identity) {
        command.emplace_back(fmt::format("{}:{}", request_.identity->uid, request_.identity->gid));
      }
      mounts.push_back(hot_tier_mount(kTierFolder));
      security["runAsUser"] = 0;
      security["runAsGroup"] = 0;
      security["runAsNonRoot"] = false;
      security["capabilities"].get_object()["add"] =
          json::array{"CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"};
    }
    container["command"] = std::move(command);
    if (stays) {
      const json::array hook{settings_.runner_path, "installed", kQuadFolder};
      container["lifecycle"] = {{"postStart", {{"exec", {{"command", hook}}}}}};
      container["resources"] = {{"requests", {{"cpu", "0"}, {"memory", "0"}}}};
    } else {
      container["resources"] = resources(false);
    }
    container["volumeMounts"] = std::move(mounts);
    container["securityContext"] = std::move(security);
    container["terminationMessagePolicy"] = "FallbackToLogsOnError";  // why it could not
    return container;
  }

  [[nodiscard]] json::object rank() {
    json::object container{{"name", kRankContainer}};
    put_image(container, request_.image.empty() ? settings_.default_image : request_.image);
    container["command"] = json::array{fmt::format("{}/quad-runner", kQuadFolder), kRankFolder};
    container["resources"] = resources(true);
    container["env"] = environment();
    if (!request_.ports.empty()) {
      json::array ports;
      for (const std::uint16_t port : request_.ports) {
        ports.push_back(json::object{{"containerPort", port}, {"protocol", "TCP"}});
      }
      container["ports"] = std::move(ports);
    }
    json::array mounts{json::object{{"name", kQuadVolume}, {"mountPath", kQuadFolder}},
                       json::object{{"name", kSharedMemoryVolume}, {"mountPath", "/dev/shm"}}};
    mounts.insert(mounts.end(), volumes_.mounts.begin(), volumes_.mounts.end());
    for (std::size_t i = 0; i < request_.secret_files.size(); ++i) {
      mounts.push_back(json::object{{"name", kFilesVolume},
                                    {"mountPath", request_.secret_files[i].path},
                                    {"subPath", fmt::format("file-{}", i)},
                                    {"readOnly", true}});
    }
    container["volumeMounts"] = std::move(mounts);
    container["terminationMessagePolicy"] = "FallbackToLogsOnError";
    json::object capabilities;
    if (request_.identity) {
      capabilities["drop"] = json::array{"ALL"};
    }
    if (has_rdma(request_, settings_) && settings_.rdma->lock_memory) {
      capabilities["add"] = json::array{"IPC_LOCK"};
    }
    if (!capabilities.empty()) {
      container["securityContext"] = json::object{{"capabilities", std::move(capabilities)}};
    }
    return container;
  }

  [[nodiscard]] json::array environment() const {
    std::vector<NamedText> variables{
        {"SKYPILOT_POD_NODE_TYPE", request_.key.rank.value() == 0 ? "head" : "worker"},
        {"SKYPILOT_POD_CPU_CORE_LIMIT",
         fmt::format("{:g}", static_cast<double>(request_.amount.cpu_milli) / 1000)},
        {"SKYPILOT_POD_MEMORY_BYTES_LIMIT", fmt::format("{}", request_.amount.memory_bytes)}};
    const auto put = [&](std::string_view name, std::string_view value) {
      const auto there = std::find_if(variables.begin(), variables.end(),
                                      [&](const NamedText& one) { return one.first == name; });
      if (there == variables.end()) {
        variables.emplace_back(name, value);
      } else {
        there->second = value;
      }
    };
    if (has_rdma(request_, settings_)) {
      for (const auto& [name, value] : kNcclDefaults) {
        put(name, value);
      }
      for (const auto& [name, value] : settings_.rdma->env) {
        put(name, value);
      }
    }
    for (const auto& [name, value] : request_.env) {
      put(name, value);
    }
    json::array env;
    for (const auto& [name, value] : variables) {
      env.push_back(json::object{{"name", name}, {"value", value}});
    }
    return env;
  }

  [[nodiscard]] json::array all_volumes() {
    json::array items{json::object{{"key", fmt::format("start-{}.json", request_.key.rank.value())},
                                   {"path", "start.json"}}};
    if (!settings_.ca.empty()) {
      items.push_back(json::object{{"key", "ca.pem"}, {"path", "ca.pem"}});
    }
    // Kubernetes has a Secret's files belong to root, and lets a group read them only with fsGroup.
    // Whoever runs the installer must be able to read them; nobody but it has this mount.
    const bool by_group = request_.identity && request_.identity->fs_group;
    const int mode = by_group ? kOwnerReads : kAllRead;
    const std::string secret = attempt_of(request_, settings_);
    json::array volumes{
        json::object{{"name", kQuadVolume}, {"emptyDir", json::object()}},
        json::object{
            {"name", kStartVolume},
            {"secret",
             {{"secretName", secret}, {"defaultMode", mode}, {"items", std::move(items)}}}},
        json::object{{"name", kSharedMemoryVolume}, {"emptyDir", {{"medium", "Memory"}}}}};
    if (!request_.secret_files.empty()) {
      json::array files;
      for (std::size_t i = 0; i < request_.secret_files.size(); ++i) {
        const std::string name = fmt::format("file-{}", i);
        files.push_back(json::object{{"key", name}, {"path", name}});
      }
      volumes.push_back(json::object{
          {"name", kFilesVolume},
          {"secret",
           {{"secretName", secret}, {"defaultMode", mode}, {"items", std::move(files)}}}});
    }
    volumes.insert(volumes.end(), volumes_.volumes.begin(), volumes_.volumes.end());
    return volumes;
  }

  /// What holds whatever was laid over: the node, the container's name, who brings its runner, and
  /// that a rank of a fixed user stays that user.
  void finish(json::object& spec) const {
    json::array& containers = spec["containers"].get_array();
    json::object& container = containers[0].get_object();
    container["name"] = kRankContainer;
    hide_gpus(container);
    if (json::value* others = spec.if_contains("initContainers")) {
      for (json::value& one : others->get_array()) {
        if (get_string(one.get_object(), "name") != kInstallContainer) {
          hide_gpus(one.get_object());
        }
      }
    }
    if (installer_stays()) {
      containers.insert(containers.begin(), json::value(installer()));
    }
    pin(spec);
    if (!request_.identity || request_.identity->uid == 0) {
      return;
    }
    for (const std::string_view list : {"initContainers", "containers"}) {
      json::array* all = spec.contains(list) ? spec[list].if_array() : nullptr;
      for (std::size_t i = 0; all != nullptr && i < all->size(); ++i) {
        json::object& one = (*all)[i].get_object();
        if (get_string(one, "name") == kInstallContainer) {
          continue;
        }
        json::object& security = object_at(one, "securityContext");
        if (get_bool(security, "privileged")) {
          continue;  // as the administrator permits, and Kubernetes refuses to restrict
        }
        security.emplace("allowPrivilegeEscalation", false);
        object_at(security, "capabilities")["drop"] = json::array{"ALL"};
      }
    }
  }

  /// Without this, NVIDIA's runtime shows every GPU of the node to an image that asks for all of
  /// them. A pod_config may ask for parts of GPUs, which the device plugin then shows.
  static void hide_gpus(json::object& container) {
    const json::object* resources = get_object(container, "resources");
    const json::object* limits = resources ? get_object(*resources, "limits") : nullptr;
    const auto is_nvidia = [](const json::key_value_pair& one) {
      return std::string_view(one.key()).starts_with("nvidia.com/");
    };
    const auto is_said = [](const json::value& one) {
      return one.is_object() && get_string(one.get_object(), "name") == kVisibleGpus;
    };
    json::value& said = container["env"];
    json::array& env = said.is_array() ? said.get_array() : said.emplace_array();
    if ((limits == nullptr || std::none_of(limits->begin(), limits->end(), is_nvidia)) &&
        std::none_of(env.begin(), env.end(), is_said)) {
      env.push_back(json::object{{"name", kVisibleGpus}, {"value", "none"}});
    }
  }

  /// Each of the node selector's terms is enough by itself, so each must name the node.
  void pin(json::object& spec) const {
    json::object& required = object_at(object_at(object_at(spec, "affinity"), "nodeAffinity"),
                                       "requiredDuringSchedulingIgnoredDuringExecution");
    json::value& terms = required["nodeSelectorTerms"];
    if (!terms.is_array() || terms.get_array().empty()) {
      terms = json::array{json::value(json::object())};
    }
    for (json::value& term : terms.get_array()) {
      if (!term.is_object()) {
        term.emplace_object();
      }
      term.get_object()["matchFields"] =
          json::array{json::object{{"key", "metadata.name"},
                                   {"operator", "In"},
                                   {"values", json::array{request_.node.value()}}}};
    }
  }

  PodRequest request_;
  const PodSettings& settings_;
  PodVolumes volumes_;
};

}  // namespace

std::string hot_folder(const std::optional<HotTier>& hot) {
  return hot ? hot->folder : fmt::format("{}/hot", kQuadFolder);
}

json::object start_file(const PodRequest& request, const PodSettings& settings,
                        std::string_view token) {
  return {{"server", settings.server_url},
          {"ca", settings.ca.empty() ? std::string() : fmt::format("{}/ca.pem", kRankFolder)},
          {"token", token},
          {"job", request.key.job.value()},
          {"epoch", request.key.epoch.value()},
          {"rank", request.key.rank.value()},
          {"node", request.node.value()},
          {"address", ""},
          {"gpus", json::array()},
          {"gpu_env", ""},
          {"cpu_milli", request.amount.cpu_milli},
          {"cpus", json::array()},
          {"memory_bytes", 0},  // limits are the kubelet's, where the pod has any
          {"hot", hot_folder(settings.hot)},
          {"home", request.home},
          {"termination_message", kTerminationMessage},
          {"limits", {{"spool_bytes", settings.spool_bytes}, {"namespaces", false}}}};
}

Result<json::object> pod_manifest(const PodRequest& request, const PodSettings& settings,
                                  std::string_view secret_uid) {
  return PodMaker(request, settings).make(secret_uid);
}

json::object usual_spec(const PodSettings& settings) {
  json::object pod{
      {"spec",
       {{"tolerations", usual_tolerations(settings)}, {"nodeSelector", node_selector(settings)}}}};
  if (const json::object said = without_nulls(settings.pod_config);
      !merge_pod_config(pod, said, std::string(kServerConfig)).ok()) {
    return {};  // told where a pod is made from it
  }
  return pod["spec"].get_object();
}

std::vector<NamedText> pod_warnings(const PodRequest& request, const PodSettings& settings) {
  std::vector<NamedText> warnings;
  if (request.best_network && !settings.rdma) {
    warnings.emplace_back("resources.network_tier",
                          "This cluster's RDMA network is not configured, so the job uses the pod "
                          "network; see kubernetes.rdma in the server's configuration.");
  }
  if (!settings.hot) {
    warnings.emplace_back("quad.checkpoint",
                          "This cluster has no shared storage configured, so checkpoints are lost "
                          "with their pod and a recovery starts from step 0; see hot_tier in "
                          "the server's configuration.");
  } else if (const std::string& path = request.checkpoint_path;
             is_below(path, {settings.hot->mount})) {
    const HotFolders folders = hot_folders(request, *settings.hot);
    std::vector<std::string> kept{folders.job_place, folders.home_place};
    for (const VolumeRequest& volume : request.volumes) {
      kept.push_back(volume.destination);
    }
    if (!is_below(path, kept)) {
      warnings.emplace_back(
          "quad.checkpoint.path",
          fmt::format(
              "'{}' is lost with its pod: of the hot tier a job sees its own folder and {}; "
              "save to QUAD_CHECKPOINT_DIR, or below {}.",
              path, folders.home_place, folders.home_place));
    }
  }
  return warnings;
}

}  // namespace quad::kubernetes
