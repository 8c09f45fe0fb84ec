#include "engine/kubernetes/views/pod_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/pod_names.h"

namespace quad::kubernetes {

namespace {

struct Reserved {
  std::string_view key;
  std::string_view why;
};

constexpr std::array kReservedSpec = {
    Reserved{"nodeName", "Quad chooses the node; restrict the choice by nodeSelector"},
    Reserved{"restartPolicy", "Quad restarts jobs as a whole"},
    Reserved{"hostname", "ranks find each other by it"},
    Reserved{"subdomain", "ranks find each other by it"},
    Reserved{"terminationGracePeriodSeconds", "set quad.stop_grace"},
    Reserved{"schedulingGates", "Quad decides when a job starts"},
    Reserved{"ephemeralContainers", "a pod cannot be made with them"},
};

constexpr std::array kReservedContainer = {
    Reserved{"command", "it starts Quad's runner; write commands in run"},
    Reserved{"args", "they are the runner's; write commands in run"},
    Reserved{"restartPolicy", "Quad restarts jobs as a whole"},
    Reserved{"terminationMessagePath", "a rank's result is read from it"},
    Reserved{"terminationMessagePolicy", "a rank's result is read from it"},
};

constexpr std::array kReservedMetadata = {
    Reserved{"name", "Quad finds its pods by it"},
    Reserved{"generateName", "Quad finds its pods by their name"},
    Reserved{"namespace", "the administrator sets it"},
    Reserved{"ownerReferences", "they clear up after the job"},
    Reserved{"finalizers", "they would keep the pod for ever"},
};

class Checker {
 public:
  Checker(ConfigOf whose, const PodSettings& settings, bool fixed_user)
      : trusted_(whose == ConfigOf::kAdministrator),
        permissions_(settings.permissions),
        fixed_user_(fixed_user) {}

  Status check(const json::object& config, const std::string& path) {
    for (const auto& [key, value] : config) {
      const std::string_view name = key;
      const std::string where = fmt::format("{}.{}", path, name);
      if (name == "metadata") {
        QUAD_TRY(metadata(value, where));
      } else if (name == "spec") {
        QUAD_TRY(spec(value, where));
      } else if ((name == "apiVersion" && value == "v1") || (name == "kind" && value == "Pod")) {
        continue;
      } else {
        return error(ErrorCode::kInvalid,
                     fmt::format("{} cannot be set: a pod_config has metadata and spec.", where),
                     where);
      }
    }
    return {};
  }

  static Status metadata(const json::value& value, const std::string& path) {
    QUAD_ASSIGN(const json::object* object, mapping(value, path));
    QUAD_TRY(reserved(*object, kReservedMetadata, path));
    for (const std::string_view part : {"labels", "annotations"}) {
      const json::value* texts = object->if_contains(part);
      if (texts == nullptr) {
        continue;
      }
      const std::string where = fmt::format("{}.{}", path, part);
      QUAD_ASSIGN(const json::object* entries, mapping(*texts, where));
      for (const auto& [key, text] : *entries) {
        const std::string_view name = key;
        if (!text.is_string()) {
          return error(ErrorCode::kInvalid,
                       fmt::format("{}.{} must be a text; put it in quotes.", where, name), where);
        }
        const std::string fault =
            label_fault(name, part == "labels" ? get_string(*entries, name) : std::string_view());
        if (!fault.empty()) {
          return error(ErrorCode::kInvalid, fmt::format("{}: '{}' {}.", where, name, fault), where);
        }
      }
    }
    return {};
  }

 private:
  static Result<const json::object*> mapping(const json::value& value, const std::string& path) {
    const json::object* object = value.if_object();
    if (object == nullptr) {
      return error(ErrorCode::kInvalid, fmt::format("{} must be a mapping.", path), path);
    }
    return object;
  }

  static Result<const json::array*> list(const json::value& value, const std::string& path) {
    const json::array* array = value.if_array();
    if (array == nullptr) {
      return error(ErrorCode::kInvalid, fmt::format("{} must be a list.", path), path);
    }
    return array;
  }

