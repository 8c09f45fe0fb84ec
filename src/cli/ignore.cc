#include "cli/ignore.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "base/text.h"

namespace quad::cli {

namespace {

using Test = bool (*)(unsigned char);

bool is_graphic(unsigned char c) {
  return c > ' ' && c < 0x7f;
}

/// The classes of [[:name:]], of ASCII whatever the locale. A newline or tab is space; the rarer
/// white space is not, as git has it.
constexpr std::array<std::pair<std::string_view, Test>, 12> kClasses{{
    {"alnum", [](unsigned char c) { return is_graphic(c) && std::isalnum(c) != 0; }},
    {"alpha", [](unsigned char c) { return is_graphic(c) && std::isalpha(c) != 0; }},
    {"blank", [](unsigned char c) { return c == ' ' || c == '\t'; }},
    {"cntrl", [](unsigned char c) { return c < 0x20 || c == 0x7f; }},
    {"digit", [](unsigned char c) { return c >= '0' && c <= '9'; }},
    {"graph", is_graphic},
    {"lower", [](unsigned char c) { return c >= 'a' && c <= 'z'; }},
    {"print", [](unsigned char c) { return c == ' ' || is_graphic(c); }},
    {"punct", [](unsigned char c) { return is_graphic(c) && std::isalnum(c) == 0; }},
    {"space", [](unsigned char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }},
    {"upper", [](unsigned char c) { return c >= 'A' && c <= 'Z'; }},
    {"xdigit", [](unsigned char c) { return is_graphic(c) && std::isxdigit(c) != 0; }},
}};

}  // namespace

Glob::Glob(std::string_view pattern) {
  malformed_ = !parse(pattern);
  const auto end = std::find_if(tokens_.begin(), tokens_.end(),
                                [](const Token& token) { return token.kind != Kind::kLiteral; });
  std::for_each(tokens_.begin(), end, [&](const Token& token) { literals_ += token.literal; });
  tokens_.erase(tokens_.begin(), end);
}

bool Glob::parse(std::string_view pattern) {
  for (std::size_t i = 0; i < pattern.size();) {
    const char c = pattern[i];
    if (c == '\\') {
      if (i + 1 == pattern.size()) {
        return false;
      }
      tokens_.push_back({Kind::kLiteral, pattern[i + 1]});
      i += 2;
    } else if (c == '?') {
      sets_.push_back(Set().set().reset('/'));
      tokens_.push_back({Kind::kSet, 0, sets_.size() - 1});
      ++i;
    } else if (c == '[') {
      if (!parse_set(pattern, i)) {
        return false;
      }
    } else if (c == '*') {
      const std::size_t end = std::min(pattern.find_first_not_of('*', i), pattern.size());
      const std::string_view rest = pattern.substr(end);
      const bool alone = (i == 0 || pattern[i - 1] == '/') &&
                         (rest.empty() || rest.front() == '/' || rest.starts_with("\\/"));
      if (end - i == 1 || !alone) {
        tokens_.push_back({Kind::kStar});
        i = end;
      } else if (rest.starts_with('/')) {
        tokens_.push_back({Kind::kFolders});
        i = end + 1;
      } else {
        tokens_.push_back({Kind::kAnything});
        i = end;
      }
    } else {
      tokens_.push_back({Kind::kLiteral, c});
      ++i;
    }
  }
  return true;
}

/// One bracket expression at pattern[at] == '['; moves `at` behind it. False if it has no end or
/// names no class.
bool Glob::parse_set(std::string_view pattern, std::size_t& at) {
  Set set;
  std::size_t i = at + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  i += negated ? 1 : 0;
  const auto has = [&](std::size_t place) { return place < pattern.size(); };
  const auto byte = [&](std::size_t place) { return static_cast<unsigned char>(pattern[place]); };
  int before = -1;  // the character that a "-" would begin a range at
  for (const std::size_t first = i; has(i) && (pattern[i] != ']' || i == first); ++i) {
    if (pattern[i] == '-' && before >= 0 && has(i + 1) && pattern[i + 1] != ']') {
      i += pattern[i + 1] == '\\' ? 2 : 1;
      if (!has(i)) {
        return false;
      }
      for (int c = before; c <= byte(i); ++c) {
        set.set(static_cast<std::size_t>(c));
      }
      before = -1;
      continue;
    }
    if (pattern[i] == '[' && has(i + 1) && pattern[i + 1] == ':') {
      const std::size_t end = pattern.find(']', i + 2);
      if (end == std::string_view::npos) {
        return false;
      }
      if (end > i + 2 && pattern[end - 1] == ':') {
        const std::string_view name = pattern.substr(i + 2, end - i - 3);
        const auto* found = std::find_if(kClasses.begin(), kClasses.end(),
                                         [&](const auto& one) { return one.first == name; });
        if (found == kClasses.end()) {
          return false;
        }
        for (std::size_t c = 0; c < set.size(); ++c) {
          set[c] = set[c] || found->second(static_cast<unsigned char>(c));
        }
        before = -1;
        i = end;
        continue;
      }
      // Else a set like any other, which has '[' and ':' in it.
    }
    if (pattern[i] == '\\' && !has(++i)) {
      return false;
    }
    set.set(byte(i));
    before = byte(i);
  }
  if (!has(i)) {
    return false;
  }
  at = i + 1;
  sets_.push_back((negated ? ~set : set).reset('/'));
  tokens_.push_back({Kind::kSet, 0, sets_.size() - 1});
  return true;
}

bool Glob::matches(std::string_view path) const {
  if (malformed_ || !path.starts_with(literals_)) {
    return false;
  }
  path.remove_prefix(literals_.size());
  if (tokens_.empty()) {
    return path.empty();
  }
  // here[i]: the tokens so far can match the first i characters.
  std::vector<char> here(path.size() + 1, 0);
  std::vector<char> next(path.size() + 1, 0);
  here[0] = 1;
  for (const Token& token : tokens_) {
    std::fill(next.begin(), next.end(), 0);
    bool any = false;
    bool open = false;  // whether a star that began before still runs
    for (std::size_t i = 0; i <= path.size(); ++i) {
      bool reached = false;
      switch (token.kind) {
        case Kind::kLiteral:
          reached = i > 0 && here[i - 1] != 0 && path[i - 1] == token.literal;
          break;
        case Kind::kSet:
          reached = i > 0 && here[i - 1] != 0 &&
                    sets_[token.set][static_cast<unsigned char>(path[i - 1])];
          break;
        case Kind::kStar:
          open = (open && path[i - 1] != '/') || here[i] != 0;
          reached = open;
          break;
        case Kind::kAnything:
          open = open || here[i] != 0;
          reached = open;
          break;
        case Kind::kFolders:
          reached = here[i] != 0 || (open && path[i - 1] == '/');
          open = open || here[i] != 0;
          break;
      }
      next[i] = reached ? 1 : 0;
      any = any || reached;
    }
    if (!any) {
      return false;
    }
    here.swap(next);
  }
  return here.back() != 0;
}

bool glob_match(std::string_view pattern, std::string_view path) {
  return Glob(pattern).matches(path);
}

void IgnoreRules::add(std::string_view text, const std::string& folder) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  for (const std::string_view line : split(text, '\n')) {
    add_line(line, folder);
  }
}

