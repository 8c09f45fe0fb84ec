#include "cli/pack.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

#include "base/file.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/ignore.h"

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
  EXPECT_TRUE(glob_match("[a-c]?", "bz"));
  EXPECT_FALSE(glob_match("[!a]b", "ab"));
  EXPECT_TRUE(glob_match("\\*", "*"));
  EXPECT_FALSE(glob_match("", "a"));
}

TEST(Ignore, LaterRulesWinAndFoldersAreTheirOwn) {
  IgnoreRules rules;
  rules.add("*.log\n!keep.log\nbuild/\n/top\n# comment\n\n", "");
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
}

TEST(Pack, TheSameFilesGiveTheSameBlobAndIgnoredOnesStayBehind) {
  const auto folder = std::filesystem::temp_directory_path() / ("quad-pack-test-" + random_hex(4));
  ASSERT_TRUE(make_folders(folder / "data").ok());
  std::ofstream(folder / "train.py") << "print(1)\n";
  std::ofstream(folder / "data" / "big.bin") << std::string(100'000, 'x');
  std::ofstream(folder / ".skyignore") << "data\n";
  const auto first = pack(folder);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->files, 2U);
  const auto second = pack(folder);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->hash, second->hash);
  std::ofstream(folder / "train.py") << "print(2)\n";
  const auto third = pack(folder);
  EXPECT_NE(first->hash, third->hash);
  EXPECT_EQ(pack(folder / "none").error().code, ErrorCode::kNotFound);
  for (const auto& blob : {first, second, third}) {
    std::filesystem::remove(blob->file);
  }
  std::filesystem::remove_all(folder);
}

TEST(Pack, TakesAnyNameAndSaysWhatItLeavesOut) {
  const auto folder = std::filesystem::temp_directory_path() / ("quad-pack-test-" + random_hex(4));
  ASSERT_TRUE(make_folders(folder).ok());
  for (const char* name : {"Gr\xc3\xbc\xc3\x9f"
                           "e",
                           "not-utf8-\xff", "two\nlines"}) {
    std::ofstream(folder / name) << "x";
  }
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  const auto blob = pack(folder);
  ASSERT_TRUE(blob.ok()) << blob.error().message;
  EXPECT_EQ(blob->files, 3U);
  EXPECT_EQ(blob->left_out, std::vector<std::string>{"pipe"});
  std::filesystem::remove(blob->file);
  std::filesystem::remove_all(folder);
}

TEST(Upload, WaitsForAServerThatReadsAllOfALargeOne) {
  EXPECT_EQ(upload_patience(0), Millis(60'000));
  EXPECT_EQ(upload_patience(1'000'000'000), Millis(110'000));
  EXPECT_GT(upload_patience(64ULL << 30U), Millis(3'000'000));
}

}  // namespace
}  // namespace quad::cli
