// What goes along, compared with git's own answer over random trees, rules and indexes: with git
// asked, with a matcher of our own where there is no repository, and with a .skyignore.

#include "cli/git.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <random>
#include <set>

#include "cli/test_folder.h"
#include "cli/tree.h"

namespace quad::cli {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

class Git : public FolderTest {
 protected:
  /// The files that git lists with these flags, as far as they are there.
  Names listed(const std::string& flags) const {
    Names names;
    const std::string told = git("ls-files -z " + flags);
    for (const std::string_view name : split(told, '\0')) {
      const auto kind = fs::symlink_status(top_ / name).type();
      if (kind == fs::file_type::regular || kind == fs::file_type::symlink) {
        names.emplace(name);
      }
    }
    return names;
  }
  Names brought() const {
    Names names;
    const Take take = [&](const Found& found) -> Status {
      if (!S_ISDIR(found.info.st_mode) && !found.name.starts_with(".git/")) {
        names.insert(found.name);
      }
      return {};
    };
    const auto contents = walk(top_, take);
    EXPECT_TRUE(contents.ok()) << contents.error().message;
    return names;
  }
  void expect_same(const Names& brought, const Names& wanted, std::string_view what) const {
    std::string text;
    for (const std::string& name : wanted) {
      text += brought.contains(name) ? "" : fmt::format("  only for git: {:?}\n", name);
    }
    for (const std::string& name : brought) {
      text += wanted.contains(name) ? "" : fmt::format("  only here: {:?}\n", name);
    }
    EXPECT_EQ(text, "") << what;
  }
};

class Chance {
 public:
  explicit Chance(unsigned seed) : random_(seed) {}
  std::size_t below(std::size_t end) {
    return std::uniform_int_distribution<std::size_t>(0, end - 1)(random_);
  }
  bool one_in(std::size_t count) { return below(count) == 0; }
  template <typename T>
  const T& of(const std::vector<T>& all) {
    return all[below(all.size())];
  }

