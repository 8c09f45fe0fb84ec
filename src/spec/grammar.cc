#include "spec/grammar.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/letters.h"
#include "spec/number.h"

namespace quad::spec {

RuleRef make(Rule rule) {
  return std::make_shared<const Rule>(std::move(rule));
}

namespace {

Rule of_kind(Rule::Kind kind) {
  Rule rule;
  rule.kind = kind;
  return rule;
}

}  // namespace

RuleRef any() {
  return make(of_kind(Rule::Kind::kAny));
}
RuleRef null() {
  return make(of_kind(Rule::Kind::kNull));
}
RuleRef boolean() {
  return make(of_kind(Rule::Kind::kBool));
}
RuleRef text() {
  return make(of_kind(Rule::Kind::kText));
}

RuleRef text_matching(bool (*matches)(std::string_view), std::string_view shape) {
  Rule rule = of_kind(Rule::Kind::kText);
  rule.matches = matches;
  rule.shape = shape;
  return make(std::move(rule));
}

RuleRef choice(std::vector<std::string_view> choices) {
  Rule rule = of_kind(Rule::Kind::kText);
  rule.choices = std::move(choices);
  return make(std::move(rule));
}

RuleRef choice_ignoring_case(std::vector<std::string_view> choices) {
  Rule rule = of_kind(Rule::Kind::kText);
  rule.choices = std::move(choices);
  rule.ignore_case = true;
  return make(std::move(rule));
}

RuleRef integer(std::optional<double> least, std::optional<double> most) {
  Rule rule = of_kind(Rule::Kind::kInteger);
  rule.least = least;
  rule.most = most;
  return make(std::move(rule));
}

RuleRef number(std::optional<double> least) {
  Rule rule = of_kind(Rule::Kind::kNumber);
  rule.least = least;
  return make(std::move(rule));
}

RuleRef number_above(double bound) {
  Rule rule = of_kind(Rule::Kind::kNumber);
  rule.above = bound;
  return make(std::move(rule));
}

RuleRef list_of(RuleRef item, std::size_t min_size, std::size_t max_size) {
  Rule rule = of_kind(Rule::Kind::kList);
  rule.item = std::move(item);
  rule.min_size = min_size;
  rule.max_size = max_size;
  return make(std::move(rule));
}

RuleRef either(std::vector<RuleRef> alternatives) {
  Rule rule = of_kind(Rule::Kind::kEither);
  rule.alternatives = std::move(alternatives);
  return make(std::move(rule));
}

Rule closed_map(std::string_view name, std::vector<Field> fields) {
  Rule rule = of_kind(Rule::Kind::kMap);
  rule.name = name;
  rule.fields = std::move(fields);
  return rule;
}

Rule open_map(std::string_view name, std::vector<Field> fields) {
  Rule rule = closed_map(name, std::move(fields));
  rule.item = any();
  return rule;
}

Rule map_of(RuleRef item) {
  Rule rule = of_kind(Rule::Kind::kMap);
  rule.item = std::move(item);
  return rule;
}

std::string join_path(const std::string& path, std::string_view key) {
  constexpr std::size_t kLongestShown = 200;
  const std::string_view cut = key.substr(0, kLongestShown);
  return path.empty() ? std::string(cut) : fmt::format("{}.{}", path, cut);
}

namespace {

std::string plain(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? fmt::format("{:.0f}", value)
                                                              : python_float_text(value);
}

std::string bounded(std::string what, const Rule& rule) {
  if (rule.least && rule.most) {
    return fmt::format("{} between {} and {}", what, plain(*rule.least), plain(*rule.most));
  }
  if (rule.least) {
    return fmt::format("{} of at least {}", what, plain(*rule.least));
  }
  if (rule.above) {
    return fmt::format("{} above {}", what, plain(*rule.above));
  }
  return what;
}

/// Secrets never appear in a message, whatever is wrong with them.
bool is_secret(std::string_view path) {
  return path.starts_with("secrets") || path.starts_with("managed_secrets") ||
         path.find("_docker_login_config") != std::string_view::npos;
}

std::string shown_at(const std::string& path, const Node& node, const Rule& rule) {
  return (rule.secret || is_secret(path)) && !node.is_mapping() && !node.is_sequence()
             ? "the value"
             : shown(node);
}

}  // namespace

std::string describe(const Rule& rule) {
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return "anything";
    case Rule::Kind::kNull:
      return "null";
    case Rule::Kind::kBool:
      return "true or false";
    case Rule::Kind::kInteger:
      return bounded("an integer", rule);
    case Rule::Kind::kNumber:
      return bounded("a number", rule);
    case Rule::Kind::kText:
      if (!rule.choices.empty()) {
        return "one of " + join_words(rule.choices, "or");
      }
      return rule.shape.empty() ? "a string" : std::string(rule.shape);
    case Rule::Kind::kList:
      return rule.item->kind == Rule::Kind::kText && rule.item->choices.empty() &&
                     rule.item->shape.empty()
                 ? "a list of strings"
                 : "a list";
    case Rule::Kind::kMap:
      return rule.fields.empty() || !rule.item ? "a mapping (key: value)" : "a mapping";
    case Rule::Kind::kEither: {
      std::vector<std::string> words;
      for (const RuleRef& alternative : rule.alternatives) {
        words.push_back(describe(*alternative));
      }
      return join_words({words.begin(), words.end()}, "or");
    }
  }
  return {};
}

