#include "checkpoint/bring_forward.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include "checkpoint/take_over.h"
#include "checkpoint/test_files.h"

namespace quad::checkpoint::test {
namespace {

struct stat status_of(const fs::path& path) {
  struct stat info {};
  EXPECT_EQ(::lstat(path.c_str(), &info), 0) << path;
  return info;
}

Result<Brought> bring(const Folder& job, int to, BringOptions options = {}) {
  options.now = kLater;
  const Selection selection = pick(job.path(), to - 1);
  EXPECT_TRUE(selection.chosen);
  return bring_forward(PosixFileView(), *selection.chosen, job / ("e" + std::to_string(to)),
                       Epoch(to), options);
}

// Everything below a folder with its content, for "nothing half left".
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  if (fs::exists(folder)) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      names.push_back(entry.path().lexically_relative(folder).string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(BringForward, BringsAFolderThatCarriesItsStep) {
  const Folder job;
  put_trainer(job / "e1/out/checkpoint-5", 5);
  const auto brought = bring(job, 2);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_EQ(brought->path, job / "e2/out/checkpoint-5");
  EXPECT_TRUE(brought->how == How::kCopy || brought->how == How::kReflink);
  EXPECT_EQ(check(brought->path).state, State::kComplete);
}

TEST(BringForward, WhatTheNextAttemptSavesUnderTheSameNameHarmsNothing) {
  for (const char* name : {"step-5.pt", "step-5/model.pt", "last.ckpt"}) {
    const Folder job;
    put(job / "e1" / name, torch_file());
    put(job / "e1/step-5/optimizer.pt", torch_file());
    const std::string before = get(job / "e1" / name);
    const auto brought = bring(job, 2);
    ASSERT_TRUE(brought.ok()) << brought.error().message;
    put(job / "e2" / name, "half");  // it dies while it saves again
    EXPECT_EQ(get(job / "e1" / name), before);
  }
}

TEST(BringForward, CopiesAFileThatTheScriptMayOverwrite) {
  const Folder job;
  put(job / "e1/last.ckpt", torch_file({{"global_step", 4}}));
  const auto brought = bring(job, 2);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_TRUE(brought->how == How::kCopy || brought->how == How::kReflink);
  EXPECT_EQ(status_of(job / "e2/last.ckpt").st_mtim.tv_sec, kThen);
  put(job / "e2/last.ckpt", "half");  // the new attempt dies while it saves
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "e1/last.ckpt");
}

TEST(BringForward, BringsTheFilesThatBelongTogether) {
  const Folder job;
  put(job / "e1/model.pt", torch_file());
  put(job / "e1/optimizer.pt", torch_file());
  put(job / "e1/config.json", "{}");
  put(job / "e1/notes.txt", "not a part");
  ASSERT_TRUE(bring(job, 2).ok());
  EXPECT_EQ(names_in(job / "e2"),
            (std::vector<std::string>{".quad", ".quad/resumed.json", "config.json", "model.pt",
                                      "optimizer.pt"}));
}

TEST(BringForward, GivesTheSameResultWhenItIsCalledAgain) {
  for (const char* name : {"e1/step-5.pt", "e1/last.ckpt"}) {
    const Folder job;
    put(job / name, torch_file());
    const auto first = bring(job, 2);
    const auto again = bring(job, 2);
    ASSERT_TRUE(first.ok() && again.ok());
    EXPECT_EQ(first->path, again->path);
    EXPECT_EQ(first->how, again->how);
    EXPECT_TRUE(again->was_there);
    // A selection that sees the new directory already finds what was brought.
    const Selection seen = pick(job.path(), 2);
    const auto third = bring_forward(PosixFileView(), *seen.chosen, job / "e2", Epoch(2), {});
    ASSERT_TRUE(third.ok());
    EXPECT_EQ(third->path, first->path);
    EXPECT_EQ(third->how, first->how);
  }
}

TEST(BringForward, CleansUpAfterACrashInItsMidst) {
  const Folder job;
  put_dcp(job / "e1/step-5");
  put(job / "e2/.bringing-2/0/__0_0.distcp", "half");
  put(job / "e2/step-5/__0_0.distcp", "half");
  const auto brought = bring(job, 2);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_FALSE(brought->was_there);
  EXPECT_EQ(check(job / "e2/step-5").state, State::kComplete);
  EXPECT_FALSE(fs::exists(job / "e2/.bringing-2"));
}

TEST(BringForward, TellsTheTrackersOfDeepSpeedAndMegatron) {
  const Folder job;
  put_deepspeed(job / "e1/global_step12");
  ASSERT_TRUE(bring(job, 2).ok());
  EXPECT_EQ(get(job / "e2/latest"), "global_step12");
  const Folder other;
  put_megatron(other / "e1/iter_0000007", "7");
  ASSERT_TRUE(bring(other, 2).ok());
  EXPECT_EQ(get(other / "e2/latest_checkpointed_iteration.txt"), "7");
  EXPECT_EQ(check(other / "e2/iter_0000007").state, State::kComplete);
}

TEST(BringForward, CopiesACheckpointThatIsTheRootItself) {
  const Folder job;
  put_dcp(job / "e1");
  const auto brought = bring(job, 2);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_EQ(brought->path, job / "e2");
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "e2");
  EXPECT_NE(status_of(job / "e1/.metadata").st_ino, status_of(job / "e2/.metadata").st_ino);
}

TEST(BringForward, UsesWhereItIsWhatIsTooLargeToCopy) {
  const Folder job;
  put(job / "e1/last.ckpt", torch_file());
  BringOptions options;
  options.max_copy_bytes = 10;
  const auto brought = bring(job, 2, options);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  if (brought->how == How::kReflink) {
    GTEST_SKIP() << "this file system has reflinks";
  }
  EXPECT_EQ(brought->how, How::kInPlace);
  EXPECT_EQ(brought->path, job / "e1/last.ckpt");
  EXPECT_FALSE(fs::exists(fs::symlink_status(job / "e2/last.ckpt")));
}

TEST(BringForward, CopiesAcrossFileSystems) {
  const fs::path other = "/dev/shm";
  std::error_code failure;
  const fs::path away = other / ("quad-ckpt-" + std::to_string(::getpid()));
  if (!fs::create_directory(away, failure) ||
      status_of(away).st_dev == status_of(fs::temp_directory_path()).st_dev) {
    GTEST_SKIP() << "no second file system here";
  }
  const Folder job;
  put_dcp(away / "e1/step-5");
  fs::create_directory_symlink(away / "e1", job / "e1");
  const auto brought = bring(job, 2);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_EQ(brought->how, How::kCopy);
  EXPECT_EQ(check(job / "e2/step-5").state, State::kComplete);
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "e2/step-5");
  fs::remove_all(away);
}