 private:
  std::mt19937_64 random_;
};

const std::vector<std::string> kParts{
    "a", "b", "ab",   "A.log",    "x.log", "B",    "#c",  "!d",  "e ", "\\f", "[z]", "7",
    "-", "*", "g\th", "\xc3\xa9", "ba",    "data", "x y", "a.b", "?",  "aXb", "]",   "A7"};

std::string random_pattern(Chance& chance) {
  static const std::vector<std::string> kAtoms{"*",
                                               "?",
                                               "[ab]",
                                               "[!a]",
                                               "[^b]",
                                               "[a-c]",
                                               "[[:upper:]]",
                                               "[[:lower:]]",
                                               "[[:alpha:]b]",
                                               "[[:digit:]-]",
                                               "[![:alnum:]]",
                                               "[]x]",
                                               "[[:punct:]]",
                                               "[[:space:]]",
                                               "[[:nothing:]]",
                                               "[[:]",
                                               "[",
                                               "[a-]",
                                               "[\\]]",
                                               "[--0]",
                                               "\\*",
                                               "\\a",
                                               "\\",
                                               "/",
                                               "/",
                                               "/",
                                               "**",
                                               "**/",
                                               "/**",
                                               "/**/",
                                               "***",
                                               "*.log",
                                               "a*",
                                               "[[:xdigit:]]",
                                               "[[:graph:]]",
                                               "[[:blank:]x]"};
  std::string pattern;
  const std::size_t atoms = 1 + chance.below(4);
  for (std::size_t i = 0; i < atoms; ++i) {
    pattern += chance.one_in(2) ? chance.of(kParts) : chance.of(kAtoms);
  }
  return pattern;
}

/// Before git 2.52 "**" right behind a pattern's literal beginning counts as if that were not
/// there, against gitignore(5).
bool is_read_otherwise_by_older_git(std::string_view line) {
  line.remove_prefix(line.starts_with('!') ? 1 : 0);
  const std::size_t special = line.find_first_of("*?[\\");
  return special != std::string_view::npos && special > 0 && line[special - 1] != '/' &&
         line.substr(special).starts_with("**");
}

std::string random_rules(Chance& chance) {
  std::string text = chance.one_in(4) ? "\xef\xbb\xbf" : "";
  const std::size_t lines = 4 + chance.below(8);
  for (std::size_t i = 0; i < lines; ++i) {
    static const std::vector<std::string> kBefore{"",  "",  "",    "",    "!", "!",
                                                  "/", "#", "\\#", "\\!", " "};
    static const std::vector<std::string> kAfter{"",   "",    "",   "/",  "/", " ",
                                                 "  ", "\\ ", "\t", "\r", "//"};
    std::string line;
    do {
      line = chance.of(kBefore) + random_pattern(chance) + chance.of(kAfter);
    } while (is_read_otherwise_by_older_git(line));
    text += line;
    text += i + 1 < lines || chance.one_in(2) ? "\n" : "";
  }
  return text;
}

std::string random_path(Chance& chance) {
  std::string path = chance.of(kParts);
  for (std::size_t depth = chance.below(4); depth > 0; --depth) {
    path += "/" + chance.of(kParts);
  }
  return path;
}

TEST_F(Git, WhatGoesAlongIsWhatGitDoesNotIgnoreOverRandomRulesTreesAndIndexes) {
  constexpr unsigned kRounds = 40;
  std::size_t ignored = 0;
  for (unsigned seed = 1; seed <= kRounds && !HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Chance chance(seed);
    fs::remove_all(top_);
    fs::create_directories(top_);
    fs::remove_all(base_ / "home" / ".config");
    std::vector<std::string> files;
    for (int i = 0; i < 40; ++i) {
      const std::string path = random_path(chance);
      std::error_code clash;  // a file where another path has a folder
      fs::create_directories((top_ / path).parent_path(), clash);
      if (!clash && !fs::exists(fs::symlink_status(top_ / path, clash))) {
        if (chance.one_in(10)) {
          fs::create_symlink("nowhere at all", top_ / path);
        } else {
          std::ofstream(top_ / path) << "x";
        }
        files.push_back(path);
      }
    }
    std::string rules;
    std::vector<std::string> places{".gitignore"};
    for (std::size_t i = chance.below(3); i > 0; --i) {
      places.push_back((fs::path(chance.of(files)).parent_path() / ".gitignore").string());
    }
    for (const std::string& place : places) {
      const std::string text = random_rules(chance);
      rules += fmt::format("{:?}: {:?}\n", place, text);
      write(place, text);
    }
    SCOPED_TRACE(rules);
    const Names alone = brought();  // no repository yet
    git("init --quiet");
    const Names all = listed("--others");
    expect_same(alone, listed("--others --exclude-standard"), "without a repository");
    expect_same(brought(), listed("--others --exclude-standard"), "with nothing tracked");
    ignored += all.size() - alone.size();
    write(".git/info/exclude", random_rules(chance));
    write("../home/.config/git/ignore", random_rules(chance));
    std::string add = "add --force --";
    for (const std::string& file : files) {
      add += chance.one_in(3) ? " " + shell_quote(":(literal)" + file) : "";
    }
    git(add + " .gitignore");
    for (const std::string& file : files) {
      if (chance.one_in(10)) {  // an index that knows more, or something else, than there is
        fs::remove(top_ / file);
        if (chance.one_in(2)) {
          write(file + "/inside");
        }
      }
    }
    expect_same(brought(), listed("--cached --others --exclude-standard"), "with an index");
    fs::remove_all(top_ / ".git");
    write(".skyignore", random_rules(chance));
    const Names by_skyignore = brought();
    git("init --quiet");
    expect_same(by_skyignore, listed("--others --exclude-from=.skyignore"), "with .skyignore");
  }
  EXPECT_GT(ignored, kRounds * 3) << "rules that ignore next to nothing show next to nothing";
}

TEST_F(Git, TracksWhatItIsAskedForInAscendingOrder) {
  git("init --quiet");
  for (const char* name : {"a-b", "a/b", "a/c/d", "b"}) {
    write(name);
  }
  git("add .");
  const auto repository = GitRepository::open(top_);
  ASSERT_TRUE(repository.ok()) << repository.error().message;
  EXPECT_EQ((*repository)->top(), top_);
  EXPECT_FALSE((*repository)->ignores_folder());
  for (const auto& [path, tracked] : std::vector<std::pair<std::string, bool>>{{"A", false},
                                                                               {"a-b", true},
                                                                               {"a/", true},
                                                                               {"a/a", false},
                                                                               {"a/b", true},
                                                                               {"a/c/", true},
                                                                               {"a/d/", false},
                                                                               {"b/", false},
                                                                               {"c", false}}) {
    EXPECT_EQ((*repository)->tracked(path).value(), tracked) << path;
  }
}

TEST_F(Git, AFolderOfMoreNamesThanItsPipesHold) {
  git("init --quiet");
  write(".gitignore", "*7\n");
  const auto repository = GitRepository::open(top_);
  ASSERT_TRUE(repository.ok()) << repository.error().message;
  std::vector<std::string> names;
  for (int i = 0; i < 30'000; ++i) {
    names.push_back(fmt::format("{:050}", i));
  }
  const auto found = (*repository)->matching("sub/", names);
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(std::count(found->begin(), found->end(), true), 3000);
}

TEST_F(Git, SaysWhyItCannotBeAsked) {
  EXPECT_EQ(find_repository(top_), std::nullopt);
  write(".git", "gitdir: /nowhere\n");
  EXPECT_EQ(find_repository(top_ / "below"), top_);
  const auto repository = GitRepository::open(top_);
  ASSERT_FALSE(repository.ok());
  EXPECT_EQ(repository.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(repository.error().message.find("git says: not a git repository"), std::string::npos)
      << repository.error().message;
}

}  // namespace
}  // namespace quad::cli