bool right_kind(const Node& node, const Rule& rule) {
  switch (rule.kind) {
    case Rule::Kind::kAny:
      return true;
    case Rule::Kind::kNull:
      return node.is_null();
    case Rule::Kind::kBool:
      return node.is_bool();
    case Rule::Kind::kInteger:
      return node.is_int() || (node.kind == Node::Kind::kFloat && std::isfinite(node.number) &&
                               node.number == std::floor(node.number));
    case Rule::Kind::kNumber:
      return node.is_number();
    case Rule::Kind::kText:
      return node.is_string();
    case Rule::Kind::kList:
      return node.is_sequence();
    case Rule::Kind::kMap:
      return node.is_mapping();
    case Rule::Kind::kEither:
      return std::any_of(rule.alternatives.begin(), rule.alternatives.end(),
                         [&](const RuleRef& r) { return right_kind(node, *r); });
  }
  return false;
}

namespace {

class Checker {
 public:
  explicit Checker(Issues& issues) : issues_(issues) {}

  void run(const Node& node, const Rule& rule, const std::string& path, Nulls nulls) {
    if (issues_.failures() >= Issues::kMostKept) {
      return;  // more would help nobody, and hints cost time
    }
    if (!right_kind(node, rule)) {
      issues_.fail(path, node.mark,
                   fmt::format("{} must be {}, not {}", path.empty() ? "this" : path,
                               describe(rule), shown_at(path, node, rule)),
                   hint_for(node, rule));
      return;
    }
    switch (rule.kind) {
      case Rule::Kind::kInteger:
      case Rule::Kind::kNumber:
        return check_number(node, rule, path);
      case Rule::Kind::kText:
        return check_text(node, rule, path);
      case Rule::Kind::kList:
        return check_list(node, rule, path);
      case Rule::Kind::kMap:
        return check_map(node, rule, path, nulls);
      case Rule::Kind::kEither:
        return check_either(node, rule, path);
      default:
        return;
    }
  }

 private:
  /// What the writer most likely meant by a value of the wrong kind.
  static std::string hint_for(const Node& node, const Rule& rule) {
    const auto wants = [&](Rule::Kind kind) {
      return rule.kind == kind || (rule.kind == Rule::Kind::kEither &&
                                   std::any_of(rule.alternatives.begin(), rule.alternatives.end(),
                                               [&](const RuleRef& r) { return r->kind == kind; }));
    };
    if (node.is_string() && wants(Rule::Kind::kInteger) && python_int(node.text)) {
      return "write " + node.text + " without quotes";
    }
    if (node.is_string() && wants(Rule::Kind::kBool)) {
      const std::string word = to_lower(node.text);
      if (word == "true" || word == "yes" || word == "on") {
        return "write true without quotes";
      }
      if (word == "false" || word == "no" || word == "off") {
        return "write false without quotes";
      }
    }
    if (wants(Rule::Kind::kText) && (node.is_number() || node.is_bool())) {
      return "write it in quotes";
    }
    if (wants(Rule::Kind::kText) && node.is_sequence()) {
      return "write the lines under a \"|\"";
    }
    return {};
  }

