#include "spec/marks.h"

#include <fmt/format.h>

namespace quad::spec {

void Marks::add(const Node& node, const std::string& path, int depth) {
  marks_.try_emplace(path, node.mark);
  if (depth == 0) {
    return;
  }
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    add(node.items[i], fmt::format("{}[{}]", path, i), depth - 1);
  }
  for (const Entry& entry : node.entries) {
    const std::string key = json_key(entry.key);
    const std::string entry_path = path.empty() ? key : fmt::format("{}.{}", path, key);
    const bool has_parts = entry.value.is_mapping() || entry.value.is_sequence();
    const bool written = entry.value.mark.line > 0;
    set(entry_path, written && has_parts ? entry.key.mark : entry.value.mark);
    add(entry.value, entry_path, depth - 1);
  }
}

Mark Marks::find(std::string_view path) const {
  for (;;) {
    if (const auto found = marks_.find(path); found != marks_.end()) {
      return found->second;
    }
    if (path.empty()) {
      return {};
    }
    const std::size_t end = path.find_last_of(".[");
    path = path.substr(0, end == std::string_view::npos ? 0 : end);
  }
}

}  // namespace quad::spec
