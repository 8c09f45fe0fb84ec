#include "config/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "base/file.h"
#include "base/text.h"

namespace quad::config {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class File : public testing::Test {
 protected:
  File() : folder_(fs::temp_directory_path() / ("quad-config-" + random_hex(8))) {
    fs::create_directories(folder_);
    ::unsetenv("QUAD_CONFIG");
  }
  ~File() override {
    ::unsetenv("QUAD_CONFIG");
    fs::remove_all(folder_);
  }
  fs::path write(const char* name, const char* text) {
    EXPECT_TRUE(write_file_atomically(folder_ / name, text, 0600).ok());
    return folder_ / name;
  }
  fs::path folder_;
};

TEST_F(File, IsTheNamedOneOrThatOfTheEnvironmentOrTheDataDirectorys) {
  EXPECT_EQ(find_source("", "/data").path, "/data/config.yaml");
  EXPECT_FALSE(find_source("", "/data").required);
  ::setenv("QUAD_CONFIG", "/etc/quad.yaml", 1);
  EXPECT_EQ(find_source("", "/data").path, "/etc/quad.yaml");
  EXPECT_EQ(find_source("mine.yaml", "/data").path, "mine.yaml");
  EXPECT_TRUE(find_source("mine.yaml", "/data").required);
}

TEST_F(File, MayBeAbsentOnlyIfNobodyNamedIt) {
  EXPECT_TRUE(load(find_source("", folder_)).ok());
  const Loaded named = load(find_source((folder_ / "none.yaml").string(), folder_));
  ASSERT_THAT(named.errors, SizeIs(1));
  EXPECT_THAT(named.errors[0].message, HasSubstr("none.yaml"));
}

TEST_F(File, IsRead) {
  write("config.yaml", "port: 8080\n");
  EXPECT_EQ(load(find_source("", folder_)).config.port, 8080);
}

TEST_F(File, RelativePathsInItBeginAtItsFolder) {
  const fs::path path =
      write("config.yaml", "tls: {certificate: a.pem, key: /k, ca: sub/ca.pem}\n");
  const auto tls = load({path, true}).config.tls;
  EXPECT_EQ(tls.certificate, (folder_ / "a.pem").string());
  EXPECT_EQ(tls.key, "/k");
  EXPECT_EQ(tls.ca, (folder_ / "sub/ca.pem").string());
  const std::vector<Override> flags = {{"tls.ca", spec::Node::make_string("ca.pem"), "--tls-ca"}};
  EXPECT_EQ(load({path, true}, flags).config.tls.ca, "ca.pem");
}

TEST_F(File, IsNotWritableByEverybody) {
  const fs::path path = write("config.yaml", "port: 8080\n");
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  const Loaded loaded = load(find_source("", folder_));
  ASSERT_THAT(loaded.errors, SizeIs(1));
  EXPECT_THAT(loaded.errors[0].message, HasSubstr("chmod o-w"));
}

TEST_F(File, IsAPlainFile) {
  ASSERT_EQ(::mkfifo((folder_ / "config.yaml").c_str(), 0600), 0);
  EXPECT_THAT(load(find_source("", folder_)).errors.at(0).message, HasSubstr("no plain file"));
  EXPECT_THAT(load({folder_, true}).errors.at(0).message, HasSubstr("no plain file"));
}

}  // namespace
}  // namespace quad::config
