#include "cli/entrypoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace quad::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;

/// A folder with a task, a script and a folder, in which the test runs.
class Entrypoint : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "quad-entrypoint-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    before_ = fs::current_path();
    fs::current_path(folder_);
    fs::create_directory("adir");
    write("task.yaml", "run: echo\n");
    write("plain", "run: echo\n");
    write("train.py", "print()\n");
    write("train.sh", "#!/bin/sh\n");
    ::chmod("train.sh", 0755);
    write("adir/deep.sh", "#!/bin/sh\n");
  }
  void TearDown() override {
    fs::current_path(before_);
    fs::remove_all(folder_);
  }
  static void write(const char* path, const char* text) { std::ofstream(path) << text; }

  static Result<Entry> read(std::vector<std::string> words, WorkFolder work = {}) {
    return read_entry({std::move(words), std::nullopt}, work);
  }
  static std::string refused(std::vector<std::string> words, WorkFolder work = {}) {
    const auto entry = read(std::move(words), std::move(work));
    if (entry.ok()) {
      return "taken as " + (entry->file.empty() ? "the command " + entry->text : entry->file);
    }
    EXPECT_EQ(entry.error().code, ErrorCode::kInvalid);
    return entry.error().message;
  }
  static std::string command(std::vector<std::string> words, WorkFolder work = {}) {
    const auto entry = read(std::move(words), std::move(work));
    return !entry.ok()            ? "refused: " + entry.error().message
           : !entry->file.empty() ? "a task file"
                                  : entry->text;
  }

  WorkFolder here_{WorkFolder::Kind::kLocal, "."};
  WorkFolder unknown_{WorkFolder::Kind::kUnknown, {}};

 private:
  fs::path folder_, before_;
};

TEST_F(Entrypoint, OneFileIsATaskFile) {
  for (const char* name : {"task.yaml", "./task.yaml", "plain", "./plain"}) {
    const auto entry = read({name});
    ASSERT_TRUE(entry.ok()) << entry.error().message;
    EXPECT_EQ(entry->file, name);
    EXPECT_EQ(entry->text, "run: echo\n");
  }
}

TEST_F(Entrypoint, AWordTooManyBesideATaskFileIsTold) {
  EXPECT_THAT(refused({"B=2", "task.yaml"}), HasSubstr("did you mean --env B=2?"));
  EXPECT_THAT(refused({"task.yaml", "lr=3"}), HasSubstr("did you mean --env lr=3?"));
  EXPECT_THAT(refused({"A=1", "B=2", "task.yaml"}), HasSubstr("'A=1' is a word too many"));
  EXPECT_THAT(refused({"task.yaml", "other.yaml"}), HasSubstr("'other.yaml' is a word too many"));
  EXPECT_THAT(refused({"plain", "x"}), HasSubstr("plain is a task file"));
  EXPECT_THAT(refused({"tsk.yaml", "lr=3"}), HasSubstr("'lr=3' is a word too many"));
  EXPECT_THAT(refused({"lr=3"}), HasSubstr("did you mean --env lr=3"));
}

TEST_F(Entrypoint, AMistypedFileIsToldWithTheNearestName) {
  EXPECT_THAT(refused({"trian.py"}),
              HasSubstr("There is no file trian.py; did you mean train.py?"));
  EXPECT_THAT(refused({"tsk.yaml"}), HasSubstr("did you mean task.yaml?"));
  EXPECT_THAT(refused({"./trian.sh"}), HasSubstr("did you mean ./train.sh?"));
  EXPECT_THAT(refused({"./trian.sh", "--lr"}, here_), HasSubstr("./train.sh?"));
  EXPECT_THAT(refused({"my tsk.yaml"}), HasSubstr("taken as the command my tsk.yaml"));
  write("my task.yaml", "run: echo\n");
  EXPECT_THAT(refused({"my tsk.yaml"}), HasSubstr("did you mean my task.yaml?"));
}

