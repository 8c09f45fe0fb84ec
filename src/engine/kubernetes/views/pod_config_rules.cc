#include "engine/kubernetes/views/pod_config_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/text.h"
#include "engine/kubernetes/views/permitted.h"

namespace quad::kubernetes {

namespace {

/// How a value is looked at.
enum class Look {
  kFree,  ///< it may be anything, with all below it
  kFalse,
  kLabels,
  kAnnotations,
  kPriorityClass,
  kStorageClass,
  kRuntimeClass,
  kClaim,
  kSecret,
  kConfigMap,
  kHostPath,
  kMountPath,
  kPropagation,
  kCapabilities,
  kProfile,
  kUser,
  kVolumeGroup,
};

/// For the documentation, in the order of Look.
constexpr std::array<std::string_view, 17> kLookWords = {
    "",
    "`false` only",
    "not `quad.io/…`, nor what Kubernetes' own objects are known by: `kubernetes.io/…` and "
    "`k8s.io/…`, also below other words, but for `app.kubernetes.io/part-of` and "
    "`app.kubernetes.io/version`",
    "names without a prefix, `prometheus.io/…`, `karpenter.sh/do-not-disrupt`, "
    "`cluster-autoscaler.kubernetes.io/safe-to-evict`, "
    "`kubectl.kubernetes.io/default-container`",
    "as `priority_classes.allowed` says; `system-…` only where it is named there",
    "as `storage_classes.allowed` says",
    "that of `runtime_class`, or `nvidia`",
    "none of Quad's own, and not the hot tier",
    "those of `allow_secrets` and `image_pull_secrets`",
    "none of Quad's own",
    "one of `allow_host_paths` itself, outside of the hot tier; what lies below it by `subPath`",
    "absolute, without `..`, outside of `/quad`, `/quad-start` and `/proc`",
    "not `Bidirectional`",
    "IPC_LOCK, SYS_NICE, SYS_PTRACE",
    "`RuntimeDefault` only",
    "not where jobs run under their user's own id",
    "not where jobs run under their user's own id, nor where the hot tier is a claim, all of which "
    "Kubernetes would give to that group",
};

struct Row {
  std::string_view parent;  ///< a key path without the places in lists
  std::string_view keys;    ///< below it, with blanks between
  Look look = Look::kFree;
};

/// Stands in the table for spec.containers and spec.initContainers.
constexpr std::string_view kContainer = "container";

constexpr std::array kRows = {
    Row{"", "apiVersion kind"},
    Row{"metadata", "labels", Look::kLabels},
    Row{"metadata", "annotations", Look::kAnnotations},
    Row{"spec",
        "nodeSelector affinity tolerations topologySpreadConstraints dnsPolicy dnsConfig "
        "hostAliases activeDeadlineSeconds enableServiceLinks hostUsers"},
    Row{"spec", "hostNetwork hostPID hostIPC shareProcessNamespace automountServiceAccountToken",
        Look::kFalse},
    Row{"spec", "priorityClassName", Look::kPriorityClass},
    Row{"spec", "runtimeClassName", Look::kRuntimeClass},
    Row{"spec.imagePullSecrets", "name", Look::kSecret},
    Row{"spec.securityContext", "fsGroupChangePolicy supplementalGroupsPolicy"},
    Row{"spec.securityContext", "runAsUser runAsGroup runAsNonRoot supplementalGroups",
        Look::kUser},
    Row{"spec.securityContext", "fsGroup", Look::kVolumeGroup},
    Row{"spec.securityContext.seccompProfile", "type", Look::kProfile},
    Row{"spec.securityContext.appArmorProfile", "type", Look::kProfile},
    Row{"spec.volumes", "name emptyDir downwardAPI"},
    Row{"spec.volumes.persistentVolumeClaim", "claimName", Look::kClaim},
    Row{"spec.volumes.persistentVolumeClaim", "readOnly"},
    Row{"spec.volumes.ephemeral.volumeClaimTemplate.metadata", "labels", Look::kLabels},
    Row{"spec.volumes.ephemeral.volumeClaimTemplate.spec", "accessModes resources volumeMode"},
    Row{"spec.volumes.ephemeral.volumeClaimTemplate.spec", "storageClassName", Look::kStorageClass},
    Row{"spec.volumes.secret", "secretName", Look::kSecret},
    Row{"spec.volumes.secret", "items defaultMode optional"},
    Row{"spec.volumes.configMap", "name", Look::kConfigMap},
    Row{"spec.volumes.configMap", "items defaultMode optional"},
    Row{"spec.volumes.projected", "defaultMode"},
    Row{"spec.volumes.projected.sources", "downwardAPI"},
    Row{"spec.volumes.projected.sources.secret", "name", Look::kSecret},
    Row{"spec.volumes.projected.sources.secret", "items optional"},
    Row{"spec.volumes.projected.sources.configMap", "name", Look::kConfigMap},
    Row{"spec.volumes.projected.sources.configMap", "items optional"},
    Row{"spec.volumes.hostPath", "path", Look::kHostPath},
    Row{"spec.volumes.hostPath", "type"},
    Row{kContainer,
        "name image imagePullPolicy command args restartPolicy workingDir stdin tty resizePolicy"},
    Row{"container.resources", "requests limits"},
    Row{"container.env", "name value"},
    Row{"container.env.valueFrom", "fieldRef resourceFieldRef"},
    Row{"container.env.valueFrom.secretKeyRef", "name", Look::kSecret},
    Row{"container.env.valueFrom.secretKeyRef", "key optional"},
    Row{"container.env.valueFrom.configMapKeyRef", "name", Look::kConfigMap},
    Row{"container.env.valueFrom.configMapKeyRef", "key optional"},
    Row{"container.envFrom", "prefix"},
    Row{"container.envFrom.secretRef", "name", Look::kSecret},
    Row{"container.envFrom.secretRef", "optional"},
    Row{"container.envFrom.configMapRef", "name", Look::kConfigMap},
    Row{"container.envFrom.configMapRef", "optional"},
    Row{"container.ports", "name containerPort protocol"},
    Row{"container.volumeDevices", "name devicePath"},
    Row{"container.volumeMounts", "name readOnly recursiveReadOnly subPath subPathExpr"},
    Row{"container.volumeMounts", "mountPath", Look::kMountPath},
    Row{"container.volumeMounts", "mountPropagation", Look::kPropagation},
    Row{"container.securityContext", "readOnlyRootFilesystem"},
    Row{"container.securityContext", "privileged", Look::kFalse},
    Row{"container.securityContext", "runAsUser runAsGroup runAsNonRoot allowPrivilegeEscalation",
        Look::kUser},
    Row{"container.securityContext.capabilities", "drop"},
    Row{"container.securityContext.capabilities", "add", Look::kCapabilities},
    Row{"container.securityContext.seccompProfile", "type", Look::kProfile},
    Row{"container.securityContext.appArmorProfile", "type", Look::kProfile},
};

struct Why {
  std::string_view key;  ///< the last word of a key path
  std::string_view why;
};
/// Why some of what is not in the table, or only false there, is not.
constexpr std::array kWhys = {
    Why{"hostNetwork", "it puts the job into the node's own network"},
    Why{"hostPID", "it shows the job the node's own processes"},
    Why{"hostIPC", "it shows the job the node's own processes"},
    Why{"shareProcessNamespace", "it shows the job the process that has the hot tier mounted"},
    Why{"automountServiceAccountToken", "it gives the job rights in the cluster"},
    Why{"serviceAccountName", "it gives the job rights in the cluster"},
    Why{"serviceAccount", "it gives the job rights in the cluster"},
    Why{"serviceAccountToken", "it gives the job rights in the cluster"},
    Why{"privileged", "it gives the job the whole node"},
    Why{"hostPort", "it takes a port of the node"},
    Why{"procMount", "it weakens the container's walls"},
    Why{"sysctls", "it weakens the container's walls"},
    Why{"seLinuxOptions", "it weakens the container's walls"},
    Why{"nfs", "it mounts storage that no claim stands for"},
    Why{"dataSource", "it copies another claim"},
    Why{"dataSourceRef", "it copies another claim"},
    Why{"volumeName", "it takes a volume that may have been another's"},
    Why{"schedulerName", "Quad rests on kube-scheduler"},
    Why{"priority", "set priorityClassName"},
    Why{"lifecycle", "the kubelet would act for the job"},
    Why{"livenessProbe", "Quad itself watches its ranks"},
    Why{"readinessProbe", "Quad itself watches its ranks"},
    Why{"startupProbe", "Quad itself watches its ranks"},
};

constexpr std::array<std::string_view, 3> kCapabilities = {"IPC_LOCK", "SYS_NICE", "SYS_PTRACE"};
template <typename Words>
bool is_in(std::string_view word, const Words& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string below(std::string_view parent, std::string_view key) {
  return parent.empty() ? std::string(key) : fmt::format("{}.{}", parent, key);
}

Error wrong_form(std::string_view expected, const std::string& where) {
  return error(ErrorCode::kInvalid, fmt::format("{} must be {}.", where, expected), where);
}

Status check_mount_path(std::string_view place, const std::string& where) {
  if (!is_below(place, {"/"})) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("{} cannot be '{}': write an absolute path without '..'.", where, place),
        where);
  }
  if (is_below(place, {"/proc"}) || is_below("/", {std::string(place)})) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} cannot be '{}': mount elsewhere.", where, place), where);
  }
  return {};
}

