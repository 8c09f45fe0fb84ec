#include "checkpoint/watch.h"

#include <gtest/gtest.h>

#include "checkpoint/keep.h"
#include "checkpoint/test_files.h"

namespace quad::checkpoint::test {
namespace {

// A view that counts reads, to show that unchanged files are not read again.
class CountingView final : public FileView {
 public:
  Result<FileInfo> stat(const fs::path& path) const override { return real_.stat(path); }
  Result<Listing> list(const fs::path& folder, std::size_t max) const override {
    return real_.list(folder, max);
  }
  Result<std::string> read(const fs::path& path, std::uint64_t offset,
                           std::size_t length) const override {
    ++reads;
    return real_.read(path, offset, length);
  }
  mutable int reads = 0;

 private:
  PosixFileView real_;
};

class Watching {
 public:
  Watching() : watcher_(view, Root{job / "e1", Epoch(1), false}, WatchOptions{}) {}

  WatchReport poll(std::int64_t second) {
    auto report = watcher_.poll(Now{WallTime{(kThen + second) * 1000}, MonoTime{second * 1000}});
    EXPECT_TRUE(report.ok());
    return report.ok() ? *report : WatchReport();
  }
  void baseline() { EXPECT_TRUE(watcher_.baseline(Now{WallTime{kThen * 1000}, MonoTime{0}}).ok()); }

  Folder job;
  CountingView view;

