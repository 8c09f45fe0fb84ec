#include "checkpoint/select.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "checkpoint/take_over.h"
#include "checkpoint/test_files.h"

namespace quad::checkpoint::test {
namespace {

struct Layout {
  const char* title;
  std::string older;
  std::string newer;
  std::function<void(const fs::path&)> write;
};

std::vector<Layout> layouts() {
  const auto file = [](const fs::path& path) { put(path, torch_file()); };
  return {
      {"torch", "step-1.pt", "step-2.pt", file},
      {"lightning", "epoch=0-step=1.ckpt", "epoch=1-step=2.ckpt", file},
      {"safetensors", "model_1.safetensors", "model_2.safetensors",
       [](const fs::path& path) { put(path, safetensors()); }},
      {"dcp", "step-1", "step-2", [](const fs::path& path) { put_dcp(path); }},
      {"huggingface", "checkpoint-1", "checkpoint-2",
       [](const fs::path& path) { put_trainer(path, path.filename() == "checkpoint-1" ? 1 : 2); }},
      {"deepspeed", "global_step1", "global_step2",
       [](const fs::path& path) { put_deepspeed(path); }},
      {"megatron", "iter_0000001", "iter_0000002",
       [](const fs::path& path) {
         put_megatron(path, path.filename() == "iter_0000001" ? "1" : "2");
       }},
      {"lightning folder", "epoch=0-step=1.ckpt", "epoch=1-step=2.ckpt",
       [](const fs::path& path) {
         put_dcp(path);
         put(path / "meta.pt", torch_file());
       }},
      {"own folder", "step-1", "step-2",
       [](const fs::path& path) {
         put(path / "model.pt", torch_file());
         put(path / "optimizer.pt", torch_file());
       }},
  };
}

std::vector<fs::path> files_of(const fs::path& path) {
  std::vector<fs::path> files;
  if (fs::is_regular_file(path)) {
    return {path};
  }
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) {
      files.push_back(entry.path());
    }
  }
  return files;
}

TEST(Select, TakesTheNewestWhereAllAreWhole) {
  for (const Layout& layout : layouts()) {
    const Folder job;
    layout.write(job / "e1" / layout.older);
    layout.write(job / "e1" / layout.newer);
    const Selection selection = pick(job.path(), 1);
    EXPECT_EQ(chosen(selection, job.path()), "e1/" + layout.newer) << layout.title;
    EXPECT_TRUE(selection.passed_over.empty()) << layout.title;
    EXPECT_EQ(selection.all.size(), 2U) << layout.title;
  }
}

TEST(Select, PassesOverACheckpointThatIsCutOffAnywhere) {
  for (const Layout& layout : layouts()) {
    const Folder job;
    layout.write(job / "e1" / layout.older);
    layout.write(job / "e1" / layout.newer);
    for (const fs::path& file : files_of(job / "e1" / layout.newer)) {
      if (file.filename() == "metadata.json") {
        continue;  // says nothing that is needed
      }
      const std::string bytes = get(file);
      const auto time = fs::last_write_time(file);
      std::set<std::size_t> lengths = {0, 1, 2, 3, 4, 8, 21, 22, bytes.size() - 1};
      for (std::size_t k = 1; k < 24; ++k) {
        lengths.insert(bytes.size() * k / 24);
      }
      for (const std::size_t length : lengths) {
        if (length >= bytes.size()) {
          continue;
        }
        put(file, std::string_view(bytes).substr(0, length));
        fs::last_write_time(file, time);
        const Selection selection = pick(job.path(), 1);
        ASSERT_EQ(chosen(selection, job.path()), "e1/" + layout.older)
            << layout.title << " " << file << " cut to " << length;
        ASSERT_EQ(selection.passed_over.size(), 1U);
        ASSERT_FALSE(selection.passed_over[0].verdict.reason.empty());
      }
      put(file, bytes);
      fs::last_write_time(file, time);
    }
    EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/" + layout.newer) << layout.title;
  }
}

TEST(Select, PassesOverACheckpointThatLacksAnyFile) {
  for (const Layout& layout : layouts()) {
    const Folder job;
    layout.write(job / "e1" / layout.older);
    layout.write(job / "e1" / layout.newer);
    for (const fs::path& file : files_of(job / "e1" / layout.newer)) {
      const std::string name = file.filename().string();
      // What the Trainer's folder has for people or for one more rank alone is not missed by its
      // rule.
      if (name == "metadata.json" || name == "training_args.bin" || name == "rng_state_1.pth" ||
          name == "model.safetensors.index.json") {
        continue;
      }
      const fs::path aside = job / "aside";
      fs::rename(file, aside);
      EXPECT_NE(chosen(pick(job.path(), 1), job.path()), "e1/" + layout.newer)
          << layout.title << " without " << file;
      fs::rename(aside, file);
    }
  }
}

