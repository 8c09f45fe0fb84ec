// base/prefixed_lines.h
//
// The output of several sources as one text for a terminal: a prefix before each line tells whose
// it is, also behind a carriage return, so that progress bars keep theirs. A source that speaks
// while another is in the middle of a line begins a new one. Pure; O(length).

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quad {

class PrefixedLines {
 public:
  /// Appends to `out` what `source` has said. An empty prefix is none.
  void add(std::string& out, std::int64_t source, std::string_view prefix, std::string_view text);
  /// Ends a line that has no end yet, so that something else can be said.
  void finish(std::string& out);

 private:
  std::optional<std::int64_t> open_;  ///< who is in the middle of a line
  bool returned_ = false;             ///< its last character was a carriage return
};

}  // namespace quad
