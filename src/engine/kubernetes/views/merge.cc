#include "engine/kubernetes/views/merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace quad::kubernetes {

namespace {

struct KeyedList {
  std::string_view name;
  std::string_view key;
};

// Kubernetes' lists with the patch strategy "merge", as far as SkyPilot honours it.
constexpr std::array kKeyedLists = {
    KeyedList{"initContainers", "name"}, KeyedList{"ephemeralContainers", "name"},
    KeyedList{"volumes", "name"},        KeyedList{"volumeMounts", "name"},
    KeyedList{"resourceClaims", "name"}, KeyedList{"env", "name"},
    KeyedList{"hostAliases", "ip"},      KeyedList{"topologySpreadConstraints", "topologyKey"},
    KeyedList{"ports", "containerPort"}, KeyedList{"volumeDevices", "devicePath"},
};

bool same_item(const json::object& a, const json::object& b, std::string_view key) {
  const json::value* x = a.if_contains(key);
  const json::value* y = b.if_contains(key);
  return x != nullptr && y != nullptr && *x == *y;
}

Error wrong_form(std::string_view expected, const std::string& path) {
  return error(ErrorCode::kInvalid, fmt::format("{} must be {}.", path, expected), path);
}

Status merge_keyed(json::array& base, const json::array& over, std::string_view key,
                   const std::string& path) {
  for (std::size_t i = 0; i < over.size(); ++i) {
    const std::string where = fmt::format("{}[{}]", path, i);
    const json::object* item = over[i].if_object();
    if (item == nullptr) {
      return wrong_form("a mapping", where);
    }
    const auto same = std::find_if(base.begin(), base.end(), [&](const json::value& one) {
      return one.is_object() && same_item(one.get_object(), *item, key);
    });
    if (same == base.end()) {
      base.push_back(*item);
    } else {
      QUAD_TRY(merge_pod_config(same->get_object(), *item, where));
    }
  }
  return {};
}

Status merge_first(json::array& base, const json::array& over, const std::string& path) {
  if (over.size() != 1 || !over[0].is_object()) {
    return wrong_form("a list of exactly one mapping", path);
  }
  if (base.empty()) {
    base.push_back(over[0]);
    return {};
  }
  return merge_pod_config(base[0].as_object(), over[0].get_object(), path + "[0]");
}

Status merge_lists(std::string_view key, json::array& base, const json::array& over,
                   const std::string& path) {
  if (key == "containers" || key == "imagePullSecrets") {
    return merge_first(base, over, path);
  }
  for (const KeyedList& list : kKeyedLists) {
    if (key == list.name) {
      return merge_keyed(base, over, list.key, path);
    }
  }
  base.insert(base.end(), over.begin(), over.end());
  return {};
}

}  // namespace

json::object without_nulls(const json::object& config) {
  json::object result;
  for (const auto& [key, value] : config) {
    if (const json::object* object = value.if_object()) {
      result[key] = without_nulls(*object);
    } else if (const json::array* array = value.if_array()) {
      json::array& items = result[key].emplace_array();
      for (const json::value& item : *array) {
        items.push_back(item.is_object() ? json::value(without_nulls(item.get_object())) : item);
      }
    } else if (!value.is_null()) {
      result[key] = value;
    }
  }
  return result;
}

Status merge_pod_config(json::object& base, const json::object& over, const std::string& path) {
  for (const auto& [key, value] : over) {
    const std::string where = fmt::format("{}.{}", path, std::string_view(key));
    json::value* there = base.if_contains(key);
    if (there == nullptr) {
      base[key] = value;
    } else if (there->is_object()) {
      if (!value.is_object()) {
        return wrong_form("a mapping", where);
      }
      QUAD_TRY(merge_pod_config(there->get_object(), value.get_object(), where));
    } else if (there->is_array()) {
      if (!value.is_array()) {
        return wrong_form("a list", where);
      }
      QUAD_TRY(merge_lists(key, there->get_array(), value.get_array(), where));
    } else if (value.is_object() || value.is_array()) {
      return wrong_form("a single value", where);
    } else {
      *there = value;
    }
  }
  return {};
}

}  // namespace quad::kubernetes