TEST(Select, OrdersByStepThenAttemptAndNeverByTime) {
  const Folder job;
  put(job / "e1/step-100.pt", torch_file(), kThen + 900);
  put(job / "e1/step-300.pt", torch_file(), kThen + 1);
  put(job / "e2/step-200.pt", torch_file(), kThen + 999);
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "e1/step-300.pt");
  put(job / "e2/step-300.pt", torch_file(), kThen);
  EXPECT_EQ(chosen(pick(job.path(), 2), job.path()), "e2/step-300.pt");
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/step-300.pt");
}

TEST(Select, ComparesStepsAsNumbers) {
  const Folder job;
  put(job / "e1/step-9.pt", torch_file());
  put(job / "e1/step-10.pt", torch_file());
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/step-10.pt");
}

TEST(Select, PlacesAFileWithoutStepInItsNameByTheStepInside) {
  const Folder job;
  put(job / "e1/epoch=0-step=500.ckpt", torch_file());
  put(job / "e1/last.ckpt", torch_file({{"global_step", 550}}));
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/last.ckpt");
}

TEST(Select, FallsBackToTheFileOfTheAttemptBefore) {
  const Folder job;
  put(job / "e1/model.pt", torch_file(), kThen);
  put(job / "e2/model.pt", torch_file().substr(0, 200), kThen + 50);
  const Selection selection = pick(job.path(), 2);
  EXPECT_EQ(chosen(selection, job.path()), "e1/model.pt");
  ASSERT_EQ(selection.passed_over.size(), 1U);
  EXPECT_EQ(selection.passed_over[0].verdict.reason,
            "model.pt is cut off after 200 bytes: its zip directory is missing.");
}

TEST(Select, IgnoresTemporaryAndHiddenNames) {
  const Folder job;
  put(job / "e1/step-1.pt", torch_file());
  put(job / "e1/step-2.pt.tmp", torch_file());
  put(job / "e1/.step-3.pt", torch_file());
  put_trainer(job / "e1/tmp-checkpoint-4", 4);
  put_orbax(job / "e1/5.orbax-checkpoint-tmp-1");
  put(job / "e1/.bringing-2/0", torch_file());
  EXPECT_EQ(pick(job.path(), 1).all.size(), 1U);
}

TEST(Select, TakesTheFilesOfOneStepTogether) {
  const Folder job;
  for (const char* step : {"000100", "000200"}) {
    put(job / "e1" / (std::string("model_") + step + ".pt"), torch_file());
    put(job / "e1" / (std::string("optim_") + step + "_rank0.pt"), torch_file());
    put(job / "e1" / (std::string("meta_") + step + ".json"), "{}");
  }
  const Selection whole = pick(job.path(), 1);
  ASSERT_EQ(chosen(whole, job.path()), "e1/model_000200.pt");
  EXPECT_EQ(whole.chosen->found.companions.size(), 2U);
  put(job / "e1/optim_000200_rank0.pt", torch_file().substr(0, 100));
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/model_000100.pt");
  fs::remove(job / "e1/optim_000200_rank0.pt");
  const Selection missing = pick(job.path(), 1);
  EXPECT_EQ(chosen(missing, job.path()), "e1/model_000100.pt");
  EXPECT_EQ(missing.passed_over.at(0).verdict.reason,
            "It has 2 of the 3 files that the step before it has.");
}

TEST(Select, DoesNotHoldAllOfASeriesToTheShapeOfItsFirst) {
  const Folder job;
  put(job / "e1/model_100.pt", torch_file());
  put(job / "e1/optim_100.pt", torch_file());
  put(job / "e1/model_200.pt", torch_file());  // the script was changed to save the model alone
  put(job / "e1/model_300.pt", torch_file());
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/model_300.pt");
}

TEST(Select, DoesNotTakeAnOptimizerForACheckpoint) {
  const Folder job;
  put(job / "e1/model_100.pt", torch_file());
  put(job / "e1/optim_200.pt", torch_file());
  put(job / "e1/optimizer.pt", torch_file());
  EXPECT_EQ(pick(job.path(), 1).all.size(), 1U);
}

TEST(Select, TreatsAStandaloneBestAsItsOwn) {
  const Folder job;
  put(job / "e1/ckpt_100.pt", torch_file());
  put(job / "e1/best_100.pt", torch_file());
  put(job / "e1/ckpt_200.pt", torch_file());
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/ckpt_200.pt");
}

TEST(Select, DoesNotCountWhatAnOldRankWroteAfterTheTakeOver) {
  const Folder job;
  put(job / "e1/step-100.pt", torch_file());
  TakeOver takeover;
  takeover.epoch = Epoch(2);
  takeover.from = "e1/step-100.pt";
  takeover.step = 100;
  ASSERT_TRUE(write_take_over(job / "e2", takeover).ok());
  set_time(job / "e2/.quad/resumed.json", kThen + 100);
  put(job / "e2/step-120.pt", torch_file(), kThen + 200);
  put(job / "e1/step-300.pt", torch_file(), kThen + 300);
  const Selection selection = pick(job.path(), 2);
  EXPECT_EQ(chosen(selection, job.path()), "e2/step-120.pt");
  ASSERT_EQ(selection.passed_over.size(), 1U);
  EXPECT_EQ(selection.passed_over[0].verdict.reason,
            "It was written by attempt 1 after attempt 2 had taken over at step 100.");
}

