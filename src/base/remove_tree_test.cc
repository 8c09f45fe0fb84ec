#include "base/remove_tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/file.h"
#include "base/text.h"

namespace quad {
namespace {

namespace fs = std::filesystem;

class RemoveTree : public ::testing::Test {
 protected:
  RemoveTree() : root_(fs::temp_directory_path() / ("quad-remove-" + random_hex(6))) {
    fs::create_directories(root_ / "tree");
  }
  ~RemoveTree() override { (void)remove_tree(root_); }

  /// Folders in each other below root_, by descriptors: no path leads to the last of them.
  void nest(const std::string& name, int depth) const {
    UniqueFd at(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (int i = 0; i < depth; ++i) {
      ASSERT_EQ(::mkdirat(at.get(), name.c_str(), 0755), 0);
      const UniqueFd file(::openat(at.get(), "beside", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
      at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      ASSERT_TRUE(at);
    }
  }

  fs::path root_;
};

TEST_F(RemoveTree, FoldersNestedBeyondAnyPathGoWithFewDescriptors) {
  const std::string name(200, 'd');
  nest(name, 300);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const UniqueFd next(::open("/", O_RDONLY | O_CLOEXEC));
  const rlimit few{static_cast<rlim_t>(next.get()) + 5, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  const Status removed = remove_tree(root_ / name);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_FALSE(fs::exists(root_ / name));
}

TEST_F(RemoveTree, ALinkIsRemovedAndNeverFollowed) {
  fs::create_directories(root_ / "outside/deep");
  std::ofstream(root_ / "outside/file") << "x";
  fs::create_directory_symlink(root_ / "outside", root_ / "tree/link");
  fs::create_directories(root_ / "tree/below");
  fs::create_directory_symlink(root_ / "outside", root_ / "tree/below/link");
  ASSERT_TRUE(remove_tree(root_ / "tree").ok());
  EXPECT_FALSE(fs::exists(root_ / "tree"));
  EXPECT_TRUE(fs::exists(root_ / "outside/file"));
  fs::create_directory_symlink(root_ / "outside", root_ / "tree");
  ASSERT_TRUE(remove_tree(root_ / "tree").ok());
  EXPECT_FALSE(fs::is_symlink(root_ / "tree"));
  EXPECT_TRUE(fs::exists(root_ / "outside/deep"));
}

TEST_F(RemoveTree, ModesThatForbidItAreOvercome) {
  for (const char* name : {"tree/a/b/c", "tree/a/d", "tree/e"}) {
    fs::create_directories(root_ / name);
    std::ofstream(root_ / name / "file") << "x";
  }
  for (const char* name : {"tree/a/b/c", "tree/a/b", "tree/a/d", "tree/e", "tree"}) {
    ::chmod((root_ / name).c_str(), 0);
  }
  const Status removed = remove_tree(root_ / "tree");
  EXPECT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_FALSE(fs::exists(root_ / "tree"));
}

TEST_F(RemoveTree, AFileAndWhatIsNotThereGoToo) {
  std::ofstream(root_ / "file") << "x";
  EXPECT_TRUE(remove_tree(root_ / "file").ok());
  EXPECT_FALSE(fs::exists(root_ / "file"));
  EXPECT_TRUE(remove_tree(root_ / "file").ok());
  EXPECT_TRUE(remove_tree(root_ / "nowhere/file").ok());
}

TEST_F(RemoveTree, ManyEntriesGoInAnyShape) {
  for (int i = 0; i < 60; ++i) {
    fs::create_directories(root_ / "tree" / std::to_string(i % 7) / std::to_string(i) / "x");
    std::ofstream(root_ / "tree" / std::to_string(i % 7) / std::to_string(i) / "y") << i;
  }
  EXPECT_TRUE(remove_tree(root_ / "tree").ok());
  EXPECT_FALSE(fs::exists(root_ / "tree"));
}

TEST_F(RemoveTree, WhatCannotBeRemovedIsNamed) {
  // What is in /proc cannot be removed by anybody.
  const Status refused = remove_tree("/proc/self/environ");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("'environ'"), std::string::npos)
      << refused.error().message;
}

TEST_F(RemoveTree, ItCanBeBrokenOff) {
  fs::create_directories(root_ / "tree/a");
  const std::atomic<bool> stop = true;
  const Status broken = remove_tree(root_ / "tree", &stop);
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(fs::exists(root_ / "tree"));
}

}  // namespace
}  // namespace quad
