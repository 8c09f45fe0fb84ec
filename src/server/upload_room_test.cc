#include "server/upload_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <list>

#include "base/file.h"
#include "base/text.h"

namespace quad::server {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = 1U << 20U;

TEST(UploadRoom, WhatOneWillWriteIsTakenFromAllAtOnce) {
  UploadRoom room;
  std::uint64_t free = UploadRoom::kKeptFree + 100 * kMiB;
  room.free = [&] { return std::optional(free); };
  Upload first(room, "alice");
  ASSERT_TRUE(first.claim(60 * kMiB).ok());
  {
    Upload second(room, "bob");
    EXPECT_FALSE(second.claim(60 * kMiB).ok()) << "though nothing has been written yet";
    ASSERT_TRUE(second.claim(40 * kMiB).ok());
    Upload third(room, "carol");
    EXPECT_EQ(third.claim(1).error().code, ErrorCode::kExhausted);
  }
  Upload again(room, "bob");
  EXPECT_TRUE(again.claim(40 * kMiB).ok()) << "what ended has given its room back";
}

TEST(UploadRoom, OneThatDoesNotSayHowLongItIsTakesItsRoomAsItGoes) {
  UploadRoom room;
  std::uint64_t free = UploadRoom::kKeptFree + 10 * kMiB;
  room.free = [&] { return std::optional(free); };
  Upload upload(room, "alice");
  std::uint64_t written = 0;
  while (upload.claim(kMiB).ok()) {
    upload.wrote(kMiB);
    free -= kMiB;
    written += kMiB;
    ASSERT_LE(written, 10 * kMiB);
  }
  EXPECT_EQ(written, 10 * kMiB);
  EXPECT_GE(free, UploadRoom::kKeptFree);
}

TEST(UploadRoom, OthersThatFillTheDiskEndAnUploadThatHadItsRoom) {
  UploadRoom room;
  std::uint64_t free = UploadRoom::kKeptFree + 100 * kMiB;
  room.free = [&] { return std::optional(free); };
  Upload upload(room, "alice");
  ASSERT_TRUE(upload.claim(50 * kMiB).ok());
  free -= 80 * kMiB;  // a job wrote this
  EXPECT_FALSE(upload.claim(kMiB).ok());
}

TEST(UploadRoom, BoundsTheUploadsOfOneUserAndOfAll) {
  UploadRoom room;
  std::list<Upload> uploads;
  const auto begin = [&](const std::string& user) {
    const Status begun = uploads.emplace_back(room, user).begin();
    if (!begun.ok()) {
      uploads.pop_back();
    }
    return begun;
  };
  for (std::size_t i = 0; i < UploadRoom::kMostOfUser; ++i) {
    ASSERT_TRUE(begin("alice").ok());
  }
  EXPECT_THAT(begin("alice").error().message, HasSubstr("alice has 16 uploads under way already"));
  while (uploads.size() < UploadRoom::kMost) {
    ASSERT_TRUE(begin(std::to_string(uploads.size() / UploadRoom::kMostOfUser)).ok());
  }
  EXPECT_EQ(begin("zoe").error().code, ErrorCode::kUnavailable);
  uploads.pop_front();
  EXPECT_TRUE(begin("alice").ok());
}

TEST(UploadRoom, LeftoversAreSweptAndWholeUploadsStay) {
  const fs::path folder = fs::temp_directory_path() / ("quad-sweep-" + random_hex(6));
  ASSERT_TRUE(make_folders(folder, 0700).ok());
  const fs::path whole = folder / std::string(64, 'a');
  ASSERT_TRUE(write_file_atomically(whole, "x", 0600).ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(write_file_atomically(temporary_of(whole), "half", 0600).ok());
  }
  EXPECT_EQ(sweep_uploads(folder), 3U);
  EXPECT_EQ(sweep_uploads(folder), 0U);
  EXPECT_TRUE(fs::exists(whole));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace quad::server
