#include "runner/git.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/remove_tree.h"
#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

class Git : public ::testing::Test {
 protected:
  Git() : root_(fs::temp_directory_path() / ("quad-git-" + random_hex(6))) {
    fs::create_directories(root_ / "lists");
    fs::create_directories(root_ / "place");
    lists_.reset(::open((root_ / "lists").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (const char* name : {"repo", "other"}) {
      fs::create_directories(root_ / name);
      git("init -q -b main", name);
    }
  }
  ~Git() override { (void)remove_tree(root_); }

  void git(const std::string& words, const std::string& in = "repo") const {
    const std::string line = fmt::format(
        "GIT_CONFIG_GLOBAL=/dev/null git -C {} -c user.name=a -c user.email=a@b {} "
        ">/dev/null 2>&1",
        (root_ / in).string(), words);
    ASSERT_EQ(std::system(line.c_str()), 0) << words;
  }
  void write(const fs::path& path, std::string_view text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void commit(const std::string& in = "repo") const {
    git("add -A", in);
    git("commit -q --allow-empty -m x", in);
  }

  Status bring(const std::string& ref, const std::string& from = "repo") {
    Mount mount;
    mount.kind = Mount::Kind::kGit;
    mount.url = "file://" + (root_ / from).string();
    mount.ref = ref;
    notes_.clear();
    QUAD_ASSIGN(Brought memory, Brought::open(lists_.get(), root_ / "place",
                                              fmt::format("{}-1-0", ++tasks_), "~/sky_workdir"));
    QUAD_TRY(bring_git(mount, Order{}, root_ / "place", memory, notes_));
    QUAD_TRY(memory.finish());
    if (!memory.story().empty()) {
      notes_.push_back(memory.story());
    }
    return {};
  }
  std::string text(const fs::path& path) const {
    std::ifstream file(root_ / "place" / path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool exists(const fs::path& path) const {
    return fs::symlink_status(root_ / "place" / path).type() != fs::file_type::not_found;
  }

  fs::path root_;
  UniqueFd lists_;
  int tasks_ = 0;
  std::vector<std::string> notes_;
};

TEST_F(Git, BranchesTagsCommitsAndAnotherUrlArriveInTheFolderThatIsThere) {
  write("repo/file", "one");
  write("repo/only-v1/a", "a");
  commit();
  git("tag v1.0");
  git("rm -rq only-v1");
  write("repo/file", "two");
  write("repo/conf", "a file on main");
  commit();
  git("checkout -q -b feature/x");
  git("rm -q conf");
  write("repo/conf/inner", "a folder on the branch");
  commit();
  git("checkout -q --detach");
  write("repo/file", "of a pull request");
  commit();
  git("update-ref refs/pull/7/head HEAD");
  git("checkout -q main");

  ASSERT_TRUE(bring("").ok());
  EXPECT_EQ(text("file"), "two");
  write("place/out.ckpt", "of a task");
  for (int round = 0; round < 2; ++round) {
    Status brought = bring("feature/x");
    ASSERT_TRUE(brought.ok()) << brought.error().message;
    EXPECT_EQ(text("conf/inner"), "a folder on the branch");
    git("diff --exit-code HEAD", "place");
    ASSERT_TRUE(bring("v1.0").ok());
    EXPECT_EQ(text("file"), "one");
    EXPECT_EQ(text("only-v1/a"), "a");
    EXPECT_FALSE(exists("conf"));
    ASSERT_TRUE(bring("refs/pull/7/head").ok());
    EXPECT_EQ(text("file"), "of a pull request");
    EXPECT_FALSE(exists("only-v1"));
    ASSERT_TRUE(bring("main").ok());
    EXPECT_EQ(text("file"), "two");
    EXPECT_EQ(text("conf"), "a file on main");
    git("diff --exit-code HEAD", "place");
    git("rev-parse --verify main@{upstream}", "place");
  }
  // What is new on a branch since.
  write("repo/file", "three");
  commit();
  ASSERT_TRUE(bring("main").ok());
  EXPECT_EQ(text("file"), "three");

  write("other/else", "of the other");
  commit("other");
  ASSERT_TRUE(bring("", "other").ok());
  EXPECT_EQ(text("else"), "of the other");
  EXPECT_FALSE(exists("file"));
  EXPECT_EQ(text("out.ckpt"), "of a task");
  EXPECT_TRUE(notes_.empty()) << notes_.front();
}

TEST_F(Git, WhatATaskChangedIsAsTheRepositoryHasItAndItsCommitsAreKept) {
  write("repo/file", "one");
  write("repo/.gitignore", "ignored\n");
  commit();
  ASSERT_TRUE(bring("").ok());
  write("place/file", "changed by a task");
  write("place/ignored", "of a task");
  write("place/new", "committed by a task");
  git("add new", "place");
  git("commit -q -m task", "place");
  const Status brought = bring("");
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_EQ(text("file"), "one");
  EXPECT_EQ(text("ignored"), "of a task");
  EXPECT_EQ(text("new"), "committed by a task") << "a file that a task wrote stays";
  ASSERT_EQ(notes_.size(), 2U);
  EXPECT_NE(notes_[0].find("are kept as its branch quad-kept-"), std::string::npos) << notes_[0];
  EXPECT_NE(notes_[1].find("~/sky_workdir/file"), std::string::npos) << notes_[1];
  git("rev-parse --verify HEAD", "place");
}

TEST_F(Git, WhatAKilledGitLeftIsInNobodysWay) {
  write("repo/file", "one");
  commit();
  ASSERT_TRUE(bring("").ok());
  write("place/.git/index.lock", "");
  write("place/.git/quad-index.lock", "");
  write("place/.git/index", "cut off");
  write("place/.git/HEAD.lock", "");
  fs::last_write_time(root_ / "place/.git/HEAD.lock",
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  write("repo/file", "two");
  commit();
  const Status brought = bring("");
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_EQ(text("file"), "two");
}

TEST_F(Git, ARefThatIsNotThereAndARepositoryOfSomebodyElsesAreSentences) {
  write("repo/file", "one");
  commit();
  const Status missing = bring("nope");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().message, "git says: fatal: couldn't find remote ref nope");
  fs::remove_all(root_ / "place/.git");
  ASSERT_TRUE(bring("").ok());
  fs::remove_all(root_ / "lists");
  fs::create_directories(root_ / "lists");
  lists_.reset(::open((root_ / "lists").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Status foreign = bring("");
  ASSERT_FALSE(foreign.ok());
  EXPECT_NE(foreign.error().message.find("a repository that Quad has not brought"),
            std::string::npos)
      << foreign.error().message;
}

TEST_F(Git, NeitherHooksNorTheJobsConfigurationAreUsed) {
  write("repo/file", "one");
  write("repo/.gitattributes", "* filter=x\n");
  commit();
  const std::string witness = (root_ / "witness").string();
  write("home/.gitconfig", fmt::format("[filter \"x\"]\n\tsmudge = \"touch {}; cat\"\n", witness));
  write("home/.config/git/config",
        fmt::format("[filter \"x\"]\n\tsmudge = \"touch {}; cat\"\n", witness));
  ::setenv("HOME", (root_ / "home").c_str(), 1);
  ASSERT_TRUE(bring("").ok());
  EXPECT_FALSE(fs::exists(witness));
  write("place/.git/hooks/post-checkout", "#!/bin/sh\ntouch " + witness);
  write("place/.git/hooks/post-index-change", "#!/bin/sh\ntouch " + witness);
  write("place/.git/hooks/reference-transaction", "#!/bin/sh\ntouch " + witness);
  for (const auto& hook : fs::directory_iterator(root_ / "place/.git/hooks")) {
    fs::permissions(hook.path(), fs::perms::owner_all);
  }
  write("repo/file", "two");
  commit();
  ASSERT_TRUE(bring("").ok());
  EXPECT_EQ(text("file"), "two");
  EXPECT_FALSE(fs::exists(witness));
}

TEST_F(Git, AnEmptyRepositoryIsNoError) {
  ASSERT_TRUE(bring("").ok());
  write("repo/file", "one");
  commit();
  ASSERT_TRUE(bring("").ok());
  EXPECT_EQ(text("file"), "one");
}

}  // namespace
}  // namespace quad::runner
