// cli/ignore.h
//
// Which files of a work directory stay behind: the patterns of .skyignore, or else of .gitignore
// files, as git reads them (anchors, **, character classes, ! to take a file back, / at the end for
// folders only). Pure.

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quad::cli {

/// Whether `path` matches a git pattern's body; `*` and `?` stop at a slash, `**` does not.
bool glob_match(std::string_view pattern, std::string_view path);

class IgnoreRules {
 public:
  /// Adds the lines of one ignore file that lies in `folder` ("" for the top, else "a/b").
  void add(std::string_view text, const std::string& folder);
  /// Whether this path, relative to the top, is ignored. Its parent folders are the caller's to
  /// have asked about: what lies in an ignored folder cannot be taken back.
  [[nodiscard]] bool ignored(std::string_view path, bool is_folder) const;
  [[nodiscard]] bool empty() const { return rules_.empty(); }

 private:
  struct Rule {
    std::string folder;
    std::string pattern;
    bool negated = false;
    bool folders_only = false;
    bool anchored = false;
  };
  std::vector<Rule> rules_;
};

}  // namespace quad::cli
