#include "engine/local/trash.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/remove_tree.h"
#include "base/text.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

/// What was told, for whoever waits for it.
class Told : public spdlog::sinks::base_sink<std::mutex> {
 public:
  std::atomic<int> lines = 0;
  std::string text;  ///< once nobody tells anything any more

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    text += fmt::format("{}\n", message.payload);
    ++lines;
  }
  void flush_() override {}
};

class TrashFolder : public ::testing::Test {
 protected:
  TrashFolder() : root_(fs::temp_directory_path() / ("quad-trash-" + random_hex(6))) {
    fs::create_directories(root_ / "trash");
  }
  ~TrashFolder() override { (void)remove_tree(root_); }

  /// True once it holds so many entries.
  bool comes_to(int entries) const {
    for (int tries = 0; tries < 60'000; ++tries) {
      if (std::distance(fs::directory_iterator(root_ / "trash"), fs::directory_iterator()) ==
          entries) {
        return true;
      }
      ::usleep(1000);
    }
    return false;
  }

  fs::path root_;
};

TEST_F(TrashFolder, WhatIsNestedBeyondAnyPathIsRemoved) {
  UniqueFd at(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::string name(200, 'd');
  for (int depth = 0; depth < 100; ++depth) {
    ASSERT_EQ(::mkdirat(at.get(), name.c_str(), 0755), 0);
    at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(at);
  }
  Trash trash(root_ / "trash");
  ASSERT_TRUE(trash.throw_away(root_ / name).ok());
  EXPECT_TRUE(comes_to(0));
}

TEST_F(TrashFolder, WhatCannotBeRemovedIsToldInTheLogOnce) {
  const auto told = std::make_shared<Told>();
  const auto before = spdlog::default_logger();
  bool permitted = false;
  // A mount in a namespace of this thread's own, which the trash's thread inherits.
  std::thread([&] {
    fs::create_directories(root_ / "trash/stuck/mount");
    permitted = ::unshare(CLONE_NEWNS) == 0 &&
                ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                ::mount("none", (root_ / "trash/stuck/mount").c_str(), "tmpfs", 0, nullptr) == 0;
    if (!permitted) {
      return;
    }
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("trash", told));
    fs::create_directories(root_ / "later");
    Trash trash(root_ / "trash");
    for (int tries = 0; told->lines == 0 && tries < 60'000; ++tries) {
      ::usleep(1000);
    }
    ASSERT_TRUE(trash.throw_away(root_ / "later").ok());
    EXPECT_TRUE(comes_to(1)) << "what can be removed is";
  }).join();
  spdlog::set_default_logger(before);
  if (!permitted) {
    GTEST_SKIP() << "nothing may be mounted here";
  }
  EXPECT_EQ(told->lines, 1) << told->text;
  EXPECT_NE(told->text.find((root_ / "trash/stuck").string() + " cannot be removed"),
            std::string::npos)
      << told->text;
}

}  // namespace
}  // namespace quad::engine
