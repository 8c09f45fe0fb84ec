#include "engine/kubernetes/views/node_match.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace quad::kubernetes {

namespace {

/// A list of texts, as label selectors have.
bool contains(const json::object& requirement, std::string_view value) {
  const json::array* values = get_array(requirement, "values");
  return values != nullptr && std::any_of(values->begin(), values->end(), [&](const auto& one) {
           return one.is_string() && std::string_view(one.get_string()) == value;
         });
}

/// One requirement on a label that may be absent (null).
bool meets(const json::object& requirement, const std::string* value) {
  const std::string_view how = get_string(requirement, "operator");
  if (how == "Exists") {
    return value != nullptr;
  }
  if (how == "DoesNotExist") {
    return value == nullptr;
  }
  if (how == "In") {
    return value != nullptr && contains(requirement, *value);
  }
  if (how == "NotIn") {
    return value == nullptr || !contains(requirement, *value);
  }
  const json::array* values = get_array(requirement, "values");
  if ((how == "Gt" || how == "Lt") && value != nullptr && values != nullptr &&
      values->size() == 1 && (*values)[0].is_string()) {
    const auto have = parse_number(*value);
    const auto bound = parse_number(std::string_view((*values)[0].get_string()));
    return have && bound && (how == "Gt" ? *have > *bound : *have < *bound);
  }
  return false;
}

bool meets_all(const json::object& term, std::string_view list, const NodeView& node) {
  const json::array* requirements = get_array(term, list);
  if (requirements == nullptr) {
    return true;
  }
  return std::all_of(requirements->begin(), requirements->end(), [&](const json::value& one) {
    const json::object* requirement = one.if_object();
    if (requirement == nullptr) {
      return false;
    }
    const std::string key(get_string(*requirement, "key"));
    if (list == "matchFields") {
      return key == "metadata.name" && meets(*requirement, &node.name);
    }
    const auto label = node.labels.find(key);
    return meets(*requirement, label == node.labels.end() ? nullptr : &label->second);
  });
}

/// A term without requirements matches nothing.
bool matches(const json::value& term, const NodeView& node) {
  const json::object* object = term.if_object();
  const bool empty = object == nullptr || (get_array(*object, "matchExpressions") == nullptr &&
                                           get_array(*object, "matchFields") == nullptr);
  return !empty && meets_all(*object, "matchExpressions", node) &&
         meets_all(*object, "matchFields", node);
}

bool tells_of_trouble(const Taint& taint) {
  return taint.key.starts_with("node.kubernetes.io/") &&
         taint.key != "node.kubernetes.io/out-of-service";
}

}  // namespace

bool tolerates(const json::array& tolerations, const Taint& taint) {
  return std::any_of(tolerations.begin(), tolerations.end(), [&](const json::value& one) {
    const json::object* toleration = one.if_object();
    if (toleration == nullptr) {
      return false;
    }
    const std::string_view key = get_string(*toleration, "key");
    const std::string_view effect = get_string(*toleration, "effect");
    const bool exists = get_string(*toleration, "operator", "Equal") == "Exists";
    return (effect.empty() || effect == taint.effect) &&
           (key == taint.key || (key.empty() && exists)) &&
           (exists || get_string(*toleration, "value") == taint.value);
  });
}

std::string node_refusal(const json::object& spec, const NodeView& node) {
  const json::array none;
  const json::array* tolerations = get_array(spec, "tolerations");
  for (const Taint& taint : node.taints) {
    if (taint.effect != "PreferNoSchedule" && !tells_of_trouble(taint) &&
        !tolerates(tolerations ? *tolerations : none, taint)) {
      return fmt::format("has the taint {}{}{}:{}, which the job does not tolerate", taint.key,
                         taint.value.empty() ? "" : "=", taint.value, taint.effect);
    }
  }
  if (const json::object* selector = get_object(spec, "nodeSelector")) {
    for (const auto& [key, value] : *selector) {
      const std::string_view wanted = get_string(*selector, key);
      const auto label = node.labels.find(std::string(key));
      if (label == node.labels.end() || label->second != wanted) {
        return fmt::format("lacks the label {}={}, which the job selects", std::string_view(key),
                           wanted);
      }
    }
  }
  const json::object* affinity = get_object(spec, "affinity");
  const json::object* wanted = affinity ? get_object(*affinity, "nodeAffinity") : nullptr;
  const json::object* required =
      wanted ? get_object(*wanted, "requiredDuringSchedulingIgnoredDuringExecution") : nullptr;
  const json::array* terms = required ? get_array(*required, "nodeSelectorTerms") : nullptr;
  if (terms != nullptr && std::none_of(terms->begin(), terms->end(), [&](const json::value& term) {
        return matches(term, node);
      })) {
    return "is not among those that the job's node affinity allows";
  }
  return {};
}

}  // namespace quad::kubernetes
