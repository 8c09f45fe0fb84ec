#include "runner/hot_folders.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr HotFolders::Owner kAlice{5001, 5000};

class HotFoldersTest : public ::testing::Test {
 protected:
  HotFoldersTest() : tier_(fs::temp_directory_path() / ("quad-tier-" + random_hex(6))) {
    fs::create_directories(tier_);
    ::umask(0077);
  }
  ~HotFoldersTest() override {
    std::error_code ignored;
    fs::remove_all(tier_, ignored);
    ::umask(0022);
  }

  [[nodiscard]] Status make(std::optional<HotFolders::Owner> owner = std::nullopt) const {
    return make_hot_folders({tier_, ".quad/1a2b/17", "alice", owner});
  }
  struct Facts {
    unsigned mode;
    uid_t uid;
    gid_t gid;
    bool operator==(const Facts&) const = default;
  };
  [[nodiscard]] Facts facts(const char* path) const {
    struct stat seen {};
    return ::lstat((tier_ / path).c_str(), &seen) == 0
               ? Facts{seen.st_mode & 07777U, seen.st_uid, seen.st_gid}
               : Facts{};
  }

  fs::path tier_;
};

TEST_F(HotFoldersTest, AreOpenWhereTheImageSaysWhoTheUserIsAndThoseAboveAreNot) {
  ASSERT_TRUE(make().ok());
  EXPECT_EQ(facts(".quad").mode, 0711U);
  EXPECT_EQ(facts(".quad/1a2b").mode, 0711U);
  EXPECT_EQ(facts(".quad/1a2b/17").mode, 0777U);
  EXPECT_EQ(facts("alice").mode, 0777U);
}

TEST_F(HotFoldersTest, AreTheOwnersAloneWhereItsUidIsKnown) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can give a folder away";
  }
  for (int i = 0; i < 2; ++i) {  // twice is once
    ASSERT_TRUE(make(kAlice).ok());
    EXPECT_EQ(facts(".quad/1a2b/17"), (Facts{0700, kAlice.uid, kAlice.gid}));
    EXPECT_EQ(facts("alice"), (Facts{0700, kAlice.uid, kAlice.gid}));
    EXPECT_EQ(facts(".quad/1a2b"), (Facts{0711, 0, 0}));
  }
}

TEST_F(HotFoldersTest, OfAnEarlierAttemptGoToWhoeverTheOwnerIsNow) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can give a folder away";
  }
  ASSERT_TRUE(make().ok());
  std::ofstream(tier_ / ".quad/1a2b/17/fence") << "1";
  fs::permissions(tier_ / "alice", fs::perms(0755));
  ASSERT_TRUE(make(kAlice).ok());
  EXPECT_EQ(facts(".quad/1a2b/17").uid, kAlice.uid);
  EXPECT_EQ(facts(".quad/1a2b/17/fence").uid, kAlice.uid);
  EXPECT_EQ(facts("alice"), (Facts{0755, 0, 0})) << "a home that is there stays as it is";
}

TEST_F(HotFoldersTest, AreNotMadeThroughALink) {
  fs::create_directories(tier_ / "elsewhere");
  fs::create_directory_symlink("elsewhere", tier_ / ".quad");
  EXPECT_FALSE(make().ok());
  EXPECT_TRUE(fs::is_empty(tier_ / "elsewhere"));
  fs::remove(tier_ / ".quad");
  fs::create_directories(tier_ / ".quad/1a2b");
  fs::create_directory_symlink(tier_ / "elsewhere", tier_ / ".quad/1a2b/17");
  const Status made = make(kAlice);
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.error().message.find(".quad/1a2b/17"), std::string::npos) << made.error().message;
  EXPECT_EQ(facts("elsewhere").uid, ::geteuid());
}

TEST_F(HotFoldersTest, AHardLinkInThePlaceOfTheFenceIsNotGivenAway) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root can give a folder away";
  }
  ASSERT_TRUE(make().ok());
  std::ofstream(tier_ / "another") << "x";
  fs::create_hard_link(tier_ / "another", tier_ / ".quad/1a2b/17/fence");
  ASSERT_TRUE(make(kAlice).ok());
  EXPECT_EQ(facts("another").uid, 0U);
}

TEST_F(HotFoldersTest, SayWhatCannotBeMade) {
  std::ofstream(tier_ / ".quad") << "a file";
  const Status made = make();
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.error().message.find("Cannot open .quad/1a2b/17 in the hot tier"),
            std::string::npos)
      << made.error().message;
  EXPECT_FALSE(make_hot_folders({tier_ / "absent", "a", "b", {}}).ok());
}

TEST(HotFoldersOwner, IsReadOrNot) {
  EXPECT_EQ(read_owner("5001:100")->gid, 100U);
  for (const char* text : {"", "5001", "a:b", "-1:0", "1:2:3", "5001:"}) {
    EXPECT_FALSE(read_owner(text)) << text;
  }
}

}  // namespace
}  // namespace quad::runner
