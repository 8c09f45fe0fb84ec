#include "cli/ignore.h"

#include <gtest/gtest.h>

namespace quad::cli {
namespace {

TEST(Ignore, PatternsMeanWhatTheyMeanToGit) {
  EXPECT_TRUE(glob_match("*.o", "a.o"));
  EXPECT_FALSE(glob_match("*.o", "a/b.o"));
  EXPECT_TRUE(glob_match("**/x", "x"));
  EXPECT_TRUE(glob_match("**/x", "a/b/x"));
  EXPECT_TRUE(glob_match("a/**", "a/b/c"));
  EXPECT_TRUE(glob_match("a/**/b", "a/b"));
  EXPECT_TRUE(glob_match("a/**/b", "a/x/y/b"));
  EXPECT_FALSE(glob_match("a/**/b", "a/x/yb"));
  EXPECT_FALSE(glob_match("x**/b", "xa/c/b")) << "beside anything but a slash ** is like *";
  EXPECT_TRUE(glob_match("[a-c]?", "bz"));
  EXPECT_FALSE(glob_match("[!a]b", "ab"));
  EXPECT_FALSE(glob_match("a[!b]c", "a/c"));
  EXPECT_TRUE(glob_match("\\*", "*"));
  EXPECT_FALSE(glob_match("", "a"));
}

TEST(Ignore, ClassesHaveNamesAndAreOfAscii) {
  EXPECT_TRUE(glob_match("[[:upper:]]*", "README"));
  EXPECT_FALSE(glob_match("[[:upper:]]*", "readme"));
  EXPECT_TRUE(glob_match("[[:digit:]x-]", "-"));
  EXPECT_TRUE(glob_match("[^[:space:]]", "a"));
  EXPECT_FALSE(glob_match("[[:alpha:]]", "\xe9"));
  EXPECT_TRUE(glob_match("[]]", "]"));
  EXPECT_TRUE(glob_match("[[:]", ":"));
  EXPECT_FALSE(glob_match("[[:word:]]", "a")) << "no class of that name";
  EXPECT_FALSE(glob_match("[a", "[a")) << "malformed patterns match nothing";
  EXPECT_FALSE(glob_match("a\\", "a\\"));
}

TEST(Ignore, APatternOfManyStarsTakesNoLongerThanItsLengthTimesThePaths) {
  std::string pattern;
  for (int i = 0; i < 60; ++i) {
    pattern += "*a**/";
  }
  EXPECT_FALSE(glob_match(pattern + "b", std::string(3000, 'a')));
}

TEST(Ignore, LaterRulesWinAndFoldersAreTheirOwn) {
  IgnoreRules rules;
  rules.add("*.log\n!keep.log\nbuild/\n/top\n# comment\n\n", "");
  const std::size_t before = rules.size();
  rules.add("local\n", "sub");
  EXPECT_TRUE(rules.ignored("a.log", false));
  EXPECT_TRUE(rules.ignored("deep/a.log", false));
  EXPECT_FALSE(rules.ignored("keep.log", false));
  EXPECT_TRUE(rules.ignored("build", true));
  EXPECT_FALSE(rules.ignored("build", false));
  EXPECT_TRUE(rules.ignored("top", false));
  EXPECT_FALSE(rules.ignored("deep/top", false));
  EXPECT_TRUE(rules.ignored("sub/local", false));
  EXPECT_FALSE(rules.ignored("local", false));
  rules.shrink(before);
  EXPECT_FALSE(rules.ignored("sub/local", false));
  EXPECT_TRUE(rules.ignored("top", false));
}

TEST(Ignore, LinesAreReadWhateverEditorWroteThem) {
  IgnoreRules rules;
  rules.add("\xef\xbb\xbf*.bin\r\ntrailing   \nkept\\ \n\\#hash\n\\!bang\nlast", "");
  EXPECT_TRUE(rules.ignored("a.bin", false));
  EXPECT_TRUE(rules.ignored("trailing", false));
  EXPECT_TRUE(rules.ignored("kept ", false));
  EXPECT_FALSE(rules.ignored("kept", false));
  EXPECT_TRUE(rules.ignored("#hash", false));
  EXPECT_TRUE(rules.ignored("!bang", false));
  EXPECT_TRUE(rules.ignored("last", false));
}

}  // namespace
}  // namespace quad::cli
