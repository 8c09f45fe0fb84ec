// spec/marks.h
//
// Where the keys of a task stand in its text, kept beside the plain values of spec/task.h: what
// finds a fault only later (a node too small, an upload that is missing) still says the line. Pure,
// any thread; a few short strings for each key.

#pragma once

#include <map>
#include <string>
#include <string_view>

#include "spec/diagnostic.h"
#include "spec/node.h"

namespace quad::spec {

class Marks {
 public:
  /// Notes the mapping or list at `path` ("" for the task itself) and what is in it, `depth` levels
  /// deep.
  void add(const Node& node, const std::string& path, int depth);
  void set(std::string path, Mark mark) { marks_.insert_or_assign(std::move(path), mark); }

  [[nodiscard]] bool has(std::string_view path) const { return marks_.find(path) != marks_.end(); }
  /// The place of "resources.cpus" or "quad.exclude_nodes[1]", else of what is around it: a plain
  /// value, or the key of a longer one. None if it came from the command line.
  [[nodiscard]] Mark find(std::string_view path) const;

 private:
  std::map<std::string, Mark, std::less<>> marks_;
};

}  // namespace quad::spec
