#include "cli/tree.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <utility>

#include "cli/test_folder.h"

namespace quad::cli {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

/// What goes along of the files and links, but for git's own.
class Tree : public FolderTest {
 protected:
  std::vector<std::string> brought(const std::string& below = ".") {
    std::vector<std::string> names;
    const Take take = [&](const Found& found) -> Status {
      const std::string name = "/" + found.name + "/";
      if (S_ISLNK(found.info.st_mode)) {
        links_[found.name] = found.target;
      }
      if (!S_ISDIR(found.info.st_mode) && name.find("/.git/") == std::string::npos) {
        names.push_back(found.name);
      }
      return {};
    };
    auto contents = walk(top_ / below, take);
    EXPECT_TRUE(contents.ok()) << contents.error().message;
    contents_ = contents.ok() ? std::move(contents).value() : Contents();
    return names;
  }

  Contents contents_;
  std::map<std::string, std::string> links_;
};

TEST_F(Tree, WhatIsTrackedGoesAlongThoughARuleNamesIt) {
  git("init");
  write(".gitignore", "*.bin\ndata/\n");
  for (const char* name :
       {"data/vocab.txt", "data/big.txt", "weights.bin", "old.bin", "train.py"}) {
    write(name);
  }
  git("add -f data/vocab.txt weights.bin");
  EXPECT_THAT(brought(),
              UnorderedElementsAre(".gitignore", "data/vocab.txt", "train.py", "weights.bin"));
  EXPECT_EQ(contents_.left_behind.rules, "git");
  EXPECT_EQ(contents_.left_behind.files, 2U);
}

TEST_F(Tree, RulesAreReadFromAllPlacesThatGitReads) {
  git("init");
  write("../home/.gitconfig", "[core]\n\texcludesFile = ~/everywhere\n");
  write("../home/everywhere", "*.swp\n");
  write(".git/info/exclude", "scratch/\n");
  write(".gitignore", "*.ckpt\n");
  for (const char* name :
       {"a.swp", "scratch/a", "proj/scratch/b", "proj/old.ckpt", "proj/x.py", "proj/.hidden.swp"}) {
    write(name);
  }
  EXPECT_THAT(brought(), UnorderedElementsAre(".gitignore", "proj/x.py"));
  EXPECT_THAT(brought("proj"), ElementsAre("x.py"));
}

TEST_F(Tree, EachRepositoryInsideIsAskedForItsOwn) {
  git("init");
  write(".gitignore", "*.log\nvendor\n");
  write("inner/.gitignore", "*.o\n");
  write("inner/a.log");
  write("inner/b.o");
  write("inner/c.o");
  git("init", "inner");
  git("add -f c.o", "inner");
  write("vendor/lost.txt");
  write("fake/.git", "this is no repository\n");
  write("fake/x.log");
  EXPECT_THAT(brought(),
              UnorderedElementsAre(".gitignore", "inner/.gitignore", "inner/a.log", "inner/c.o"));
  EXPECT_THAT(contents_.without_git, HasSubstr("fake"));
}

TEST_F(Tree, ASubmoduleGoesAlongThoughARuleNamesIt) {
  write("../library/code.py");
  write("../library/code.pyc");
  write("../library/.gitignore", "*.pyc\n");
  git("init", "../library");
  git("add .", "../library");
  git("commit -m x", "../library");
  git("init");
  git("submodule add ../library third_party/lib");
  write(".gitignore", "third_party/\n");
  write("third_party/lib/more.pyc");
  write("third_party/other");
  EXPECT_THAT(brought(),
              UnorderedElementsAre(".gitignore", ".gitmodules", "third_party/lib/.gitignore",
                                   "third_party/lib/code.py"));
}

TEST_F(Tree, AWorktreeIsARepositoryToo) {
  write("main/.gitignore", "*.bin\n");
  git("init", "main");
  git("add .", "main");
  git("commit -m x", "main");
  write("main/.git/info/exclude", "scratch\n");
  git("worktree add ../side", "main");
  write("side/a.bin");
  write("side/scratch");
  write("side/b.py");
  EXPECT_THAT(brought("side"), UnorderedElementsAre(".gitignore", "b.py"));
}

TEST_F(Tree, AFolderThatIsIgnoredItselfWasNamedAllTheSame) {
  git("init");
  write(".gitignore", "runs/\n*.bin\n");
  write("runs/one/model.bin");
  write("runs/one/notes.txt");
  write("runs/one/.gitignore", "*.txt\n");
  EXPECT_THAT(brought("runs/one"), ElementsAre(".gitignore", "model.bin"));
  EXPECT_EQ(contents_.left_behind.files, 1U);
}

TEST_F(Tree, AnothersRepositoryIsAskedAndNothingInItIsRun) {
  git("init");
  write("hook", fmt::format("#!/bin/sh\ntouch {}\n", (base_ / "ran").string()));
  ::chmod((top_ / "hook").c_str(), 0755);
  write(".gitignore", "*.bin\n");
  write("kept.bin");
  write("left.bin");
  git("add -f kept.bin");
  for (const char* key : {"core.fsmonitor", "core.sshCommand", "core.pager", "pager.ls-files",
                          "core.askPass", "alias.check-ignore"}) {
    git(fmt::format("config {} {}", key, (top_ / "hook").string()));
  }
  git(fmt::format("config alias.ls-files '!{}'", (top_ / "hook").string()));
  fs::remove(base_ / "ran");
  if (::geteuid() == 0) {
    ASSERT_EQ(std::system(("chown -R 65534 " + top_.string()).c_str()), 0);  // NOLINT
  }
  EXPECT_THAT(brought(), UnorderedElementsAre(".gitignore", "hook", "kept.bin"));
  EXPECT_FALSE(fs::exists(base_ / "ran"));
}

TEST_F(Tree, WithoutGitItsFilesAreReadAndThatIsSaid) {
  git("init");
  write(".gitignore", "*.ckpt\n/proj/out/\n");
  write(".git/info/exclude", "scratch/\n");
  write("../home/.config/git/ignore", "*.swp\n");
  for (const char* name : {"proj/scratch/a", "proj/old.ckpt", "proj/x.py", "proj/b.swp",
                           "proj/out/c", "proj/deep/out/d"}) {
    write(name);
  }
  write("proj/deep/.gitignore", "!*.ckpt\n");
  write("proj/deep/taken-back.ckpt");
  const std::vector<std::string> with = brought("proj");
  EXPECT_THAT(contents_.without_git, IsEmpty());
  const std::string path = ::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  EXPECT_EQ(brought("proj"), with);
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_THAT(contents_.without_git, HasSubstr("git is not installed here"));
}

TEST_F(Tree, OutsideOfARepositoryTheGitignoreFilesInItCount) {
  write(".gitignore", "*.log\nbuild/\n");
  write("sub/.gitignore", "/local\n!keep.log\n");
  for (const char* name : {"a.log", "build/x", "sub/local", "sub/deep/local", "sub/keep.log"}) {
    write(name);
  }
  EXPECT_THAT(brought(), UnorderedElementsAre(".gitignore", "sub/.gitignore", "sub/deep/local",
                                              "sub/keep.log"));
  EXPECT_EQ(contents_.left_behind.rules, ".gitignore");
}

TEST_F(Tree, ASkyignoreGoesBeforeAllOthers) {
  git("init");
  write(".gitignore", "*.bin\n");
  write(".skyignore", "\xef\xbb\xbf/data/*\n!data/keep\n.git\n");
  for (const char* name : {"x.bin", "data/a", "data/keep", "sub/data/b", "sub/.skyignore"}) {
    write(name);
  }
  EXPECT_THAT(brought(), UnorderedElementsAre(".gitignore", ".skyignore", "data/keep", "sub/data/b",
                                              "sub/.skyignore", "x.bin"));
  EXPECT_EQ(contents_.left_behind.rules, ".skyignore");
}

TEST_F(Tree, LinksToInsideBecomeRelativeAndOthersAreTold) {
  write("data/file");
  write("sub/deep/x");
  fs::create_symlink(base_ / "top", base_ / "another-way");
  fs::create_symlink(top_ / "data", top_ / "latest");
  fs::create_symlink(top_ / "data/file", top_ / "sub/deep/file");
  fs::create_symlink(base_ / "another-way/data", top_ / "sub/roundabout");
  fs::create_symlink(top_, top_ / "sub/all");
  fs::create_symlink(top_, top_ / "itself");
  fs::create_symlink("data/file", top_ / "relative");
  fs::create_symlink(top_ / "not/yet", top_ / "later");
  fs::create_symlink("/etc", top_ / "abroad");
  fs::create_symlink("../home", top_ / "neighbour");
  fs::create_symlink("../../top/data", top_ / "sub/in-and-out");
  brought();
  EXPECT_EQ(links_["latest"], "data");
  EXPECT_EQ(links_["sub/deep/file"], "../../data/file");
  EXPECT_EQ(links_["sub/roundabout"], "../data");
  EXPECT_EQ(links_["sub/all"], "..");
  EXPECT_EQ(links_["itself"], ".");
  EXPECT_EQ(links_["relative"], "data/file");
  EXPECT_EQ(links_["later"], "not/yet");
  EXPECT_EQ(links_["abroad"], "/etc");
  EXPECT_THAT(contents_.outside.names,
              UnorderedElementsAre("abroad -> /etc", "neighbour -> ../home",
                                   "sub/in-and-out -> ../../top/data"));
  EXPECT_THAT(contents_.dangling.names, ElementsAre("later -> not/yet"));
}

TEST_F(Tree, AServersDataNeverGoesAlong) {
  write("deep/data/quad.db");
  write("deep/data/secret.key");
  write("deep/data/nodes/local-1/1-1-0/home/sky_workdir/x");
  write("deep/train.py");
  EXPECT_THAT(brought(), ElementsAre("deep/train.py"));
  EXPECT_THAT(contents_.data_directories.names, ElementsAre("deep/data"));
  const Take none = [](const Found& /*found*/) { return Status(); };
  for (const char* inside : {"deep/data", "deep/data/nodes", "deep/data/nodes/local-1/1-1-0"}) {
    EXPECT_EQ(walk(top_ / inside, none).error().code, ErrorCode::kInvalid) << inside;
  }
  EXPECT_TRUE(walk(top_ / "deep/data/nodes/local-1/1-1-0/home", none).ok());
}

TEST_F(Tree, WhatVanishesMeanwhileIsLeftOutAndTold) {
  write("a");
  write("folder/b");
  write("z");
  bool first = true;
  const Take take = [&](const Found& found) -> Status {
    if (std::exchange(first, false)) {
      fs::remove(top_ / "z");
    }
    if (S_ISDIR(found.info.st_mode)) {
      fs::remove_all(top_ / "folder");
    }
    return found.name == "a" ? Status(error(ErrorCode::kNotFound, "gone")) : Status();
  };
  const auto contents = walk(top_, take);
  ASSERT_TRUE(contents.ok()) << contents.error().message;
  EXPECT_EQ(contents->files, 0U);
  EXPECT_THAT(contents->vanished.names, ElementsAre("a", "folder/", "z"));
}

TEST_F(Tree, WhatStaysBehindIsCountedButNotForEver) {
  write(".gitignore", "data/\n*.bin\n");
  write("data/a", std::string(5000, 'x'));
  write("data/b/c", std::string(1000, 'x'));
  write("x.bin", std::string(7000, 'x'));
  for (int i = 0; i < 9; ++i) {
    write(fmt::format("small{}.bin", i));
  }
  brought();
  EXPECT_EQ(contents_.left_behind.files, 12U);
  EXPECT_EQ(contents_.left_behind.bytes, 13'009U);
  EXPECT_EQ(contents_.left_behind.parts, 11U);
  EXPECT_TRUE(contents_.left_behind.counted);
  ASSERT_EQ(contents_.left_behind.largest.size(), LeftBehind::kShown);
  EXPECT_EQ(contents_.left_behind.largest[0].name, "x.bin");
  EXPECT_EQ(contents_.left_behind.largest[1].name, "data/");
  for (int i = 0; i < 21'000; ++i) {
    fs::create_symlink("x", top_ / "data" / std::to_string(i));
  }
  brought();
  EXPECT_FALSE(contents_.left_behind.counted);
  EXPECT_LT(contents_.left_behind.files, 21'000U);
}

}  // namespace
}  // namespace quad::cli