void IgnoreRules::add_line(std::string_view line, const std::string& folder) {
  if (line.starts_with('#')) {
    return;
  }
  if (line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  line = line.substr(0, line.find('\0'));
  // Spaces at the end go, but for one behind a backslash.
  std::size_t kept = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\') {
      ++i;
    } else if (line[i] == ' ') {
      continue;
    }
    kept = i + 1;
  }
  line = line.substr(0, kept);
  const bool negated = line.starts_with('!');
  line.remove_prefix(negated ? 1 : 0);
  const bool folders_only = line.ends_with('/');
  line.remove_suffix(folders_only ? 1 : 0);
  const bool anchored = line.find('/') != std::string_view::npos;
  line.remove_prefix(line.starts_with('/') ? 1 : 0);
  if (!line.empty()) {
    rules_.push_back({folder, Glob(line), negated, folders_only, anchored});
  }
}

bool IgnoreRules::ignored(std::string_view path, bool is_folder) const {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule) {
    std::string_view inside = path;
    if (!rule->folder.empty()) {
      if (!path.starts_with(rule->folder) || path.size() <= rule->folder.size() ||
          path[rule->folder.size()] != '/') {
        continue;
      }
      inside = path.substr(rule->folder.size() + 1);
    }
    if ((is_folder || !rule->folders_only) &&
        rule->pattern.matches(rule->anchored ? inside : name)) {
      return !rule->negated;
    }
  }
  return false;
}

}  // namespace quad::cli
