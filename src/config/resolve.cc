#include "config/resolve.h"

#include <algorithm>

#include <fmt/format.h>

#include "config/keys.h"
#include "spec/yaml.h"

namespace quad::config {

namespace {

using spec::Node;

/// A member of a member; null if anything on the way is absent.
const Node* at(const Node& root, std::string_view first, std::string_view second) {
  const Node* found = root.find_value(first);
  return found == nullptr ? nullptr : found->find_value(second);
}

Node default_of(std::string_view pattern) {
  const Key* key = find_key(canonical(pattern));
  if (key == nullptr || key->fallback.empty()) {
    return {};
  }
  return spec::read_yaml(key->fallback).documents.at(0);
}

}  // namespace

void drop_empty(Node& node, const spec::Rule& rule) {
  if (!is_group(rule)) {
    return;
  }
  const auto rule_of = [&](const spec::Entry& entry) -> const spec::Rule* {
    const auto field =
        std::find_if(rule.fields.begin(), rule.fields.end(), [&](const spec::Field& one) {
          return entry.key.is_string() && one.name == entry.key.text;
        });
    return field != rule.fields.end() ? field->rule.get() : nullptr;
  };
  std::erase_if(node.entries, [&](const spec::Entry& entry) {
    return entry.value.is_null() && rule_of(entry) != nullptr && !rule.item;
  });
  for (spec::Entry& entry : node.entries) {
    const spec::Rule* below = rule_of(entry);
    below = below == nullptr ? rule.item.get() : below;
    if (below != nullptr && is_group(*below)) {
      if (entry.value.is_null()) {
        entry.value = Node::make_mapping(entry.value.mark);  // an engine that says nothing
      }
      drop_empty(entry.value, *below);
    }
  }
}

Settings::Settings(const Node& root, const std::vector<Override>& overrides)
    : root_(root), overrides_(overrides) {
  for (const spec::Field& field : config_rule().fields) {
    const std::string name(field.name);
    if (name == "engines") {
      add_engines(*field.rule);
    } else if (is_group(*field.rule)) {
      walk(*field.rule, name, name, {root.find_value(name)}, name == "kubernetes");
    } else {
      add(name, name, name, {&root}, false);
    }
  }
}

std::string Settings::context_of(const std::string& engine) const {
  const Node* engines = root_.find_value("engines");
  const Node* written = engines == nullptr ? nullptr : engines->find_value(engine);
  const Node* context = written == nullptr ? nullptr : written->find_value("context");
  if (context != nullptr) {
    return context->text;
  }
  const Node* all = at(root_, "kubernetes", "allowed_contexts");
  const bool is_one =
      all != nullptr && std::any_of(all->items.begin(), all->items.end(),
                                    [&](const Node& one) { return one.text == engine; });
  return is_one ? engine : "";
}

spec::Mark Settings::mark_of(const std::string& engine) const {
  if (const Node* engines = root_.find_value("engines")) {
    for (const spec::Entry& entry : engines->entries) {
      if (spec::json_key(entry.key) == engine) {
        return entry.key.mark;
      }
    }
  }
  const Node* all = at(root_, "kubernetes", "allowed_contexts");
  for (std::size_t i = 0; all != nullptr && i < all->items.size(); ++i) {
    if (all->items[i].text == engine) {
      return all->items[i].mark;
    }
  }
  return {};
}

std::vector<const Node*> Settings::layers(const std::string& engine) const {
  std::vector<const Node*> layers;
  const Node* kubernetes = root_.find_value("kubernetes");
  layers.push_back(at(root_, "engines", engine));
  layers.push_back(kubernetes == nullptr ? nullptr
                                         : at(*kubernetes, "context_configs", context_of(engine)));
  layers.push_back(kubernetes);
  std::erase(layers, nullptr);
  return layers;
}

void Settings::add_engines(const spec::Rule& rule) {
  const Node* engines = root_.find_value("engines");
  if (engines != nullptr && engines->is_mapping()) {
    for (const spec::Entry& entry : engines->entries) {
      const std::string name = spec::json_key(entry.key);
      if (name == "local") {
        has_local_ = true;
      } else {
        kubernetes_.push_back(name);
      }
    }
  }
  if (const Node* contexts = at(root_, "kubernetes", "allowed_contexts")) {
    for (const Node& context : contexts->items) {
      const bool known =
          std::any_of(kubernetes_.begin(), kubernetes_.end(), [&](const std::string& name) {
            return name == context.text || context_of(name) == context.text;
          });
      if (context.is_string() && !known) {
        kubernetes_.push_back(context.text);
      }
    }
  }
  has_local_ = has_local_ || kubernetes_.empty();
  if (has_local_) {
    walk(*rule.fields.front().rule, "engines.local", "engines.local",
         {at(root_, "engines", "local")}, false);
  }
  for (const std::string& name : kubernetes_) {
    walk(*rule.item, "engines." + name, "engines.NAME", layers(name), false);
  }
}

void Settings::walk(const spec::Rule& rule, const std::string& key, const std::string& pattern,
                    const std::vector<const Node*>& layers, bool only_written) {
  for (const spec::Field& field : rule.fields) {
    const std::string below = spec::join_path(key, field.name);
    const std::string pattern_below = fmt::format("{}.{}", pattern, field.name);
    if (!is_group(*field.rule)) {
      add(below, pattern_below, field.name, layers, only_written);
      continue;
    }
    std::vector<const Node*> members;
    for (const Node* layer : layers) {
      if (layer != nullptr) {
        members.push_back(layer->find_value(field.name));
      }
    }
    walk(*field.rule, below, pattern_below, members, only_written);
  }
  if (rule.item && only_written) {  // context_configs
    for (const Node* layer : layers) {
      const std::size_t count = layer == nullptr ? 0 : layer->entries.size();
      for (std::size_t i = 0; i < count; ++i) {
        const spec::Entry& entry = layer->entries[i];
        walk(*rule.item, spec::join_path(key, spec::json_key(entry.key)), pattern + ".NAME",
             {&entry.value}, true);
      }
    }
  }
}

void Settings::add(const std::string& key, const std::string& pattern, std::string_view name,
                   const std::vector<const Node*>& layers, bool only_written) {
  Setting setting;
  setting.key = key;
  setting.pattern = canonical(pattern);
  const auto given = std::find_if(overrides_.begin(), overrides_.end(),
                                  [&](const Override& one) { return one.key == key; });
  if (given != overrides_.end()) {
    setting.value = given->value;
    setting.layer = Setting::Layer::kFlag;
    setting.flag = given->flag;
  } else {
    for (const Node* layer : layers) {
      const Node* found = layer == nullptr ? nullptr : layer->find_value(name);
      if (found != nullptr && setting.value.is_null()) {
        setting.value = *found;
        setting.layer = Setting::Layer::kFile;
      }
    }
    if (setting.value.is_null() && only_written) {
      return;
    }
    if (setting.value.is_null()) {
      setting.value = default_of(pattern);
    }
  }
  by_key_.emplace(key, all_.size());
  all_.push_back(std::move(setting));
}

const Setting* Settings::find(std::string_view key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : &all_[found->second];
}

const Node* Settings::value(std::string_view key) const {
  const Setting* setting = find(key);
  return setting == nullptr || setting->value.is_null() ? nullptr : &setting->value;
}

}  // namespace quad::config