  template <std::size_t count>
  static Status reserved(const json::object& object, const std::array<Reserved, count>& keys,
                         const std::string& path) {
    for (const Reserved& one : keys) {
      if (object.contains(one.key)) {
        const std::string where = fmt::format("{}.{}", path, one.key);
        return error(ErrorCode::kInvalid, fmt::format("{} cannot be set: {}.", where, one.why),
                     where);
      }
    }
    return {};
  }

  [[nodiscard]] static Error denied(const std::string& where, std::string_view what) {
    return error(ErrorCode::kDenied,
                 fmt::format("{} is not permitted here: {}; ask the administrator.", where, what),
                 where);
  }

  /// Calls `visit` with each item of the list `key` of `object` and its path, if there is one.
  template <typename Check>
  Status each(const json::object& object, std::string_view key, const std::string& path,
              Check visit) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr) {
      return {};
    }
    QUAD_ASSIGN(const json::array* items, list(*value, fmt::format("{}.{}", path, key)));
    for (std::size_t i = 0; i < items->size(); ++i) {
      const std::string where = fmt::format("{}.{}[{}]", path, key, i);
      QUAD_ASSIGN(const json::object* item, mapping((*items)[i], where));
      QUAD_TRY(visit(*item, where));
    }
    return {};
  }

  Status spec(const json::value& value, const std::string& path) {
    QUAD_ASSIGN(const json::object* object, mapping(value, path));
    QUAD_TRY(reserved(*object, kReservedSpec, path));
    QUAD_TRY(affinity(*object, path));
    QUAD_TRY(host(*object, path));
    if (const json::value* context = object->if_contains("securityContext")) {
      QUAD_TRY(security(*context, path + ".securityContext"));
    }
    QUAD_TRY(each(*object, "volumes", path, [this](const json::object& item, const auto& where) {
      return volume(item, where);
    }));
    QUAD_TRY(each(*object, "imagePullSecrets", path,
                  [this](const json::object& item, const std::string& where) {
                    return secret(item, "name", where);
                  }));
    if (const json::array* containers = get_array(*object, "containers");
        containers != nullptr && containers->size() > 1) {
      const std::string where = path + ".containers";
      return error(
          ErrorCode::kInvalid,
          fmt::format("{} must be a list of one container, the rank's own; write others as "
                      "initContainers with restartPolicy: Always.",
                      where),
          where);
    }
    QUAD_TRY(each(*object, "containers", path,
                  [this](const json::object& item, const std::string& where) {
                    return rank_container(item, where);
                  }));
    return each(*object, "initContainers", path,
                [this](const json::object& item, const std::string& where) {
                  return init_container(item, where);
                });
  }

  static Status affinity(const json::object& spec, const std::string& path) {
    const json::object* affinity = get_object(spec, "affinity");
    const json::object* node = affinity ? get_object(*affinity, "nodeAffinity") : nullptr;
    const json::object* required =
        node ? get_object(*node, "requiredDuringSchedulingIgnoredDuringExecution") : nullptr;
    const json::array* terms = required ? get_array(*required, "nodeSelectorTerms") : nullptr;
    for (std::size_t i = 0; terms != nullptr && i < terms->size(); ++i) {
      if ((*terms)[i].is_object() && (*terms)[i].get_object().contains("matchFields")) {
        const std::string where = fmt::format(
            "{}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution."
            "nodeSelectorTerms[{}].matchFields",
            path, i);
        return error(
            ErrorCode::kInvalid,
            fmt::format("{} cannot be set: Quad chooses the node; use matchExpressions.", where),
            where);
      }
    }
    return {};
  }

  Status host(const json::object& spec, const std::string& path) {
    if (trusted_) {
      return {};
    }
    for (const std::string_view key : {"hostPID", "hostIPC"}) {
      if (get_bool(spec, key) && !permissions_.privileged) {
        return denied(fmt::format("{}.{}", path, key), "it shows the job the node's own processes");
      }
    }
    if (get_bool(spec, "hostNetwork") && !permissions_.host_network && !permissions_.privileged) {
      return denied(path + ".hostNetwork", "it puts the job into the node's own network");
    }
    for (const std::string_view key : {"serviceAccountName", "serviceAccount"}) {
      if (spec.contains(key) && !permissions_.service_account) {
        return denied(fmt::format("{}.{}", path, key), "it gives the job rights in the cluster");
      }
    }
    if (get_bool(spec, "automountServiceAccountToken") && !permissions_.service_account) {
      return denied(path + ".automountServiceAccountToken",
                    "it gives the job rights in the cluster");
    }
    return {};
  }