  void check_number(const Node& node, const Rule& rule, const std::string& path) {
    // NaN passes, as it does in Python.
    if ((rule.least && node.number < *rule.least) || (rule.above && node.number <= *rule.above) ||
        (rule.most && node.number > *rule.most)) {
      issues_.fail(path, node.mark,
                   fmt::format("{} must be {}, not {}", path, describe(rule), shown(node)));
    }
  }

  void check_text(const Node& node, const Rule& rule, const std::string& path) {
    if (!rule.choices.empty()) {
      const std::string word = rule.ignore_case ? to_lower(node.text) : node.text;
      const bool found = std::any_of(
          rule.choices.begin(), rule.choices.end(),
          [&](std::string_view c) { return word == (rule.ignore_case ? to_lower(c) : c); });
      if (!found) {
        fail_choice(node, rule, path);
      }
      return;
    }
    const auto length =
        static_cast<std::size_t>(std::count_if(node.text.begin(), node.text.end(), [](char c) {
          return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
        }));
    if (length < rule.min_length) {
      issues_.fail(path, node.mark, fmt::format("{} must not be empty", path));
    } else if (length > rule.max_length) {
      issues_.fail(path, node.mark,
                   fmt::format("{} has {} characters; {} are the most allowed", path, length,
                               rule.max_length));
    } else if (rule.matches != nullptr && !rule.matches(node.text)) {
      issues_.fail(
          path, node.mark,
          fmt::format("{} must be {}, not {}", path, describe(rule), shown_at(path, node, rule)));
    }
  }

  void fail_choice(const Node& node, const Rule& rule, const std::string& path) {
    std::string hint;
    const std::string word = to_lower(node.text);
    for (const std::string_view candidate : rule.choices) {
      if (to_lower(candidate) == word) {
        hint = candidate;
      }
    }
    if (hint.empty()) {
      hint = nearest(node.text, rule.choices).value_or("");
    }
    issues_.fail(
        path, node.mark,
        fmt::format("{} must be {}, not {}{}", path, describe(rule), shown_at(path, node, rule),
                    hint.empty() ? "" : fmt::format("; did you mean {}?", hint)),
        hint);
  }

  void check_list(const Node& node, const Rule& rule, const std::string& path) {
    if (node.items.size() < rule.min_size || node.items.size() > rule.max_size) {
      issues_.fail(path, node.mark,
                   node.items.empty() ? fmt::format("{} must not be an empty list", path)
                                      : fmt::format("{} has {} items; {} are the most allowed",
                                                    path, node.items.size(), rule.max_size));
    }
    std::unordered_set<std::string> seen;
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const std::string item_path = fmt::format("{}[{}]", path, i);
      run(node.items[i], *rule.item, item_path, Nulls::kChecked);
      if (rule.unique && !seen.insert(python_repr(node.items[i])).second) {
        issues_.fail(item_path, node.items[i].mark,
                     fmt::format("{} holds {} twice; give each value once", path,
                                 shown_at(path, node.items[i], *rule.item)));
      }
    }
  }

