#include "server/crypto.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/file.h"
#include "base/text.h"

namespace quad::server {
namespace {

class Crypto : public testing::Test {
 protected:
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("quad-crypto-" + random_hex(6));
  void SetUp() override { ASSERT_TRUE(make_folders(folder_).ok()); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
};

TEST_F(Crypto, Sha256IsTheStandardOne) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_F(Crypto, TheKeyIsMadeOnceAndOnlyItsOwnerMayReadIt) {
  const auto file = folder_ / "secret.key";
  const auto first = load_key(file);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->bytes.size(), 32U);
  EXPECT_FALSE(first->kept);
  ASSERT_TRUE(keep_key(file, *first).ok());
  struct stat info {};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  const auto again = load_key(file);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->kept);
  EXPECT_EQ(again->bytes, first->bytes);
}

TEST_F(Crypto, ADamagedKeyIsAnErrorAndIsNeverReplaced) {
  const auto file = folder_ / "secret.key";
  for (const char* damaged : {"", "0123", "not hexadecimal"}) {
    ASSERT_TRUE(write_file_atomically(file, damaged, 0600).ok());
    EXPECT_EQ(load_key(file).error().code, ErrorCode::kUnavailable);
    EXPECT_EQ(read_file(file).value(), damaged);
  }
}

TEST_F(Crypto, ACheckValueTellsKeysApartAndNothingOfThem) {
  const std::string one(32, 'k');
  EXPECT_EQ(check_value(one), check_value(one));
  EXPECT_NE(check_value(one), check_value(std::string(32, 'x')));
  EXPECT_EQ(check_value(one).find(to_hex(one)), std::string::npos);
}

TEST_F(Crypto, WhatIsSealedOpensWithTheSameKeyAndContextOnly) {
  const std::string key(32, 'k');
  const std::string sealed = seal(key, "ana", "hunter2");
  EXPECT_EQ(open_sealed(key, "ana", sealed).value(), "hunter2");
  EXPECT_FALSE(open_sealed(key, "ben", sealed).ok());
  EXPECT_FALSE(open_sealed(std::string(32, 'x'), "ana", sealed).ok());
  EXPECT_EQ(sealed.find(to_hex("hunter2")), std::string::npos);
}

TEST_F(Crypto, TheSameSecretIsSealedDifferentlyEachTime) {
  const std::string key(32, 'k');
  EXPECT_NE(seal(key, "ana", "hunter2"), seal(key, "ana", "hunter2"));
}

TEST_F(Crypto, AChangedByteAnywhereIsNoticed) {
  const std::string key(32, 'k');
  const std::string sealed = seal(key, "ana", "hunter2");
  for (std::size_t i = 0; i < sealed.size(); ++i) {
    std::string changed = sealed;
    changed[i] = changed[i] == '0' ? '1' : '0';
    EXPECT_FALSE(open_sealed(key, "ana", changed).ok()) << "at " << i;
  }
  EXPECT_FALSE(open_sealed(key, "ana", "").ok());
  EXPECT_FALSE(open_sealed(key, "ana", "zz").ok());
  EXPECT_FALSE(open_sealed(key, "ana", sealed.substr(0, 20)).ok());
}

TEST_F(Crypto, AnEmptySecretAndALargeOneGoThereAndBack) {
  const std::string key(32, 'k');
  EXPECT_EQ(open_sealed(key, "", seal(key, "", "")).value(), "");
  const std::string large(1'000'000, 's');
  EXPECT_EQ(open_sealed(key, "", seal(key, "", large)).value(), large);
}

TEST_F(Crypto, EqualityInConstantTimeIsEquality) {
  EXPECT_TRUE(equal_constant_time("", ""));
  EXPECT_TRUE(equal_constant_time("abc", "abc"));
  EXPECT_FALSE(equal_constant_time("abc", "abd"));
  EXPECT_FALSE(equal_constant_time("abc", "abcd"));
}

}  // namespace
}  // namespace quad::server