TEST_F(Entrypoint, AFolderIsNoCommand) {
  EXPECT_THAT(refused({"adir"}), HasSubstr("adir is a folder"));
  EXPECT_THAT(refused({"adir", "x"}), HasSubstr("adir is a folder"));
  EXPECT_THAT(refused({"."}), HasSubstr("(./task.yaml)"));
}

TEST_F(Entrypoint, AScriptThatWouldNotBeFoundIsTold) {
  EXPECT_THAT(refused({"./train.sh"}), HasSubstr("is not brought to the job"));
  EXPECT_THAT(refused({"./train.sh", "--lr"}), HasSubstr("--workdir"));
  EXPECT_THAT(refused({"train.sh"}, here_), HasSubstr("only as ./train.sh"));
  EXPECT_THAT(refused({"train.py"}), HasSubstr("--workdir . -- python train.py"));
  EXPECT_THAT(refused({"./train.py"}, here_), HasSubstr("chmod +x"));
  EXPECT_THAT(refused({"./adir/none.sh"}, here_), HasSubstr("which becomes the job's folder"));
  EXPECT_THAT(refused({"./train.sh"}, {WorkFolder::Kind::kLocal, "adir"}), HasSubstr("in adir"));
}

TEST_F(Entrypoint, CommandsStayCommands) {
  EXPECT_EQ(command({"python", "train.py", "3"}), "python train.py 3");
  EXPECT_EQ(command({"python train.py"}), "python train.py");
  EXPECT_EQ(command({"nvidia-smi"}), "nvidia-smi");
  EXPECT_EQ(command({"python x.py --config c.yaml"}), "python x.py --config c.yaml");
  EXPECT_EQ(command({"python", "train.py", "task.yaml"}), "python train.py task.yaml");
  EXPECT_EQ(command({"LR=3", "python", "train.py"}), "LR=3 python train.py");
  EXPECT_EQ(command({"./train.sh"}, here_), "./train.sh");
  EXPECT_EQ(command({"./deep.sh; true"}), "./deep.sh; true");
  EXPECT_EQ(command({"./anything"}, unknown_), "./anything");
  EXPECT_EQ(command({"/opt/tool", "x"}), "/opt/tool x");
  EXPECT_EQ(command({"true"}), "true");
}

TEST_F(Entrypoint, WhatStandsBehindTheDashesIsACommandWordByWord) {
  const auto behind = [](std::vector<std::string> words, std::vector<std::string> command) {
    const auto entry = read_entry({std::move(words), std::move(command)}, {});
    return entry.ok() ? entry->file + "|" + entry->text : entry.error().message;
  };
  EXPECT_EQ(behind({}, {"./x"}), "|./x");
  EXPECT_EQ(behind({}, {"adir"}), "|adir");
  EXPECT_EQ(behind({}, {"lr=3"}), "|lr=3");
  EXPECT_EQ(behind({}, {"plain"}), "|plain");
  EXPECT_EQ(behind({}, {"task.yaml"}), "task.yaml|run: echo\n");
  EXPECT_EQ(behind({}, {"x", "[]", "", "a b", "$HOME", "--"}), "|x '[]' '' 'a b' '$HOME' --");
  EXPECT_EQ(behind({"python"}, {"x.py", "--lr", "1"}), "|python x.py --lr 1");
  EXPECT_THAT(behind({"task.yaml"}, {"x"}), HasSubstr("'x' is a word too many"));
  EXPECT_THAT(behind({}, {}), HasSubstr("Name a task file"));
}

TEST_F(Entrypoint, AFileThatACommandNamesAndThatIsNotBroughtIsWarnedOf) {
  EXPECT_THAT(read({"python", "train.py"})->warning, HasSubstr("train.py is here"));
  EXPECT_THAT(read({"python train.py --lr 3"})->warning, HasSubstr("train.py is here"));
  EXPECT_THAT(read({"python", "train.py"}, here_)->warning, IsEmpty());
  EXPECT_THAT(read({"python", "train.py"}, unknown_)->warning, IsEmpty());
  EXPECT_THAT(read({"cd /x && python train.py"})->warning, IsEmpty());
}

}  // namespace
}  // namespace quad::cli
