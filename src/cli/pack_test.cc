#include "cli/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/test_folder.h"

namespace quad::cli {
namespace {

using testing::ElementsAre;

class Pack : public FolderTest {};

TEST_F(Pack, TheSameFilesGiveTheSameBlobAndIgnoredOnesStayBehind) {
  write("train.py", "print(1)\n");
  write("data/big.bin", std::string(100'000, 'x'));
  write(".skyignore", "data\n");
  const auto first = pack(top_);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->contents.files, 2U);
  EXPECT_EQ(first->contents.left_behind.bytes, 100'000U);
  const auto second = pack(top_);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->hash, second->hash);
  write("train.py", "print(2)\n");
  EXPECT_NE(first->hash, pack(top_)->hash);
  EXPECT_EQ(pack(top_ / "none").error().code, ErrorCode::kNotFound);
}

TEST_F(Pack, TheBlobIsAFileWithoutANameAtItsBeginning) {
  write("a");
  const auto blob = pack(top_);
  ASSERT_TRUE(blob.ok());
  struct stat info {};
  ASSERT_EQ(::fstat(blob->file.get(), &info), 0);
  EXPECT_EQ(info.st_nlink, 0U) << "nothing is left of it when the program is interrupted";
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), blob->bytes);
  EXPECT_EQ(::lseek(blob->file.get(), 0, SEEK_CUR), 0);
}

TEST_F(Pack, TakesAnyNameAndSaysWhatItLeavesOut) {
  for (const char* name : {"Gr\xc3\xbc\xc3\x9f"
                           "e",
                           "not-utf8-\xff", "two\nlines"}) {
    write(name);
  }
  ASSERT_EQ(::mkfifo((top_ / "pipe").c_str(), 0600), 0);
  const auto blob = pack(top_);
  ASSERT_TRUE(blob.ok()) << blob.error().message;
  EXPECT_EQ(blob->contents.files, 3U);
  EXPECT_THAT(blob->contents.odd.names, ElementsAre("pipe"));
}

TEST_F(Pack, AFileThatChangesItsSizeWhileItIsReadIsNoError) {
  write("grows", std::string(1'000'000, 'g'));
  write("shrinks", std::string(1'000'000, 's'));
  const auto calm = survey(top_);
  ASSERT_TRUE(calm.ok());
  const auto change = [&](std::uint64_t read) {
    if (read < 500'000) {
      std::filesystem::resize_file(top_ / "grows", 2'000'000);
    } else if (read > 1'000'000) {
      std::filesystem::resize_file(top_ / "shrinks", 300'000);
    }
  };
  const auto blob = pack(top_, change);
  ASSERT_TRUE(blob.ok()) << blob.error().message;
  EXPECT_THAT(blob->shrunk.names, ElementsAre("shrinks"));
  EXPECT_EQ(blob->contents.bytes, calm->contents.bytes);
}

TEST_F(Pack, ASurveyCountsWhatAPackPacks) {
  write("a.txt", "12345");
  write("sub/b.txt", "123");
  const auto looked = survey(top_);
  ASSERT_TRUE(looked.ok());
  EXPECT_EQ(looked->contents.files, 2U);
  EXPECT_EQ(looked->contents.bytes, 8U);
  EXPECT_FALSE(looked->is_file);
  const auto file = survey(top_ / "a.txt");
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->is_file);
  EXPECT_EQ(file->contents.bytes, 5U);
}

TEST_F(Pack, ScriptsThatWindowsSavedAreTold) {
  write("train.sh", "#!/bin/bash\r\necho hi\r\n");
  write("module.py", "#!/usr/bin/env python3\r\n");  // nobody starts it by its name
  write("good.sh", "#!/bin/bash\necho hi\r\n");
  write("tool", "#!/bin/sh\r\n");
  ::chmod((top_ / "tool").c_str(), 0755);
  const auto looked = survey(top_);
  ASSERT_TRUE(looked.ok());
  EXPECT_THAT(looked->windows_scripts.names, ElementsAre("tool", "train.sh"));
}

TEST_F(Pack, AServersKeysArePackedFromNowhere) {
  write("data/quad.db");
  write("data/secret.key");
  write("data/nodes/local-1/1-1-0/home/mine");
  EXPECT_EQ(pack(top_ / "data/secret.key").error().code, ErrorCode::kInvalid);
  EXPECT_EQ(survey(top_ / "data").error().code, ErrorCode::kInvalid);
  std::filesystem::create_symlink(top_ / "data", top_ / "by-a-link");
  EXPECT_EQ(pack(top_ / "by-a-link").error().code, ErrorCode::kInvalid);
  EXPECT_TRUE(pack(top_ / "data/nodes/local-1/1-1-0/home/mine").ok());
}

TEST(Upload, WaitsForAServerThatReadsAllOfALargeOne) {
  EXPECT_EQ(upload_patience(0), Millis(60'000));
  EXPECT_EQ(upload_patience(1'000'000'000), Millis(110'000));
  EXPECT_GT(upload_patience(64ULL << 30U), Millis(3'000'000));
}

}  // namespace
}  // namespace quad::cli