/// Walks a task's pod_config along the table.
class Walk {
 public:
  Walk(const PodSettings& settings, bool fixed_user)
      : settings_(settings), fixed_user_(fixed_user) {}

  /// `row` is the key path as the table has it, `key_path` as an administrator writes it, `where`
  /// as the task's owner finds it.
  Status object(const json::object& object, const std::string& row, const std::string& key_path,
                const std::string& where) const {
    for (const auto& [key, value] : object) {
      const std::string_view name = key;
      QUAD_TRY(member(name, value, row, below(key_path, name), fmt::format("{}.{}", where, name)));
    }
    return {};
  }

 private:
  Status member(std::string_view name, const json::value& value, const std::string& parent,
                const std::string& key_path, const std::string& where) const {
    if (is_permitted(key_path, settings_)) {
      return keeps_off(name, value, where);
    }
    for (const Row& row : kRows) {
      if (row.parent == parent && has_key(row, name)) {
        return look(row.look, name, value, key_path, where);
      }
    }
    const bool container = parent == "spec" && (name == "containers" || name == "initContainers");
    const std::string inner = container ? std::string(kContainer) : below(parent, name);
    const auto& more = settings_.permissions.pod_config;
    if (std::none_of(kRows.begin(), kRows.end(),
                     [&](const Row& row) { return is_within(row.parent, inner); }) &&
        std::none_of(more.begin(), more.end(),
                     [&](const std::string& one) { return is_within(one, key_path); })) {
      return refuse(name, parent, key_path, where);
    }
    if (const json::object* one = value.if_object()) {
      return object(*one, inner, key_path, where);
    }
    const json::array* items = value.if_array();
    if (items == nullptr) {
      return wrong_form("a mapping or a list", where);
    }
    for (std::size_t i = 0; i < items->size(); ++i) {
      const std::string place = fmt::format("{}[{}]", where, i);
      const json::object* item = (*items)[i].if_object();
      if (item == nullptr) {
        return wrong_form("a mapping", place);
      }
      QUAD_TRY(object(*item, inner, key_path, place));
    }
    return {};
  }