 private:
  CheckpointWatcher watcher_;
};

TEST(Watch, TellsOfEachCheckpointOnce) {
  Watching watch;
  EXPECT_TRUE(watch.poll(0).complete.empty());
  put(watch.job / "e1/step-1.pt", torch_file());
  const WatchReport first = watch.poll(1);
  ASSERT_EQ(first.complete.size(), 1U);
  EXPECT_EQ(first.complete[0].verdict.step, 1);
  EXPECT_EQ(first.complete[0].verdict.size, torch_file().size());
  EXPECT_TRUE(watch.poll(2).complete.empty());
  put(watch.job / "e1/step-2.pt", torch_file());
  ASSERT_EQ(watch.poll(3).complete.size(), 1U);
}

TEST(Watch, DoesNotTellOfWhatWasBroughtForward) {
  Watching watch;
  put(watch.job / "e1/step-1.pt", torch_file());
  watch.baseline();
  EXPECT_TRUE(watch.poll(1).complete.empty());
}

TEST(Watch, ReadsNothingOfWhatHasNotChanged) {
  Watching watch;
  put_trainer(watch.job / "e1/checkpoint-5", 5);
  put(watch.job / "e1/step-9.pt", torch_file().substr(0, 100));
  put(watch.job / "e1/last.ckpt", torch_file());
  (void)watch.poll(1);
  watch.view.reads = 0;
  (void)watch.poll(2);
  EXPECT_EQ(watch.view.reads, 0);
}

TEST(Watch, WaitsUntilAFolderIsComplete) {
  Watching watch;
  put(watch.job / "e1/step-5/__0_0.distcp", torch_file());
  EXPECT_TRUE(watch.poll(1).complete.empty());
  put_dcp(watch.job / "e1/step-5", kThen + 4);
  const WatchReport report = watch.poll(8);
  ASSERT_EQ(report.complete.size(), 1U);
  EXPECT_EQ(report.complete[0].took, Millis(7000));
}

TEST(Watch, SeesWhatATrackerOutsideTheFolderCompletes) {
  Watching watch;
  put_megatron(watch.job / "e1/iter_0000007", "3");
  EXPECT_TRUE(watch.poll(1).complete.empty());
  put(watch.job / "e1/latest_checkpointed_iteration.txt", "7");
  EXPECT_EQ(watch.poll(6).complete.size(), 1U);
}

TEST(Watch, LetsAnUnprovableFolderSettleByItsOwnClock) {
  Watching watch;
  watch.baseline();
  put(watch.job / "e1/step-5/a.bin", torch_file(), kThen + 9000);  // a clock far ahead
  EXPECT_TRUE(watch.poll(1).complete.empty());
  EXPECT_TRUE(watch.poll(60).complete.empty());
  EXPECT_EQ(watch.poll(61).complete.size(), 1U);
}

TEST(Watch, NoticesAnOnlyCheckpointThatIsOverwrittenInPlace) {
  Watching watch;
  put(watch.job / "e1/model.pt", torch_file({{"step", 1}}));
  ASSERT_EQ(watch.poll(1).complete.size(), 1U);
  put(watch.job / "e1/model.pt", torch_file({{"step", 2}}).substr(0, 200), kThen + 5);
  const WatchReport half = watch.poll(6);
  EXPECT_TRUE(half.complete.empty());
  ASSERT_EQ(half.overwritten.size(), 1U);
  EXPECT_TRUE(half.overwritten[0].only);
  EXPECT_TRUE(half.overwritten[0].truncated);
  put(watch.job / "e1/model.pt", torch_file({{"step", 2}}), kThen + 7);
  const WatchReport whole = watch.poll(8);
  ASSERT_EQ(whole.complete.size(), 1U);
  EXPECT_EQ(whole.complete[0].verdict.step, 2);
  EXPECT_TRUE(whole.overwritten.empty());
}

TEST(Watch, DoesNotBlameAnAtomicReplacement) {
  Watching watch;
  put(watch.job / "e1/model.pt", torch_file({{"step", 1}}));
  (void)watch.poll(1);
  put(watch.job / "e1/model.pt.tmp", torch_file({{"step", 2}}), kThen + 5);
  fs::rename(watch.job / "e1/model.pt.tmp", watch.job / "e1/model.pt");
  const WatchReport report = watch.poll(6);
  EXPECT_EQ(report.complete.size(), 1U);
  EXPECT_TRUE(report.overwritten.empty());
}

TEST(Watch, ForgetsWhatIsDeleted) {
  Watching watch;
  put(watch.job / "e1/step-1.pt", torch_file());
  (void)watch.poll(1);
  fs::remove_all(watch.job / "e1");
  const WatchReport report = watch.poll(2);
  EXPECT_TRUE(report.complete.empty());
  EXPECT_EQ(report.gone, std::vector<fs::path>{watch.job / "e1/step-1.pt"});
  put(watch.job / "e1/step-1.pt", torch_file());
  EXPECT_EQ(watch.poll(3).complete.size(), 1U);
}

TEST(Watch, TellsOnceThatACheckpointIsGoneAndOnlyOfThoseItToldOf) {
  Watching watch;
  put(watch.job / "e1/step-1.pt", torch_file());
  put(watch.job / "e1/step-2.pt", torch_file().substr(0, 100));
  put(watch.job / "e1/step-3.pt", torch_file());
  EXPECT_TRUE(watch.poll(1).gone.empty());
  fs::remove(watch.job / "e1/step-1.pt");
  fs::remove(watch.job / "e1/step-2.pt");
  EXPECT_EQ(watch.poll(2).gone, std::vector<fs::path>{watch.job / "e1/step-1.pt"});
  EXPECT_TRUE(watch.poll(3).gone.empty());
}

TEST(Keep, HoldsTheLastValidCopyThroughAnOverwrite) {
  const Folder job;
  const PosixFileView view;
  put(job / "e1/sub/model.pt", torch_file({{"step", 1}}));
  put(job / "e1/sub/optimizer.pt", torch_file());
  Selection selection = pick(job.path(), 1);
  ASSERT_TRUE(selection.chosen);
  EXPECT_TRUE(needs_a_copy(selection.chosen->found));
  KeepOptions options;
  options.now = kLater;
  const auto kept = keep_copy_of_last_valid(view, selection.chosen->found, job / "e1", options);
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  EXPECT_EQ(kept->path, job / "e1/.quad/kept/sub/model.pt");
  put(job / "e1/sub/model.pt", torch_file().substr(0, 150), kThen + 9);
  selection = pick(job.path(), 1);
  ASSERT_EQ(chosen(selection, job.path()), "e1/.quad/kept/sub/model.pt");
  EXPECT_EQ(selection.chosen->found.relative, "sub/model.pt");
  EXPECT_EQ(selection.chosen->found.companions, std::vector<std::string>{"optimizer.pt"});
  // What is half written does not replace the copy.
  Found half = selection.chosen->found;
  half.path = job / "e1/sub/model.pt";
  EXPECT_EQ(keep_copy_of_last_valid(view, half, job / "e1", options).error().code,
            ErrorCode::kInvalid);
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/.quad/kept/sub/model.pt");
}

TEST(Keep, RemovesACheckpointWithItsOwnFilesOnly) {
  const Folder job;
  put(job / "e1/model_1.pt", torch_file());
  put(job / "e1/optim_1.pt", torch_file());
  put(job / "e1/model_2.pt", torch_file());
  put_dcp(job / "e1/step-0");
  for (const Candidate& one : pick(job.path(), 1).all) {
    if (one.verdict.step != 2) {
      EXPECT_TRUE(remove_checkpoint(one.found).ok());
    }
  }
  ASSERT_EQ(std::distance(fs::directory_iterator(job / "e1"), fs::directory_iterator()), 1);
  EXPECT_TRUE(fs::exists(job / "e1/model_2.pt"));
}

Candidate candidate(int epoch, std::int64_t step, State state = State::kComplete) {
  Candidate result;
  result.found.relative = "step-" + std::to_string(step);
  result.found.path = fs::path("/job/e" + std::to_string(epoch)) / result.found.relative;
  result.found.name.step = step;
  result.root = Root{"/job/e" + std::to_string(epoch), Epoch(epoch), false};
  result.verdict.step = step;
  result.verdict.state = state;
  return result;
}

std::vector<std::string> paths(const std::vector<Candidate>& candidates) {
  std::vector<std::string> result;
  for (const Candidate& one : candidates) {
    result.push_back(one.found.path.string());
  }
  return result;
}

TEST(Retention, KeepsTheNewestStepsAndNeverFewerThanTwo) {
  const std::vector<Candidate> all = {candidate(1, 100), candidate(1, 300), candidate(1, 200),
                                      candidate(1, 400)};
  EXPECT_EQ(paths(to_delete(all, 3, Epoch(1))), std::vector<std::string>{"/job/e1/step-100"});
  EXPECT_EQ(to_delete(all, 0, Epoch(1)).size(), 2U);
  EXPECT_TRUE(to_delete({candidate(1, 1)}, 2, Epoch(1)).empty());
}

TEST(Retention, CountsAStepThatWasBroughtForwardOnce) {
  const std::vector<Candidate> all = {candidate(1, 100), candidate(1, 200), candidate(2, 200),
                                      candidate(2, 300)};
  EXPECT_EQ(paths(to_delete(all, 2, Epoch(2))), std::vector<std::string>{"/job/e1/step-100"});
}

// As `candidate`, written at `second`, in `folder` of the attempt.
Candidate written(int epoch, std::int64_t step, std::int64_t second,
                  const std::string& folder = "") {
  Candidate result = candidate(epoch, step);
  result.found.relative = folder + result.found.relative;
  result.found.path = result.root.path / result.found.relative;
  result.verdict.newest_nanos = second * 1'000'000'000;
  return result;
}

TEST(Retention, KeepsTheNewestOfACounterThatBeganAgain) {
  std::vector<Candidate> all;
  for (int i = 0; i < 15; ++i) {
    all.push_back(written(1, i, 100 + i));
  }
  all.push_back(written(2, 13, 113));  // brought forward
  for (int i = 0; i < 4; ++i) {
    all.push_back(written(2, i, 200 + i));
  }
  std::vector<std::string> gone = paths(to_delete(all, 2, Epoch(2)));
  std::sort(gone.begin(), gone.end());
  std::vector<std::string> expected = {"/job/e2/step-0", "/job/e2/step-1"};
  for (int i = 0; i < 13; ++i) {
    expected.push_back("/job/e1/step-" + std::to_string(i));
  }
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(gone, expected);
}

TEST(Retention, KeepsTheNewestOfEachStage) {
  std::vector<Candidate> all;
  for (int i = 1; i <= 5; ++i) {
    all.push_back(written(1, 200 * i, i, "stage1/"));
  }
  for (int i = 1; i <= 3; ++i) {
    all.push_back(written(1, 40 * i, 10 + i, "stage2/"));
  }
  std::vector<std::string> gone = paths(to_delete(all, 2, Epoch(1)));
  std::sort(gone.begin(), gone.end());
  EXPECT_EQ(gone, (std::vector<std::string>{"/job/e1/stage1/step-200", "/job/e1/stage1/step-400",
                                            "/job/e1/stage1/step-600", "/job/e1/stage2/step-40"}));
}

TEST(Retention, KeepsTheNewestOfAStageThatHasTheNameOfTheOneBefore) {
  // Both stages of one attempt in one folder: only the time tells them apart.
  std::vector<Candidate> all = {written(1, 800, 1), written(1, 900, 2), written(1, 1000, 3),
                                written(1, 40, 11), written(1, 80, 12), written(1, 120, 13)};
  EXPECT_EQ(paths(to_delete(all, 2, Epoch(1))),
            (std::vector<std::string>{"/job/e1/step-800", "/job/e1/step-40"}));
}

TEST(Retention, TakesNamesThatDifferInOtherNumbersForOneSeries) {
  std::vector<Candidate> all;
  for (int i = 1; i <= 4; ++i) {
    Candidate one = written(1, i * 100, i);
    one.found.relative = "epoch=" + std::to_string(i) + "-step=" + std::to_string(i * 100) +
                         "-loss=0." + std::to_string(90 - i) + ".ckpt";
    one.found.path = one.root.path / one.found.relative;
    all.push_back(one);
  }
  EXPECT_EQ(to_delete(all, 2, Epoch(1)).size(), 2U);
}

TEST(Retention, DoesNotCountWhatIsIncompleteAndSparesWhatMayBecomeComplete) {
  const std::vector<Candidate> all = {candidate(1, 50, State::kIncomplete),
                                      candidate(1, 100),
                                      candidate(2, 200),
                                      candidate(2, 60, State::kIncomplete),
                                      candidate(2, 70, State::kUnknown),
                                      candidate(2, 300, State::kIncomplete)};
  EXPECT_EQ(paths(to_delete(all, 2, Epoch(2))), std::vector<std::string>{"/job/e1/step-50"});
}

TEST(Retention, NeverTouchesThePathOfTheTaskNorFilesWithoutStep) {
  std::vector<Candidate> all = {candidate(1, 300), candidate(1, 200), candidate(1, 100),
                                candidate(1, 90)};
  all[2].root.users_own = true;
  all[3].found.name.step.reset();
  EXPECT_TRUE(to_delete(all, 2, Epoch(1)).empty());
}

}  // namespace
}  // namespace quad::checkpoint::test