TEST(BringForward, TakesALinkToAFolderForACheckpointLikeAnyOther) {
  const Folder job;
  put_dcp(job / "elsewhere/step-5");
  fs::create_directories(job / "e1");
  fs::create_directory_symlink(job / "elsewhere/step-5", job / "e1/step-5");
  const auto brought = bring(job, 2);
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_FALSE(fs::is_symlink(job / "e2/step-5"));
  EXPECT_EQ(check(job / "e2/step-5").state, State::kComplete);
}

TEST(BringForward, LeavesThePathOfTheTaskAlone) {
  const Folder job;
  put(job / "own/step-5.pt", torch_file());
  SelectOptions options;
  options.now = kLater;
  options.current = Epoch(1);
  const PosixFileView view;
  const Selection selection = newest_valid(view, {Root{job / "own", Epoch(1), true}}, options);
  const auto brought = bring_forward(view, *selection.chosen, job / "e2", Epoch(2), {});
  ASSERT_TRUE(brought.ok()) << brought.error().message;
  EXPECT_EQ(brought->path, job / "own/step-5.pt");
  EXPECT_EQ(brought->how, How::kInPlace);
}

TEST(BringForward, LeavesNothingHalfDoneWhenAWriteFails) {
  const Folder job;
  put(job / "e1/optimizer.pt", torch_file());
  put(job / "e1/model.pt", torch_file({}, 400000));
  // A limit on file size stands for a disk that fills up in mid-copy.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto brought = bring(job, 2);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_DFL);
  if (brought.ok() && brought->how == How::kReflink) {
    GTEST_SKIP() << "this file system has reflinks";
  }
  ASSERT_FALSE(brought.ok());
  EXPECT_TRUE(names_in(job / "e2").empty());
  ASSERT_TRUE(bring(job, 2).ok());
}

TEST(BringForward, SaysBeforehandThatTheDiskHasNoRoom) {
  const Folder job;
  put(job / "e1/model.pt", torch_file());
  const Selection selection = pick(job.path(), 1);
  std::error_code failure;
  fs::resize_file(job / "e1/model.pt", 8ULL << 40U,
                  failure);  // sparse: more than any disk here has
  if (failure) {
    GTEST_SKIP() << "no file of that size here";
  }
  BringOptions options;
  options.max_copy_bytes = 1ULL << 60U;
  const auto brought =
      bring_forward(PosixFileView(), *selection.chosen, job / "e2", Epoch(2), options);
  if (brought.ok() && brought->how == How::kReflink) {
    GTEST_SKIP() << "this file system has reflinks";
  }
  ASSERT_FALSE(brought.ok());
  EXPECT_EQ(brought.error().code, ErrorCode::kExhausted) << brought.error().message;
  EXPECT_TRUE(names_in(job / "e2").empty());
}

TEST(BringForward, RecordsWhereTheAttemptTookOver) {
  const Folder job;
  put(job / "e1/step-5.pt", torch_file());
  ASSERT_TRUE(bring(job, 2).ok());
  const auto record = read_take_over(PosixFileView(), job / "e2");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->epoch, Epoch(2));
  EXPECT_EQ(record->step, 5);
  EXPECT_TRUE(record->how == "copy" || record->how == "reflink");
  ASSERT_TRUE(record->state);
  EXPECT_EQ(record->state->newest_nanos, kThen * 1'000'000'000);
  EXPECT_EQ(record->state->size, torch_file().size());
  put(job / "e1/step-9.pt", torch_file(), 4'000'000'000);  // an old rank lives on
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "e2/step-5.pt");
}

TEST(BringForward, BeginningAfreshShutsOutWhatOldRanksWriteLater) {
  const Folder job;
  fs::create_directories(job / "e1");
  ASSERT_TRUE(begin_afresh(job / "e2", Epoch(2)).ok());
  put(job / "e1/step-9.pt", torch_file(), 4'000'000'000);
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "");
}

}  // namespace
}  // namespace quad::checkpoint::test