  static bool has_key(const Row& row, std::string_view name) {
    const auto keys = split(row.keys, ' ');
    return std::find(keys.begin(), keys.end(), name) != keys.end();
  }

  /// What the administrator has opened is not looked at, but that it names nothing of Quad's.
  Status keeps_off(std::string_view name, const json::value& value,
                   const std::string& where) const {
    if (const json::object* object = value.if_object()) {
      for (const auto& [key, inner] : *object) {
        QUAD_TRY(keeps_off(key, inner, fmt::format("{}.{}", where, std::string_view(key))));
      }
    } else if (const json::array* items = value.if_array()) {
      for (std::size_t i = 0; i < items->size(); ++i) {
        QUAD_TRY(keeps_off(name, (*items)[i], fmt::format("{}[{}]", where, i)));
      }
    } else if (const json::string* text = value.if_string();
               text != nullptr && (name == "name" || name.ends_with("Name")) &&
               is_own(*text, settings_)) {
      return own(where, *text);
    }
    return {};
  }

  static Error own(const std::string& where, std::string_view name) {
    return not_open(where, fmt::format("'{}' is Quad's own", name));
  }

  static Error refuse(std::string_view name, const std::string& parent, const std::string& key_path,
                      const std::string& where) {
    const auto why =
        std::find_if(kWhys.begin(), kWhys.end(), [&](const Why& one) { return one.key == name; });
    if (why != kWhys.end()) {
      return closed(where, why->why, key_path);
    }
    const std::vector<std::string_view> keys = keys_of(parent);
    if (const auto near = nearest(name, keys)) {
      return not_open(where, fmt::format("there is no such key; did you mean '{}'?", *near));
    }
    return closed(where, "it is none of the keys in docs/kubernetes.md, \"pod_config\"", key_path);
  }

  static Error closed(const std::string& where, std::string_view why, std::string_view key_path) {
    return not_open(
        where, fmt::format("{}; the administrator can add {} to allow_pod_config", why, key_path));
  }

  /// All that may stand below a key path of the table.
  static std::vector<std::string_view> keys_of(const std::string& parent) {
    std::vector<std::string_view> keys;
    if (parent == "spec") {
      keys = {"containers", "initContainers"};
    }
    for (const Row& row : kRows) {
      if (row.parent == parent) {
        const auto more = split(row.keys, ' ');
        keys.insert(keys.end(), more.begin(), more.end());
      } else if (is_within(row.parent, parent)) {
        std::string_view rest = row.parent.substr(parent.size() + 1);
        keys.push_back(rest.substr(0, rest.find('.')));
      }
    }
    return keys;
  }

