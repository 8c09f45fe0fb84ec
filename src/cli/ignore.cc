#include "cli/ignore.h"

#include "base/text.h"

namespace quad::cli {

namespace {

/// Matches one bracket expression at pattern[0] == '['; sets `used` to its length, 0 when it is not
/// closed.
bool class_match(std::string_view pattern, char c, std::size_t& used) {
  std::size_t i = 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  i += negated ? 1 : 0;
  bool found = false;
  const std::size_t first = i;
  for (; i < pattern.size() && (pattern[i] != ']' || i == first); ++i) {
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
      found = found || (pattern[i] <= c && c <= pattern[i + 2]);
      i += 2;
    } else {
      found = found || pattern[i] == c;
    }
  }
  used = i < pattern.size() ? i + 1 : 0;
  return found != negated;
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view path) {
  // Backtracking over the last star only, and over the last double star: linear in practice, and
  // bounded by |pattern| × |path| for each of the two.
  std::size_t p = 0;
  std::size_t s = 0;
  std::size_t star = std::string_view::npos;
  std::size_t star_at = 0;
  std::size_t deep = std::string_view::npos;
  std::size_t deep_at = 0;
  while (true) {
    if (p + 1 < pattern.size() && pattern[p] == '*' && pattern[p + 1] == '*') {
      p += 2;
      if (p < pattern.size() && pattern[p] == '/') {
        ++p;  // "**/" also matches no folder at all
      }
      deep = p;
      deep_at = s;
      star = std::string_view::npos;
      continue;
    }
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      star_at = s;
      continue;
    }
    if (s == path.size()) {
      if (p == pattern.size()) {
        return true;
      }
    } else if (p < pattern.size()) {
      std::size_t used = 1;
      bool matches = false;
      if (pattern[p] == '?') {
        matches = path[s] != '/';
      } else if (pattern[p] == '[') {
        matches = class_match(pattern.substr(p), path[s], used) && path[s] != '/';
        if (used == 0) {
          used = 1;
          matches = path[s] == '[';
        }
      } else if (pattern[p] == '\\' && p + 1 < pattern.size()) {
        matches = path[s] == pattern[p + 1];
        used = 2;
      } else {
        matches = path[s] == pattern[p];
      }
      if (matches) {
        p += used;
        ++s;
        continue;
      }
    }
    if (star != std::string_view::npos && star_at < path.size() && path[star_at] != '/') {
      p = star;
      s = ++star_at;
      continue;
    }
    if (deep != std::string_view::npos && deep_at < path.size()) {
      // "**/" resumes only after a slash, a closing "**" anywhere.
      const bool at_end = deep == pattern.size();
      ++deep_at;
      while (!at_end && deep_at < path.size() && path[deep_at - 1] != '/') {
        ++deep_at;
      }
      if (!at_end && deep_at >= path.size()) {
        return false;
      }
      p = deep;
      s = deep_at;
      star = std::string_view::npos;
      continue;
    }
    return false;
  }
}

void IgnoreRules::add(std::string_view text, const std::string& folder) {
  for (std::string_view line : split(text, '\n')) {
    if (!line.empty() && line.back() == '\r') {
      line.remove_suffix(1);
    }
    while (!line.empty() && line.back() == ' ' &&
           (line.size() < 2 || line[line.size() - 2] != '\\')) {
      line.remove_suffix(1);
    }
    if (line.empty() || line.front() == '#') {
      continue;
    }
    Rule rule;
    rule.folder = folder;
    if (line.front() == '!') {
      rule.negated = true;
      line.remove_prefix(1);
    }
    if (!line.empty() && line.back() == '/') {
      rule.folders_only = true;
      line.remove_suffix(1);
    }
    rule.anchored = line.find('/') != std::string_view::npos;
    if (!line.empty() && line.front() == '/') {
      line.remove_prefix(1);
    }
    if (!line.empty()) {
      rule.pattern = std::string(line);
      rules_.push_back(std::move(rule));
    }
  }
}

bool IgnoreRules::ignored(std::string_view path, bool is_folder) const {
  bool result = false;
  for (const Rule& rule : rules_) {
    std::string_view inside = path;
    if (!rule.folder.empty()) {
      if (!path.starts_with(rule.folder) || path.size() <= rule.folder.size() ||
          path[rule.folder.size()] != '/') {
        continue;
      }
      inside = path.substr(rule.folder.size() + 1);
    }
    if (rule.folders_only && !is_folder) {
      continue;
    }
    const std::size_t slash = inside.rfind('/');
    const std::string_view name =
        slash == std::string_view::npos ? inside : inside.substr(slash + 1);
    if (glob_match(rule.pattern, rule.anchored ? inside : name)) {
      result = !rule.negated;
    }
  }
  return result;
}

}  // namespace quad::cli