  Status security(const json::value& value, const std::string& path) {
    QUAD_ASSIGN(const json::object* context, mapping(value, path));
    if (trusted_ || permissions_.privileged) {
      return {};
    }
    if (get_bool(*context, "privileged")) {
      return denied(path + ".privileged", "it gives the job the whole node");
    }
    if (fixed_user_) {
      for (const std::string_view key :
           {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "runAsNonRoot"}) {
        if (context->contains(key)) {
          return denied(fmt::format("{}.{}", path, key), "jobs run under their user's own id");
        }
      }
      if (get_bool(*context, "allowPrivilegeEscalation")) {
        return denied(path + ".allowPrivilegeEscalation", "jobs run under their user's own id");
      }
    }
    for (const std::string_view key : {"procMount", "sysctls", "seLinuxOptions"}) {
      if (context->contains(key)) {
        return denied(fmt::format("{}.{}", path, key), "it weakens the container's walls");
      }
    }
    for (const std::string_view key : {"seccompProfile", "appArmorProfile"}) {
      const json::object* profile = get_object(*context, key);
      if (profile != nullptr && get_string(*profile, "type") != "RuntimeDefault") {
        return denied(fmt::format("{}.{}.type", path, key), "it weakens the container's walls");
      }
    }
    const json::object* capabilities = get_object(*context, "capabilities");
    const json::array* added = capabilities ? get_array(*capabilities, "add") : nullptr;
    for (std::size_t i = 0; added != nullptr && i < added->size(); ++i) {
      const json::string* text = (*added)[i].if_string();
      const std::string name = text ? std::string(std::string_view(*text)) : std::string();
      const auto& allowed = permissions_.capabilities;
      if (std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
        const std::vector<std::string_view> names(allowed.begin(), allowed.end());
        return denied(fmt::format("{}.capabilities.add[{}]", path, i),
                      fmt::format("capability '{}' is none of {}", name, join_words(names)));
      }
    }
    return {};
  }

  /// A reference to a Secret: those that Quad makes are other jobs'.
  Status secret(const json::object& object, std::string_view key, const std::string& path) const {
    if (!trusted_ && get_string(object, key).starts_with(kNamePrefix)) {
      return denied(fmt::format("{}.{}", path, key),
                    "Secrets that begin with quad- belong to Quad's jobs");
    }
    return {};
  }