  Status look(Look look, std::string_view name, const json::value& value,
              const std::string& key_path, const std::string& where) const {
    const json::string* string = value.if_string();
    const std::string_view text =
        string == nullptr ? std::string_view() : std::string_view(*string);
    switch (look) {
      case Look::kFree:
        return {};
      case Look::kFalse:
        if (value != false) {
          return refuse(name, "", key_path, where);
        }
        return {};
      case Look::kLabels:
      case Look::kAnnotations: {
        const json::object* entries = value.if_object();
        if (entries == nullptr) {
          return wrong_form("a mapping", where);
        }
        return look == Look::kLabels ? check_task_labels(*entries, settings_, where)
                                     : check_task_annotations(*entries, settings_, where);
      }
      case Look::kPriorityClass:
        return check_priority_class(settings_, text, where);
      case Look::kStorageClass:
        return check_choice(settings_.storage_classes, text, "StorageClass", where);
      case Look::kRuntimeClass:
        return text == settings_.gpu_runtime_class || text == "nvidia"
                   ? Status()
                   : closed(where, fmt::format("'{}' is not the configured runtime_class", text),
                            key_path);
      case Look::kClaim:
        return check_claim(text, settings_, where);
      case Look::kSecret:
        return check_secret(text, where);
      case Look::kConfigMap:
        return is_own(text, settings_) ? Status(own(where, text)) : Status();
      case Look::kHostPath:
        return check_whole_host_path(text, where);
      case Look::kMountPath:
        return check_mount_path(text, where);
      case Look::kPropagation:
        return text == "Bidirectional"
                   ? closed(where, "what the job mounts would be mounted on the node", key_path)
                   : Status();
      case Look::kCapabilities:
        return check_capabilities(value, key_path, where);
      case Look::kProfile:
        return text == "RuntimeDefault"
                   ? Status()
                   : closed(where, "it weakens the container's walls", key_path);
      case Look::kUser:
        return fixed_user_ && value != false ? not_open(where, "jobs run under their user's own id")
                                             : Status();
      case Look::kVolumeGroup:
        if (fixed_user_) {
          return not_open(where, "jobs run under their user's own id");
        }
        return settings_.hot && settings_.hot->kind == HotTier::Kind::kClaim
                   ? not_open(where, "Kubernetes would give all of the hot tier to that group")
                   : Status();
    }
    return {};
  }

  Status check_secret(std::string_view name, const std::string& where) const {
    if (is_own(name, settings_)) {
      return own(where, name);
    }
    if (is_in(name, settings_.permissions.secrets) || is_in(name, settings_.image_pull_secrets)) {
      return {};
    }
    return not_open(where,
                    fmt::format("the Secret '{}' may be another's; the administrator can add "
                                "it to allow_secrets",
                                name));
  }

  /// Below one of them, somebody could have put a link in the place of a folder.
  Status check_whole_host_path(std::string_view folder, const std::string& where) const {
    QUAD_TRY(check_host_path(folder, settings_, where));
    const auto& paths = settings_.permissions.host_paths;
    if (std::none_of(paths.begin(), paths.end(), [&](const std::string& one) {
          return is_below(one, {std::string(folder)});
        })) {
      return not_open(where,
                      fmt::format("'{}' lies below a folder that is; mount that one, with the "
                                  "rest as subPath of the mount",
                                  folder));
    }
    return {};
  }

  static Status check_capabilities(const json::value& value, const std::string& key_path,
                                   const std::string& where) {
    const json::array* added = value.if_array();
    for (std::size_t i = 0; added != nullptr && i < added->size(); ++i) {
      const json::string* text = (*added)[i].if_string();
      const std::string_view name = text == nullptr ? std::string_view() : std::string_view(*text);
      if (!is_in(name, kCapabilities)) {
        return closed(fmt::format("{}[{}]", where, i),
                      fmt::format("capability '{}' is none of {}", name,
                                  join_words({kCapabilities.begin(), kCapabilities.end()})),
                      key_path);
      }
    }
    return added == nullptr ? Status(wrong_form("a list", where)) : Status();
  }

  const PodSettings& settings_;
  bool fixed_user_;
};

}  // namespace

Status check_task_config(const json::object& config, const PodSettings& settings, bool fixed_user,
                         const std::string& path) {
  return Walk(settings, fixed_user).object(config, "", "", path);
}

std::string pod_config_table() {
  std::string table = "| below | may stand | what is looked at |\n|---|---|---|\n";
  for (const Row& row : kRows) {
    std::string keys;
    for (const std::string_view key : split(row.keys, ' ')) {
      keys += fmt::format("{}`{}`", keys.empty() ? "" : ", ", key);
    }
    fmt::format_to(std::back_inserter(table), "| {} | {} | {} |\n",
                   row.parent.empty() ? "" : fmt::format("`{}`", row.parent), keys,
                   kLookWords.at(static_cast<std::size_t>(row.look)));
  }
  return table;
}

}  // namespace quad::kubernetes
