#include "runner/copy.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

class Copy : public ::testing::Test {
 protected:
  Copy() : root_(fs::temp_directory_path() / ("quad-copy-" + random_hex(6))) {
    ::signal(SIGPIPE, SIG_IGN);
    fs::create_directories(root_ / "from");
    fs::create_directories(root_ / "to");
  }
  ~Copy() override { fs::remove_all(root_); }

  void write(const fs::path& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path, std::ios::binary) << text;
  }
  std::string read(const fs::path& path) const { return read_file(root_ / path).value_or("?"); }

  /// Copies one path to another, as the two ends do.
  Status copy(const fs::path& from, const fs::path& to, const std::string& name,
              bool as_folder = false) const {
    auto source = look_at_source(root_ / from);
    if (!source.ok()) {
      return source.error();
    }
    source->name = name;
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    Status sent;
    std::thread sender([&] {
      sent = send_copy(root_ / from, ends[1]);
      ::close(ends[1]);
    });
    const Status received = receive_copy(read_pieces(ends[0]), root_ / to, as_folder, *source);
    ::close(ends[0]);
    sender.join();
    return received.ok() ? sent : received;
  }

  fs::path root_;
};

TEST_F(Copy, AFileGoesWhereCpWouldPutIt) {
  write("from/a.txt", "text");
  ASSERT_TRUE(copy("from/a.txt", "to", "a.txt").ok());
  EXPECT_EQ(read("to/a.txt"), "text");
  ASSERT_TRUE(copy("from/a.txt", "to/b.txt", "a.txt").ok());
  EXPECT_EQ(read("to/b.txt"), "text");
  EXPECT_FALSE(copy("from/a.txt", "to/absent/", "a.txt", true).ok());
  EXPECT_FALSE(copy("from/a.txt", "to/absent/c", "a.txt").ok());
  fs::create_directories(root_ / "to/a.txt.d/a.txt");
  EXPECT_FALSE(copy("from/a.txt", "to/a.txt.d", "a.txt").ok()) << "a folder is in the way";
}

TEST_F(Copy, AFolderIsCopiedWithModesTimesAndLinks) {
  write("from/tree/sub/run.sh", "#!/bin/sh\n");
  write("from/tree/empty", "");
  fs::permissions(root_ / "from/tree/sub/run.sh", fs::perms(0750));
  fs::permissions(root_ / "from/tree/sub", fs::perms(0711));
  fs::permissions(root_ / "from/tree", fs::perms(0705));
  fs::create_symlink("sub/run.sh", root_ / "from/tree/link");
  fs::create_symlink("tree", root_ / "from/latest");
  ASSERT_TRUE(copy("from/tree", "to", "tree").ok());
  EXPECT_EQ(read("to/tree/sub/run.sh"), "#!/bin/sh\n");
  EXPECT_EQ(fs::status(root_ / "to/tree/sub/run.sh").permissions(), fs::perms(0750));
  EXPECT_EQ(fs::status(root_ / "to/tree/sub").permissions(), fs::perms(0711));
  EXPECT_EQ(fs::status(root_ / "to/tree").permissions(), fs::perms(0705));
  EXPECT_EQ(fs::read_symlink(root_ / "to/tree/link"), "sub/run.sh");
  EXPECT_EQ(fs::last_write_time(root_ / "to/tree/empty"),
            fs::last_write_time(root_ / "from/tree/empty"));
  // What a link leads to, under a name of its own; then its contents into what is there.
  ASSERT_TRUE(copy("from/latest", "to/other", "latest").ok());
  EXPECT_EQ(read("to/other/empty"), "");
  ASSERT_TRUE(copy("from/tree", "to", "").ok());
  EXPECT_EQ(read("to/sub/run.sh"), "#!/bin/sh\n");
}

TEST_F(Copy, ANameThatIsNoUtf8AndAVeryLongOneAreKept) {
  const std::string odd = "caf\xe9";
  const std::string longer(200, 'n');
  write(fs::path("from/tree") / odd, "1");
  write(fs::path("from/tree") / longer / longer, "2");
  ASSERT_TRUE(copy("from/tree", "to/tree", "tree").ok());
  EXPECT_EQ(read(fs::path("to/tree") / odd), "1");
  EXPECT_EQ(read(fs::path("to/tree") / longer / longer), "2");
}

TEST_F(Copy, WhatIsNoFileIsLeftOut) {
  write("from/tree/file", "x");
  ASSERT_EQ(::mkfifo((root_ / "from/tree/fifo").c_str(), 0600), 0);
  ASSERT_TRUE(copy("from/tree", "to/tree", "tree").ok());
  EXPECT_EQ(read("to/tree/file"), "x");
  EXPECT_FALSE(fs::exists(fs::symlink_status(root_ / "to/tree/fifo")));
  EXPECT_FALSE(copy("from/tree/fifo", "to", "fifo").ok());
}

TEST_F(Copy, ANameFromTheOtherEndCannotClimb) {
  write("from/a", "x");
  for (const char* name : {"..", "../a", "/etc/a", "x/../../a"}) {
    EXPECT_FALSE(copy("from/a", "to", name).ok()) << name;
  }
}

TEST_F(Copy, AFileThatComesOnlyInPartLeavesTheOldOne) {
  write("from/a", std::string(1 << 20, 'n'));
  write("to/a", "old");
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::thread sender([&] { (void)send_copy(root_ / "from/a", ends[1]); });
  std::size_t left = 300'000;
  const ByteSource whole = read_pieces(ends[0]);
  const ByteSource part = [&]() -> Result<std::string_view> {
    if (left == 0) {
      return std::string_view();
    }
    auto piece = whole();
    const std::string_view some = piece->substr(0, std::min(left, piece->size()));
    left -= some.size();
    return some;
  };
  EXPECT_FALSE(receive_copy(part, root_ / "to", false, {true, 0644, "a"}).ok());
  ::close(ends[0]);
  sender.join();
  ::close(ends[1]);
  EXPECT_EQ(read("to/a"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "to"), {}), 1) << "nothing else is left";
}

TEST(CopyNames, AreTheLastPartOfAPath) {
  EXPECT_EQ(name_of_path("/a/b.txt"), "b.txt");
  EXPECT_EQ(name_of_path("dir/"), "dir");
  EXPECT_EQ(name_of_path("x"), "x");
  for (const char* none : {"", ".", "..", "a/..", "a/.", "~", "/"}) {
    EXPECT_EQ(name_of_path(none), "") << none;
  }
}

}  // namespace
}  // namespace quad::runner
