// cli/test_folder.h
//
// For tests: a folder of its own that goes with the test, what is put into it, and a git that knows
// nothing of this machine's configuration. One thread.

#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/text.h"

namespace quad::cli {

class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    base_ = std::filesystem::canonical(std::filesystem::temp_directory_path()) /
            ("quad-folder-test-" + random_hex(6));
    top_ = base_ / "top";
    std::filesystem::create_directories(top_);
    std::filesystem::create_directories(base_ / "home");
    ::setenv("HOME", (base_ / "home").c_str(), 1);
    ::setenv("GIT_CONFIG_NOSYSTEM", "1", 1);
    ::unsetenv("XDG_CONFIG_HOME");
  }
  ~FolderTest() override { std::filesystem::remove_all(base_); }

  void write(const std::string& name, std::string_view text = "x") const {
    std::filesystem::create_directories((top_ / name).parent_path());
    std::ofstream(top_ / name, std::ios::binary) << text;
  }
  /// Runs git in the folder `below`; what it prints. `words`: for a shell.
  std::string git(const std::string& words, const std::string& below = ".") const {
    const std::filesystem::path out = base_ / "out";
    const std::string line =
        "git -C " + shell_quote((top_ / below).string()) +
        " -c user.name=Ana -c user.email=ana@example.org -c init.defaultBranch=main "
        "-c protocol.file.allow=always " +
        words + " >" + shell_quote(out.string()) + " 2>/dev/null";
    EXPECT_EQ(std::system(line.c_str()), 0) << line;  // NOLINT(cert-env33-c): git's own shell
    return read_file(out).value_or("");
  }

  std::filesystem::path base_;  ///< holds top_, and "home"
  std::filesystem::path top_;
};

}  // namespace quad::cli