TEST(Select, SaysWhenWaitingMayGiveANewerOne) {
  const Folder job;
  const std::string old_format =
      std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15) + "tensors";
  put(job / "e1/step-1/a.bin", old_format, kThen - 500);
  put(job / "e1/step-2/a.bin", old_format, kThen);
  const Selection selection = pick(job.path(), 1, WallTime{(kThen + 10) * 1000});
  EXPECT_EQ(chosen(selection, job.path()), "e1/step-1");
  ASSERT_TRUE(selection.settles_at);
  EXPECT_EQ(selection.settles_at->millis, (kThen + 60) * 1000);
}

TEST(Select, TakesThePathOfTheTaskAsOneMoreRoot) {
  const Folder job;
  put(job / "own/checkpoint-9/trainer_state.json", R"({"global_step":9})");
  put(job / "own/checkpoint-9/model.safetensors", safetensors());
  put(job / "e1/step-3.pt", torch_file());
  SelectOptions options;
  options.now = kLater;
  options.current = Epoch(1);
  const PosixFileView view;
  std::vector<Root> roots = attempt_roots(view, job.path(), Epoch(1));
  roots.push_back(Root{job / "own", Epoch(1), true});
  roots.push_back(Root{job / "nowhere", Epoch(1), true});
  const Selection selection = newest_valid(view, roots, options);
  EXPECT_EQ(chosen(selection, job.path()), "own/checkpoint-9");
}

TEST(Select, FindsACheckpointThatIsTheRootItself) {
  const Folder job;
  put_dcp(job / "e1");
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1");
}

TEST(Select, FindsCheckpointsBesideTheFinalModelOfTheTrainer) {
  const Folder job;
  put(job / "e1/out/model.safetensors", safetensors(), kThen + 500);
  put(job / "e1/out/trainer_state.json", R"({"global_step":90})");
  put_trainer(job / "e1/out/checkpoint-90", 90);
  EXPECT_EQ(chosen(pick(job.path(), 1), job.path()), "e1/out/checkpoint-90");
}

TEST(Select, IsNotHeldByLoopsDepthOrNumbers) {
  const Folder job;
  put(job / "e1/a/step-1.pt", torch_file());
  fs::create_directory_symlink(job / "e1", job / "e1/a/loop");
  fs::create_directory_symlink("/", job / "e1/root");
  fs::create_symlink("nowhere", job / "e1/step-9.pt");
  fs::path deep = job / "e1";
  for (int i = 0; i < 40; ++i) {
    deep /= "d";
  }
  fs::create_directories(deep);
  const Selection selection = pick(job.path(), 1);
  EXPECT_EQ(chosen(selection, job.path()), "e1/a/step-1.pt");
  EXPECT_EQ(selection.all.size(), 1U);
  EXPECT_EQ(selection.notes.size(), 1U);
}

TEST(Select, SurvivesHostileNames) {
  const Folder job;
  put(job / "e1/step-1.pt", torch_file());
  for (const char* name : {"step-2\n.pt", "\xff\xfe.pt", "step-3;rm -rf.pt", "$(step-4).pt",
                           "step-99999999999999999999999.pt", "-", "=", "step-.ckpt"}) {
    put(job / "e1" / name, "x");
  }
  put(job / "e9999999999/step-7.pt", torch_file());
  put(job / "e01/step-7.pt", torch_file());
  put(job / "e-1/step-7.pt", torch_file());
  const Selection selection = pick(job.path(), 5);
  EXPECT_EQ(chosen(selection, job.path()), "e1/step-1.pt");
  for (const Candidate& candidate : selection.all) {
    EXPECT_EQ(candidate.verdict.reason.find('\n'), std::string::npos);
  }
}

TEST(Select, OrderIsStrictAndTotal) {
  const Folder job;
  for (const char* name :
       {"e1/step-1.pt", "e1/step-2.pt", "e2/step-2.pt", "e1/model.pt", "e2/model.pt",
        "e2/epoch_3.pt", "e1/epoch_4.pt", "e2/last.ckpt", "e1/.quad/kept/model.pt"}) {
    put(job / name, torch_file());
  }
  const std::vector<Candidate> all = pick(job.path(), 2).all;
  ASSERT_EQ(all.size(), 9U);
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t k = 0; k < all.size(); ++k) {
      EXPECT_EQ(newer(all[i], all[k]), i < k) << all[i].found.path << all[k].found.path;
    }
  }
}

}  // namespace
}  // namespace quad::checkpoint::test