  static Status own_name(std::string_view name, const std::string& path) {
    if (name == kQuadVolume || name.starts_with(kNamePrefix)) {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{}.name cannot be '{}': volumes that begin with quad are Quad's own.", path,
                      name),
          path + ".name");
    }
    return {};
  }

  Status volume(const json::object& item, const std::string& path) {
    QUAD_TRY(own_name(get_string(item, "name"), path));
    if (trusted_) {
      return {};
    }
    if (const json::object* folder = get_object(item, "hostPath");
        folder != nullptr && !permissions_.privileged &&
        !is_below(get_string(*folder, "path"), permissions_.host_paths)) {
      return denied(path + ".hostPath.path", fmt::format("'{}' of the nodes is not open to jobs",
                                                         get_string(*folder, "path")));
    }
    if (const json::object* source = get_object(item, "secret")) {
      QUAD_TRY(secret(*source, "secretName", path + ".secret"));
    }
    const json::object* projected = get_object(item, "projected");
    if (projected == nullptr) {
      return {};
    }
    return each(*projected, "sources", path + ".projected",
                [this](const json::object& source, const std::string& where) -> Status {
                  if (source.contains("serviceAccountToken") && !permissions_.service_account) {
                    return denied(where + ".serviceAccountToken",
                                  "it gives the job rights in the cluster");
                  }
                  const json::object* one = get_object(source, "secret");
                  return one == nullptr ? Status() : secret(*one, "name", where + ".secret");
                });
  }

  static Status check_mount(const json::object& item, const std::string& path) {
    QUAD_TRY(own_name(get_string(item, "name"), path));
    const std::string_view place = get_string(item, "mountPath");
    if (is_below(place, {std::string(kQuadFolder), std::string(kStartFolder)})) {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{}.mountPath cannot be '{}': the runner's own folder is there; mount "
                      "elsewhere.",
                      path, place),
          path + ".mountPath");
    }
    return {};
  }

  Status container(const json::object& item, const std::string& path) {
    if (const json::value* context = item.if_contains("securityContext")) {
      QUAD_TRY(security(*context, path + ".securityContext"));
    }
    QUAD_TRY(each(item, "volumeMounts", path, check_mount));
    QUAD_TRY(each(item, "env", path, [this](const json::object& entry, const std::string& where) {
      const json::object* from = get_object(entry, "valueFrom");
      const json::object* key = from ? get_object(*from, "secretKeyRef") : nullptr;
      return key == nullptr ? Status() : secret(*key, "name", where + ".valueFrom.secretKeyRef");
    }));
    return each(item, "envFrom", path, [this](const json::object& entry, const std::string& where) {
      const json::object* all = get_object(entry, "secretRef");
      return all == nullptr ? Status() : secret(*all, "name", where + ".secretRef");
    });
  }

  Status rank_container(const json::object& item, const std::string& path) {
    QUAD_TRY(reserved(item, kReservedContainer, path));
    // What SkyPilot calls its container; files written for it may say so.
    const std::string_view name = get_string(item, "name", kRankContainer);
    if (name != kRankContainer && name != "ray-node") {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{}.name cannot be '{}': the one container is called '{}'; leave the "
                      "name out.",
                      path, name, kRankContainer),
          path + ".name");
    }
    QUAD_TRY(amounts(item, path + ".resources"));
    return container(item, path);
  }

  /// What the planner counts must be asked for where it looks.
  static Status amounts(const json::object& item, const std::string& path) {
    const json::object* resources = get_object(item, "resources");
    for (const std::string_view part : {"requests", "limits"}) {
      const json::object* list = resources ? get_object(*resources, part) : nullptr;
      if (list == nullptr) {
        continue;
      }
      for (const auto& [key, value] : *list) {
        const std::string_view name = key;
        const bool gpu = is_whole_gpu(name);
        const bool counted = part == "requests" && (name == "cpu" || name == "memory");
        if (gpu || counted) {
          const std::string where = fmt::format("{}.{}.{}", path, part, name);
          return error(ErrorCode::kInvalid,
                       fmt::format("{} cannot be set: Quad counts it; set resources.{}.", where,
                                   gpu             ? "accelerators"
                                   : name == "cpu" ? "cpus"
                                                   : "memory"),
                       where);
        }
      }
    }
    return {};
  }

  Status init_container(const json::object& item, const std::string& path) {
    if (get_string(item, "name") == kInstallContainer) {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{}.name cannot be '{}': it brings the runner.", path, kInstallContainer),
          path + ".name");
    }
    return container(item, path);
  }

  bool trusted_;
  const Permissions& permissions_;
  bool fixed_user_;
};

}  // namespace

bool is_below(std::string_view path, const std::vector<std::string>& allowed) {
  const auto steps_of = [](std::string_view text) {
    std::vector<std::string_view> steps = split(text, '/');
    std::erase_if(steps, [](std::string_view step) { return step.empty() || step == "."; });
    return steps;
  };
  const auto steps = steps_of(path);
  if (!path.starts_with('/') || std::find(steps.begin(), steps.end(), "..") != steps.end()) {
    return false;
  }
  return std::any_of(allowed.begin(), allowed.end(), [&](std::string_view folder) {
    const auto prefix = steps_of(folder);
    return prefix.size() <= steps.size() && std::equal(prefix.begin(), prefix.end(), steps.begin());
  });
}

Status check_pod_config(const json::object& config, ConfigOf whose, const PodSettings& settings,
                        bool fixed_user, const std::string& path) {
  return Checker(whose, settings, fixed_user).check(config, path);
}

Status check_metadata(const json::object& metadata, const std::string& path) {
  for (const auto& [key, value] : metadata) {
    if (key != "labels" && key != "annotations") {
      const std::string where = fmt::format("{}.{}", path, std::string_view(key));
      return error(
          ErrorCode::kInvalid,
          fmt::format("{} cannot be set: custom_metadata has labels and annotations.", where),
          where);
    }
  }
  return Checker::metadata(metadata, path);
}

}  // namespace quad::kubernetes
