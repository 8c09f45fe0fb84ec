// What the command line says over the file: written into the task's mapping before it is read, so
// that it is checked by the same rules.

#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/readers.h"
#include "spec/yaml.h"

namespace quad::spec {

namespace {

bool is_none(std::string_view text) {
  return text.size() == 4 && std::equal(text.begin(), text.end(), "none",
                                        [](char a, char b) { return (a | 0x20) == b; });
}

/// A key of resources: set for all, and taken out of every candidate. "none" takes it out
/// everywhere.
void override_resource(Node& task, std::string_view key, const std::optional<std::string>& value,
                       const std::vector<std::string_view>& replaces = {}) {
  if (!value) {
    return;
  }
  if (task.find_value("resources") == nullptr) {
    task.set("resources", Node::make_mapping());
  }
  Node& resources = *task.find("resources");
  if (!resources.is_mapping()) {
    return;  // which the grammar will refuse
  }
  const auto erase_from = [&](Node& node) {
    node.erase(key);
    for (const std::string_view other : replaces) {
      node.erase(other);
    }
  };
  erase_from(resources);
  for (const std::string_view group : {"any_of", "ordered"}) {
    if (Node* candidates = resources.find(group)) {
      std::for_each(candidates->items.begin(), candidates->items.end(), erase_from);
    }
  }
  if (!is_none(*value)) {
    resources.set(key, Node::make_string(*value));
  }
}

void replace_typed(Node& task, std::string_view key, const Node& value) {
  override_resource(task, key, "none");
  if (Node* resources = task.find("resources"); resources != nullptr && resources->is_mapping()) {
    resources->set(key, value);
  }
}

/// Members of `from` into `into`, mapping by mapping.
void merge(Node& into, const Node& from) {
  std::unordered_map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < into.entries.size(); ++i) {
    if (into.entries[i].key.is_string()) {
      places.emplace(into.entries[i].key.text, i);
    }
  }
  for (const Entry& entry : from.entries) {
    if (!entry.key.is_string()) {
      continue;
    }
    const auto [place, added] = places.emplace(entry.key.text, into.entries.size());
    if (added) {
      into.entries.push_back(entry);
      continue;
    }
    Node& known = into.entries[place->second].value;
    if (known.is_mapping() && entry.value.is_mapping()) {
      merge(known, entry.value);
    } else {
      known = entry.value;
    }
  }
}

void override_config(Node& task, const NamedValue& option, Issues& issues) {
  YamlStream value = read_yaml(option.second);
  if (option.first.empty()) {
    if (value.error || value.documents.size() != 1 || !value.documents[0].is_mapping()) {
      issues.fail("config", {}, "the file of --config must hold one mapping, as under config:");
      return;
    }
    if (const Node* known = task.find("config"); known == nullptr || !known->is_mapping()) {
      task.set("config", Node::make_mapping());
    }
    merge(*task.find("config"), value.documents[0]);
    return;
  }
  const auto path = split(option.first, '.');
  if (value.error || value.documents.size() > 1 ||
      std::any_of(path.begin(), path.end(), [](std::string_view p) { return p.empty(); })) {
    issues.fail(
        "config", {},
        fmt::format("--config must be KEY.KEY=VALUE, not {}={}", option.first, option.second));
    return;
  }
  Node* at = &task;
  std::vector<std::string_view> keys = {"config"};
  keys.insert(keys.end(), path.begin(), path.end());
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    const Node* next = at->find(keys[i]);
    if (next == nullptr || !next->is_mapping()) {
      at->set(keys[i], Node::make_mapping());
    }
    at = at->find(keys[i]);
  }
  at->set(keys.back(), value.documents.empty() ? Node() : std::move(value.documents[0]));
}

void override_git(Node& task, const Overrides& overrides, Issues& issues) {
  if (!overrides.git_url && !overrides.git_ref) {
    return;
  }
  Node git = Node::make_mapping();
  if (const Node* given = task.find_value("workdir"); given != nullptr && given->is_mapping()) {
    git = *given;
  }
  if (overrides.git_url) {
    git = Node::make_mapping();
    git.set("url", Node::make_string(*overrides.git_url));
  }
  if (overrides.git_ref) {
    if (git.find_value("url") == nullptr) {
      issues.fail("workdir", {}, "--git-ref needs --git-url, or a file whose workdir has a url");
      return;
    }
    git.set("ref", Node::make_string(*overrides.git_ref));
  }
  task.set("workdir", std::move(git));
}

}  // namespace

void apply_overrides(Node& task, const Overrides& overrides, Issues& issues) {
  if (overrides.name) {
    task.set("name", Node::make_string(*overrides.name));
  }
  if (overrides.workdir) {
    task.set("workdir", Node::make_string(*overrides.workdir));
  }
  override_git(task, overrides, issues);
  if (overrides.num_nodes) {
    task.set("num_nodes", Node::make_int(*overrides.num_nodes));
  }
  override_resource(task, "cpus", overrides.cpus);
  override_resource(task, "memory", overrides.memory);
  override_resource(task, "accelerators", overrides.gpus, {"gpus"});
  override_resource(task, "infra", overrides.infra, {"cloud", "region", "zone"});
  override_resource(task, "image_id", overrides.image_id);
  override_resource(task, "disk_size", overrides.disk_size);
  override_resource(task, "instance_type", overrides.instance_type);
  override_resource(task, "disk_tier", overrides.disk_tier);
  override_resource(task, "network_tier", overrides.network_tier);
  override_resource(task, "local_disk", overrides.local_disk);
  if (!overrides.ports.empty()) {
    Node ports = Node::make_sequence();
    for (const std::string& port : overrides.ports) {
      ports.items.push_back(Node::make_string(port));
    }
    replace_typed(task, "ports", ports);
  }
  if (overrides.priority) {
    replace_typed(task, "priority", Node::make_int(*overrides.priority));
  }
  if (overrides.use_spot) {
    replace_typed(task, "use_spot", Node::make_bool(*overrides.use_spot));
  }
  // Each is put into what those before it made.
  constexpr std::size_t kMostOptions = 1'000;
  if (overrides.config.size() > kMostOptions) {
    issues.fail("config", {},
                fmt::format("--config is given {} times; {} are the most allowed (write them into "
                            "a file)",
                            overrides.config.size(), kMostOptions));
    return;
  }
  for (const NamedValue& option : overrides.config) {
    override_config(task, option, issues);
  }
}

}  // namespace quad::spec