  void check_map(const Node& node, const Rule& rule, const std::string& path, Nulls nulls) {
    const std::string name = rule.name.empty() ? path : std::string(rule.name);
    if (node.entries.size() > rule.max_size || node.entries.size() < rule.min_size) {
      issues_.fail(
          path, node.mark,
          fmt::format("{} has {} keys; {} {} allowed", path.empty() ? name : path,
                      node.entries.size(),
                      node.entries.size() > rule.max_size ? rule.max_size : rule.min_size,
                      node.entries.size() > rule.max_size ? "is the most" : "is the least"));
    }
    for (const std::string_view key : rule.required) {
      const Node* found = node.find(key);
      if (found == nullptr || (nulls != Nulls::kChecked && found->is_null())) {
        issues_.fail(join_path(path, key), node.mark,
                     fmt::format("{} needs the key {}", name, key));
      }
    }
    for (const std::string_view key : rule.forbidden) {
      if (const Node* found = node.find(key)) {
        issues_.fail(join_path(path, key), found->mark,
                     fmt::format("{} must not set {}: Quad sets it", name, key));
      }
    }
    for (const Entry& entry : node.entries) {
      const bool absent = entry.value.is_null() && nulls != Nulls::kChecked;
      if (issues_.failures() >= Issues::kMostKept) {
        return;
      }
      const std::string entry_path = join_path(path, json_key(entry.key));
      const auto field =
          entry.key.is_string()
              ? std::find_if(rule.fields.begin(), rule.fields.end(),
                             [&](const Field& f) { return f.name == entry.key.text; })
              : rule.fields.end();
      if (absent && (field != rule.fields.end() || rule.item || nulls == Nulls::kAbsentIfUnknown)) {
        continue;
      }
      if (field != rule.fields.end()) {
        run(entry.value, *field->rule, entry_path, Nulls::kChecked);
      } else if (!rule.item) {
        fail_unknown(entry, rule, entry_path, name);
      } else if (rule.key_matches != nullptr && !rule.key_matches(json_key(entry.key))) {
        issues_.fail(entry_path, entry.key.mark,
                     fmt::format("{} is not {}", shown(json_key(entry.key)), rule.key_shape));
      } else {
        run(entry.value, *rule.item, entry_path, Nulls::kChecked);
      }
    }
  }

  void fail_unknown(const Entry& entry, const Rule& rule, const std::string& path,
                    const std::string& name) {
    std::vector<std::string_view> known;
    for (const Field& field : rule.fields) {
      if (!field.name.starts_with('_')) {
        known.push_back(field.name);
      }
    }
    const std::string word = json_key(entry.key);
    const std::string hint = likely_key(word, known);
    issues_.fail(
        path, entry.key.mark,
        hint.empty()
            ? fmt::format("{} has no key {}; it may have {}", name, shown(word), join_words(known))
            : fmt::format("{} has no key {}; did you mean {}?", name, shown(word), hint),
        hint);
  }

  /// The nearest spelling, or the key that people mean by a word from elsewhere.
  static std::string likely_key(std::string_view word, const std::vector<std::string_view>& known) {
    struct Synonym {
      std::string_view word, key;
    };
    constexpr Synonym kSynonyms[] = {
        {"mem", "memory"},
        {"ram", "memory"},
        {"gpu", "accelerators"},
        {"accelerator", "accelerators"},
        {"nodes", "num_nodes"},
        {"environment", "envs"},
        {"spot_recovery", "job_recovery"},
        {"recovery", "job_recovery"},
        {"spot", "use_spot"},
        {"image", "image_id"},
        {"disk", "disk_size"},
        {"command", "run"},
        {"cmd", "run"},
        {"script", "run"},
        {"mounts", "file_mounts"},
        {"time_limit", "max_duration"},
        {"timeout", "max_duration"},
        {"walltime", "max_duration"},
        {"exclude", "exclude_nodes"},
        {"grace", "stop_grace"},
        {"dependencies", "depends_on"},
    };
    for (const Synonym& synonym : kSynonyms) {
      if (synonym.word == word &&
          std::find(known.begin(), known.end(), synonym.key) != known.end()) {
        return std::string(synonym.key);
      }
    }
    return std::string(nearest(word, known).value_or(""));
  }

  void check_either(const Node& node, const Rule& rule, const std::string& path) {
    // The alternatives of the right kind compete; if none holds, the one with the fewest faults
    // tells its own.
    const Rule* best = nullptr;
    std::size_t best_faults = 0;
    for (const RuleRef& alternative : rule.alternatives) {
      if (!right_kind(node, *alternative)) {
        continue;
      }
      Issues trial;
      Checker(trial).run(node, *alternative, path, Nulls::kChecked);
      if (trial.failures() == 0) {
        return;
      }
      if (best == nullptr || trial.failures() < best_faults) {
        best = alternative.get();
        best_faults = trial.failures();
      }
    }
    run(node, *best, path, Nulls::kChecked);
  }

  Issues& issues_;
};

}  // namespace

bool check(const Node& node, const Rule& rule, const std::string& path, Issues& issues,
           Nulls nulls) {
  const std::size_t before = issues.failures();
  Checker(issues).run(node, rule, path, nulls);
  return issues.failures() == before;
}

}  // namespace quad::spec
