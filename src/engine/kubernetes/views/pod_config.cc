#include "engine/kubernetes/views/pod_config.h"

#include <fmt/format.h>

#include <array>
#include <set>

#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/permitted.h"
#include "engine/kubernetes/views/pod_config_rules.h"
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
  Checker(ConfigOf whose, const PodSettings& settings) : of_task_(whose == ConfigOf::kTask) {
    if (of_task_) {
      // Whoever names one of these changes it, as lists are merged by name.
      note_names(settings.pod_config, "volumes", volumes_);
      note_names(settings.pod_config, "initContainers", init_containers_);
    }
  }

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

  static void note_names(const json::object& config, std::string_view list,
                         std::set<std::string, std::less<>>& names) {
    const json::object* spec = get_object(config, "spec");
    const json::array* items = spec == nullptr ? nullptr : get_array(*spec, list);
    for (std::size_t i = 0; items != nullptr && i < items->size(); ++i) {
      if (const json::object* one = (*items)[i].if_object()) {
        names.emplace(get_string(*one, "name"));
      }
    }
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
    QUAD_TRY(each(*object, "volumes", path, [this](const json::object& item, const auto& where) {
      return own_name(item, where);
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

  /// A volume, or the mount of one.
  Status own_name(const json::object& item, const std::string& path) const {
    const std::string_view name = get_string(item, "name");
    if (name == kQuadVolume || name.starts_with(kNamePrefix)) {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{}.name cannot be '{}': volumes that begin with quad are Quad's own.", path,
                      name),
          path + ".name");
    }
    if (volumes_.contains(name)) {
      return not_open(path + ".name", fmt::format("the volume '{}' is the administrator's", name));
    }
    return {};
  }

  Status mount(const json::object& item, const std::string& path) const {
    QUAD_TRY(own_name(item, path));
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

  /// By this one, NVIDIA's runtime would show GPUs that the device plugin gave to others.
  Status variable(const json::object& item, const std::string& path) const {
    if (of_task_ && get_string(item, "name") == kVisibleGpus) {
      return not_open(path + ".name", "which GPUs a job sees follows from its accelerators");
    }
    return {};
  }

  Status container(const json::object& item, const std::string& path) {
    QUAD_TRY(gpus(item, path + ".resources"));
    const auto look = [this](const json::object& one, const std::string& where) {
      return mount(one, where);
    };
    QUAD_TRY(each(item, "volumeMounts", path, look));
    QUAD_TRY(each(item, "env", path, [this](const json::object& one, const std::string& where) {
      return variable(one, where);
    }));
    return each(
        item, "volumeDevices", path,
        [this](const json::object& one, const std::string& where) { return own_name(one, where); });
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
  static Status counted(const json::object& container, const std::string& path,
                        std::string_view (*key_of)(std::string_view part, std::string_view name)) {
    const json::object* resources = get_object(container, "resources");
    for (const std::string_view part : {"requests", "limits"}) {
      const json::object* list = resources ? get_object(*resources, part) : nullptr;
      for (const auto& one : list == nullptr ? json::object() : *list) {
        const std::string_view name = one.key();
        if (const std::string_view key = key_of(part, name); !key.empty()) {
          const std::string where = fmt::format("{}.{}.{}", path, part, name);
          return error(
              ErrorCode::kInvalid,
              fmt::format("{} cannot be set: Quad counts it; set resources.{}.", where, key),
              where);
        }
      }
    }
    return {};
  }

  static Status amounts(const json::object& container, const std::string& path) {
    return counted(container, path, [](std::string_view part, std::string_view name) {
      return part != "requests" ? std::string_view()
             : name == "cpu"    ? std::string_view("cpus")
             : name == "memory" ? std::string_view("memory")
                                : std::string_view();
    });
  }

  static Status gpus(const json::object& container, const std::string& path) {
    return counted(container, path, [](std::string_view /*part*/, std::string_view name) {
      return is_whole_gpu(name) ? std::string_view("accelerators") : std::string_view();
    });
  }

  Status init_container(const json::object& item, const std::string& path) {
    if (get_string(item, "name") == kInstallContainer) {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{}.name cannot be '{}': it brings the runner.", path, kInstallContainer),
          path + ".name");
    }
    if (init_containers_.contains(get_string(item, "name"))) {
      return not_open(path + ".name", "this init container is the administrator's");
    }
    return container(item, path);
  }

  bool of_task_;
  // Of the administrator's own pod_config; empty where that is what is checked.
  std::set<std::string, std::less<>> volumes_, init_containers_;
};

}  // namespace

Status check_pod_config(const json::object& config, ConfigOf whose, const PodSettings& settings,
                        bool fixed_user, const std::string& path) {
  QUAD_TRY(Checker(whose, settings).check(config, path));
  return whose == ConfigOf::kTask ? check_task_config(config, settings, fixed_user, path)
                                  : Status();
}

Status check_metadata(const json::object& metadata, ConfigOf whose, const PodSettings& settings,
                      const std::string& path) {
  for (const auto& [key, value] : metadata) {
    if (key != "labels" && key != "annotations") {
      const std::string where = fmt::format("{}.{}", path, std::string_view(key));
      return error(
          ErrorCode::kInvalid,
          fmt::format("{} cannot be set: custom_metadata has labels and annotations.", where),
          where);
    }
  }
  QUAD_TRY(Checker::metadata(metadata, path));
  if (whose == ConfigOf::kTask) {
    if (const json::object* labels = get_object(metadata, "labels")) {
      QUAD_TRY(check_task_labels(*labels, settings, path + ".labels"));
    }
    if (const json::object* annotations = get_object(metadata, "annotations")) {
      QUAD_TRY(check_task_annotations(*annotations, settings, path + ".annotations"));
    }
  }
  return {};
}

}  // namespace quad::kubernetes
