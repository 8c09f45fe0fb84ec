// Filling $NAME and ${NAME} into the parts of a task that are used before any shell sees them.

#include <algorithm>
#include <unordered_map>

#include "spec/letters.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

bool is_word(char c) {
  return is_alphanumeric(c) || c == '_';
}

/// Empty if the result would pass what `budget` has left.
std::optional<std::string> filled(std::string_view text, const Variables& variables,
                                  std::size_t& budget) {
  std::string out;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t dollar = text.find('$', at);
    out += text.substr(at, dollar - at);
    if (dollar == std::string_view::npos) {
      break;
    }
    // Either brace may be missing: "${A" and "$A}" stand for A as well.
    std::size_t start = dollar + 1;
    start += start < text.size() && text[start] == '{' ? 1U : 0U;
    std::size_t end = start;
    while (end < text.size() && is_word(text[end])) {
      ++end;
    }
    const std::string_view name = text.substr(start, end - start);
    if (!is_env_name(name)) {
      out += '$';
      at = dollar + 1;
      continue;
    }
    end += end < text.size() && text[end] == '}' ? 1U : 0U;
    const auto found = variables.find(name);
    out += found != variables.end() ? std::string_view(found->second)
                                    : text.substr(dollar, end - dollar);
    at = end;
    if (out.size() > budget) {
      return std::nullopt;
    }
  }
  budget -= std::min(budget, out.size());
  return out;
}

}  // namespace

bool substitute(Node& node, const Variables& variables, std::size_t& budget) {
  if (node.is_string()) {
    auto text = filled(node.text, variables, budget);
    if (!text) {
      return false;
    }
    node.text = std::move(*text);
    return true;
  }
  for (Node& item : node.items) {
    if (!substitute(item, variables, budget)) {
      return false;
    }
  }
  std::unordered_map<std::string, std::size_t> places;
  std::vector<Entry> entries = std::move(node.entries);
  node.entries.clear();
  for (Entry& entry : entries) {
    auto key = filled(json_key(entry.key), variables, budget);
    if (!key || !substitute(entry.value, variables, budget)) {
      return false;
    }
    // Two keys that became one: the later wins.
    const auto [place, added] = places.emplace(*key, node.entries.size());
    if (added) {
      const Mark mark = entry.key.mark;
      node.entries.push_back({Node::make_string(std::move(*key), mark), std::move(entry.value)});
    } else {
      node.entries[place->second].value = std::move(entry.value);
    }
  }
  return true;
}

}  // namespace quad::spec
