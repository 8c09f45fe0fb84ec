// cli/ignore.h
//
// The rules of ignore files, as gitignore(5) has them: which files of a folder stay behind by its
// .skyignore, and by its .gitignore files where git cannot be asked (git.h). Pure.

#pragma once

#include <bitset>
#include <string>
#include <string_view>
#include <vector>

namespace quad::cli {

/// One pattern: `*`, `?` and [classes] stop at a slash; `**` between slashes stands for any number
/// of folders, at the end for all that is inside. A pattern that is malformed matches nothing.
class Glob {
 public:
  explicit Glob(std::string_view pattern);
  /// O(|pattern| × |path|), whatever the pattern.
  [[nodiscard]] bool matches(std::string_view path) const;

 private:
  enum class Kind { kLiteral, kSet, kStar, kFolders, kAnything };
  struct Token {
    Kind kind = Kind::kLiteral;
    char literal = 0;
    std::size_t set = 0;  ///< of sets_
  };
  using Set = std::bitset<256>;

  bool parse(std::string_view pattern);
  bool parse_set(std::string_view pattern, std::size_t& at);

  bool malformed_ = false;
  std::string literals_;  ///< the pattern's beginning, up to its first wildcard
  std::vector<Token> tokens_;
  std::vector<Set> sets_;
};

bool glob_match(std::string_view pattern, std::string_view path);

/// The rules of any number of files, of which a later one goes before an earlier one.
class IgnoreRules {
 public:
  /// Adds the lines of one ignore file that lies in `folder` ("" for the top, else "a/b").
  void add(std::string_view text, const std::string& folder);
  /// Whether this path, relative to the top, is ignored. Its parent folders are the caller's to
  /// have asked about: what lies in an ignored folder cannot be taken back.
  [[nodiscard]] bool ignored(std::string_view path, bool is_folder) const;

  /// To forget what was added later: the rules of a folder that is done with.
  [[nodiscard]] std::size_t size() const { return rules_.size(); }
  void shrink(std::size_t size) {
    rules_.erase(rules_.begin() + static_cast<long>(size), rules_.end());
  }

 private:
  struct Rule {
    std::string folder;
    Glob pattern;
    bool negated = false;
    bool folders_only = false;
    bool anchored = false;  ///< for the path below `folder`, not only its last part
  };
  void add_line(std::string_view line, const std::string& folder);

  std::vector<Rule> rules_;
};

}  // namespace quad::cli
