#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "config/keys.h"
#include "spec/yaml.h"

namespace quad::config {

namespace {

using spec::Rule;

json::value value_of(std::string_view yaml) {
  const spec::YamlStream stream = spec::read_yaml(yaml);
  return stream.documents.empty() ? json::value() : to_json(stream.documents.front());
}

std::string pattern_below(const std::string& pattern, std::string_view key) {
  return pattern.empty() ? std::string(key) : fmt::format("{}.{}", pattern, key);
}

json::value schema_of(const Rule& rule, const std::string& pattern);

void add_map(const Rule& rule, const std::string& pattern, json::object& out) {
  out["type"] = "object";
  json::object properties;
  for (const spec::Field& field : rule.fields) {
    properties[field.name] = schema_of(*field.rule, pattern_below(pattern, field.name));
  }
  if (!properties.empty()) {
    out["properties"] = std::move(properties);
  }
  out["additionalProperties"] =
      rule.item ? schema_of(*rule.item, pattern_below(pattern, "NAME")) : json::value(false);
}

json::value plain(double bound) {
  const auto whole = static_cast<std::int64_t>(bound);
  return static_cast<double>(whole) == bound ? json::value(whole) : json::value(bound);
}

void add_number(const Rule& rule, json::object& out) {
  out["type"] = rule.kind == Rule::Kind::kInteger ? "integer" : "number";
  if (rule.least) {
    out["minimum"] = plain(*rule.least);
  }
  if (rule.above) {
    out["exclusiveMinimum"] = plain(*rule.above);
  }
  if (rule.most) {
    out["maximum"] = plain(*rule.most);
  }
}

json::value schema_of(const Rule& rule, const std::string& pattern) {
  json::object out;
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return true;
    case Rule::Kind::kNull:
      out["type"] = "null";
      break;
    case Rule::Kind::kBool:
      out["type"] = "boolean";
      break;
    case Rule::Kind::kInteger:
    case Rule::Kind::kNumber:
      add_number(rule, out);
      break;
    case Rule::Kind::kText:
      out["type"] = "string";
      if (!rule.choices.empty() && !rule.ignore_case) {
        out["enum"] = json::array(rule.choices.begin(), rule.choices.end());
      }
      break;
    case Rule::Kind::kList:
      out["type"] = "array";
      out["items"] = schema_of(*rule.item, pattern + "[]");
      if (rule.min_size > 0) {
        out["minItems"] = rule.min_size;
      }
      break;
    case Rule::Kind::kMap:
      add_map(rule, pattern, out);
      break;
    case Rule::Kind::kEither: {
      json::array all;
      for (const spec::RuleRef& one : rule.alternatives) {
        all.push_back(schema_of(*one, ""));
      }
      out["anyOf"] = std::move(all);
      break;
    }
  }
  if (const Key* key = find_key(canonical(pattern))) {
    out["description"] = key->meaning;
    if (!key->fallback.empty() && key->pattern == pattern) {
      out["default"] = value_of(key->fallback);
    }
  }
  return out;
}

/// The rule at a pattern, or null.
const Rule* rule_at(std::string_view pattern) {
  const Rule* rule = &config_rule();
  while (!pattern.empty()) {
    const std::size_t dot = pattern.find('.');
    const std::string_view word = pattern.substr(0, dot);
    pattern = dot == std::string_view::npos ? "" : pattern.substr(dot + 1);
    const auto field = std::find_if(rule->fields.begin(), rule->fields.end(),
                                    [&](const spec::Field& one) { return one.name == word; });
    rule = field != rule->fields.end() ? field->rule.get() : rule->item.get();
    if (rule == nullptr) {
      return nullptr;
    }
  }
  return rule;
}

/// The kind of a value, in few words: the example shows how it is written.
std::string kind_of(const Rule& rule) {
  switch (rule.kind) {
    case Rule::Kind::kBool:
      return "true or false";
    case Rule::Kind::kInteger:
      return "integer";
    case Rule::Kind::kNumber:
      return "number";
    case Rule::Kind::kList:
      return "list";
    case Rule::Kind::kMap:
      return "mapping";
    case Rule::Kind::kText:
      return "text";
    case Rule::Kind::kEither:
      return rule.alternatives.front()->shape.starts_with("a time")   ? "time"
             : rule.alternatives.front()->shape.starts_with("a size") ? "size"
             : rule.alternatives.back()->kind == Rule::Kind::kMap     ? "text, list or mapping"
                                                                      : "number";
    default:
      return describe(rule);
  }
}

}  // namespace

json::object schema() {
  json::object out = schema_of(config_rule(), "").as_object();
  out["$schema"] = "http://json-schema.org/draft-07/schema#";
  out["title"] = "The configuration of a Quad server";
  return out;
}

std::string markdown_table() {
  std::string table = "| key | type | default | example | meaning |\n|---|---|---|---|---|\n";
  for (const Key& key : keys()) {
    const Rule* rule = rule_at(key.pattern);
    const std::string fallback =
        key.fallback.empty() ? std::string(key.unset) : fmt::format("`{}`", key.fallback);
    fmt::format_to(std::back_inserter(table), "| `{}` | {} | {} | `{}` | {} |\n", key.pattern,
                   rule != nullptr ? kind_of(*rule) : "", fallback, key.example, key.meaning);
  }
  return table;
}

}  // namespace quad::config
