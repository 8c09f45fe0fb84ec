#include "engine/kubernetes/views/permitted.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "engine/kubernetes/views/pod_names.h"

namespace quad::kubernetes {

namespace {

constexpr std::array<std::string_view, 3> kHarmlessAnnotations = {
    "karpenter.sh/do-not-disrupt", "cluster-autoscaler.kubernetes.io/safe-to-evict",
    "kubectl.kubernetes.io/default-container"};
constexpr std::array<std::string_view, 2> kHarmlessLabels = {"app.kubernetes.io/part-of",
                                                             "app.kubernetes.io/version"};
/// By these, Services, budgets and policies of this and other programs select pods.
constexpr std::array<std::string_view, 4> kSelecting = {
    "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by"};

template <typename Words>
bool is_in(std::string_view word, const Words& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// By a prefix of Kubernetes' own, or one that ends in such a one.
bool is_of_kubernetes(std::string_view name) {
  constexpr std::array<std::string_view, 2> kOwners = {"kubernetes.io", "k8s.io"};
  const std::size_t slash = name.find('/');
  const std::string_view prefix = name.substr(0, slash);
  return slash != std::string_view::npos &&
         std::any_of(kOwners.begin(), kOwners.end(), [&](std::string_view one) {
           return prefix == one || prefix.ends_with(fmt::format(".{}", one));
         });
}

}  // namespace

Error not_open(const std::string& where, std::string_view why) {
  return error(ErrorCode::kDenied, fmt::format("{} is not open to jobs here: {}.", where, why),
               where);
}

bool is_within(std::string_view inner, std::string_view outer) {
  return inner.starts_with(outer) && (inner.size() == outer.size() || inner[outer.size()] == '.');
}

bool is_permitted(std::string_view key_path, const PodSettings& settings) {
  const auto& paths = settings.permissions.pod_config;
  return std::any_of(paths.begin(), paths.end(),
                     [&](const std::string& one) { return is_within(key_path, one); });
}

bool is_own(std::string_view name, const PodSettings& settings) {
  const bool hot =
      settings.hot && settings.hot->kind == HotTier::Kind::kClaim && name == settings.hot->claim;
  return hot || name.starts_with(kNamePrefix) || is_in(name, settings.reserved_names);
}

Status check_task_labels(const json::object& labels, const PodSettings& settings,
                         const std::string& path) {
  for (const auto& [key, value] : labels) {
    const std::string_view name = key;
    const std::string where = fmt::format("{}.{}", path, name);
    if (is_in(name, kSelecting)) {
      return not_open(where, "Services and policies know pods by it");
    }
    const std::string key_path = fmt::format("metadata.labels.{}", name);
    if (is_of_kubernetes(name) && !is_in(name, kHarmlessLabels) &&
        !is_permitted(key_path, settings)) {
      return not_open(where, fmt::format("it is a label of Kubernetes' own; the administrator can "
                                         "add {} to allow_pod_config",
                                         key_path));
    }
  }
  return {};
}

Status check_labels(const std::vector<NamedText>& labels, const PodSettings& settings,
                    const std::string& key) {
  json::object all;
  for (const auto& [name, value] : labels) {
    if (const std::string fault = label_fault(name, value); !fault.empty()) {
      return error(ErrorCode::kInvalid, fmt::format("{}: '{}' {}.", key, name, fault), key);
    }
    all[name] = value;
  }
  return check_task_labels(all, settings, key);
}

Status check_task_annotations(const json::object& annotations, const PodSettings& settings,
                              const std::string& path) {
  for (const auto& [key, value] : annotations) {
    const std::string_view name = key;
    const std::string key_path = fmt::format("metadata.annotations.{}", name);
    if (name.find('/') != std::string_view::npos && !name.starts_with("prometheus.io/") &&
        !is_in(name, kHarmlessAnnotations) && !is_permitted(key_path, settings)) {
      const std::string where = fmt::format("{}.{}", path, name);
      return not_open(where, fmt::format("others may act upon it; the administrator can add {} to "
                                         "allow_pod_config",
                                         key_path));
    }
  }
  return {};
}

Status check_claim(std::string_view name, const PodSettings& settings, const std::string& path) {
  return is_own(name, settings)
             ? Status(not_open(path, fmt::format("the claim '{}' is Quad's own", name)))
             : Status();
}

Status check_host_path(std::string_view folder, const PodSettings& settings,
                       const std::string& path) {
  const std::vector<std::string>& open = settings.permissions.host_paths;
  if (!is_below(folder, open)) {
    return error(ErrorCode::kDenied,
                 fmt::format("{}: '{}' of the nodes is not open to jobs; {}.", path, folder,
                             open.empty() ? "no path of them is"
                                          : "open are " + join_words({open.begin(), open.end()})),
                 path);
  }
  if (settings.hot && settings.hot->kind == HotTier::Kind::kHostPath &&
      (is_below(folder, {settings.hot->path}) ||
       is_below(settings.hot->path, {std::string(folder)}))) {
    return not_open(path, fmt::format("the hot tier is in '{}'", settings.hot->path));
  }
  return {};
}

Status check_choice(const Choice& choice, std::string_view name, std::string_view what,
                    const std::string& key) {
  if (name.empty() || choice.allowed.empty() || name == choice.standard ||
      is_in(name, choice.allowed)) {
    return {};
  }
  return error(ErrorCode::kDenied,
               fmt::format("{}: the {} '{}' is not open to jobs here; open {} {}.", key, what, name,
                           choice.allowed.size() == 1 ? "is" : "are",
                           join_words({choice.allowed.begin(), choice.allowed.end()})),
               key);
}

Status check_priority_class(const PodSettings& settings, std::string_view name,
                            const std::string& key) {
  const Choice& choice = settings.priority_classes;
  QUAD_TRY(check_choice(choice, name, "PriorityClass", key));
  if (name.starts_with("system-") && name != choice.standard && choice.allowed.empty()) {
    return not_open(key, fmt::format("the PriorityClass '{}' is for what the cluster cannot be "
                                     "without; the administrator can add it to "
                                     "priority_classes.allowed",
                                     name));
  }
  return {};
}

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

}  // namespace quad::kubernetes
