#include "checkpoint/validate.h"

#include <gtest/gtest.h>

#include "checkpoint/test_files.h"

namespace quad::checkpoint::test {
namespace {

void expect_complete(const fs::path& path, Framework framework, std::int64_t step) {
  const Verdict verdict = check(path);
  EXPECT_EQ(verdict.state, State::kComplete) << path << ": " << verdict.reason;
  EXPECT_EQ(to_string(verdict.framework), to_string(framework)) << path;
  EXPECT_EQ(verdict.step.value_or(-1), step) << path;
  EXPECT_FALSE(verdict.reason.empty());
}

TEST(Validate, KnowsEachFrameworksLayout) {
  const Folder folder;
  put(folder / "step-000120.pt", torch_file());
  expect_complete(folder / "step-000120.pt", Framework::kTorchFile, 120);
  put(folder / "m/model.safetensors", safetensors());
  expect_complete(folder / "m/model.safetensors", Framework::kSafetensors, -1);
  put(folder / "epoch=3-step=1200.ckpt", torch_file());
  expect_complete(folder / "epoch=3-step=1200.ckpt", Framework::kLightning, 1200);
  put(folder / "last.ckpt", torch_file({{"epoch", 3}, {"global_step", 1234}}));
  expect_complete(folder / "last.ckpt", Framework::kLightning, 1234);
  put_dcp(folder / "dcp/step-40");
  expect_complete(folder / "dcp/step-40", Framework::kTorchDcp, 40);
  put_trainer(folder / "checkpoint-500", 500);
  expect_complete(folder / "checkpoint-500", Framework::kHuggingFace, 500);
  put_deepspeed(folder / "global_step12");
  expect_complete(folder / "global_step12", Framework::kDeepSpeed, 12);
  put_megatron(folder / "iter_0001200", "1200");
  expect_complete(folder / "iter_0001200", Framework::kMegatron, 1200);
  put_orbax(folder / "1300");
  expect_complete(folder / "1300", Framework::kOrbax, 1300);
  put_dcp(folder / "epoch=1-step=7.ckpt");
  put(folder / "epoch=1-step=7.ckpt/meta.pt", torch_file());
  expect_complete(folder / "epoch=1-step=7.ckpt", Framework::kLightning, 7);
}

TEST(Validate, SaysWhyATruncatedFileIsNoCheckpoint) {
  const Folder folder;
  put(folder / "model.pt", torch_file().substr(0, 312));
  const Verdict verdict = check(folder / "model.pt");
  EXPECT_EQ(verdict.state, State::kIncomplete);
  EXPECT_EQ(verdict.reason, "model.pt is cut off after 312 bytes: its zip directory is missing.");
}

TEST(Validate, WantsDistributedMetadataToBeNewerThanEveryShard) {
  const Folder folder;
  put_dcp(folder / "step-1");
  set_time(folder / "step-1/__1_0.distcp", kThen + 50);
  const Verdict verdict = check(folder / "step-1");
  EXPECT_EQ(verdict.state, State::kIncomplete);
  EXPECT_EQ(verdict.reason,
            "__1_0.distcp is newer than .metadata, so that belongs to an earlier "
            "save into the same folder.");
}

TEST(Validate, SeesADistributedShardThatIsShorterThanItsMetadataSays) {
  const Folder folder;
  put_dcp(folder / "step-1");
  const std::string bytes = get(folder / "step-1/__1_0.distcp");
  put(folder / "step-1/__1_0.distcp", bytes.substr(0, bytes.size() - 1));
  EXPECT_EQ(check(folder / "step-1").state, State::kIncomplete);
  fs::remove(folder / "step-1/__1_0.distcp");
  EXPECT_EQ(check(folder / "step-1").reason, "__1_0.distcp is missing, which .metadata names.");
}

TEST(Validate, WantsTheTrainersStateToAgreeWithTheName) {
  const Folder folder;
  put_trainer(folder / "checkpoint-500", 400);
  EXPECT_EQ(check(folder / "checkpoint-500").reason,
            "Its name says step 500 and its trainer_state.json 400.");
}

TEST(Validate, AcceptsATrainersSaveOfTheModelAlone) {
  const Folder folder;
  put(folder / "checkpoint-5/model.safetensors", safetensors());
  put(folder / "checkpoint-5/trainer_state.json", R"({"global_step":5})");
  EXPECT_EQ(check(folder / "checkpoint-5").state, State::kComplete);
  put(folder / "checkpoint-5/rng_state.pth", torch_file());
  EXPECT_EQ(check(folder / "checkpoint-5").state, State::kIncomplete);
}

TEST(Validate, LooksIntoTheShardedPartsOfATrainersFolder) {
  const Folder folder;
  const fs::path top = folder / "checkpoint-5";
  put(top / "trainer_state.json", R"({"global_step":5})");
  put(top / "rng_state_0.pth", torch_file());
  put_dcp(top / "pytorch_model_fsdp_0");
  put_dcp(top / "optimizer_0");
  EXPECT_EQ(check(top).state, State::kComplete) << check(top).reason;
  fs::remove(top / "optimizer_0/.metadata");
  EXPECT_EQ(check(top).reason, "optimizer_0: It has no .metadata, which is written last.");
}

TEST(Validate, TakesAcceleratesFolderForWhatItIs) {
  const Folder folder;
  const fs::path top = folder / "checkpoint-5";
  put(top / "model.safetensors", safetensors());
  put(top / "optimizer.bin", torch_file());
  put(top / "random_states_0.pkl", torch_file());
  EXPECT_EQ(check(top).state, State::kComplete) << check(top).reason;
}

TEST(Validate, CountsTheRanksOfDeepSpeed) {
  const Folder folder;
  put_deepspeed(folder / "global_step12", 4);
  fs::remove(folder / "global_step12/zero_pp_rank_1_mp_rank_00_optim_states.pt");
  EXPECT_EQ(check(folder / "global_step12").reason,
            "It has 3 of 4 optimizer files and 1 of 1 model files.");
  put_deepspeed(folder / "global_step12", 4);
  fs::remove(folder / "global_step12/zero_pp_rank_3_mp_rank_00_optim_states.pt");
  EXPECT_EQ(check(folder / "global_step12").reason,
            "It has the optimizer files of 3 x 1 ranks, and 4 x 1 wrote it.");
}

TEST(Validate, DoesNotTrustDeepSpeedsLatestAlone) {
  const Folder folder;
  put_deepspeed(folder / "global_step12");
  put(folder / "latest", "global_step12");
  put(folder / "global_step12/mp_rank_00_model_states.pt", torch_file().substr(0, 100));
  EXPECT_EQ(check(folder / "global_step12").state, State::kIncomplete);
}

TEST(Validate, WantsMegatronsTrackerToHaveReachedTheIteration) {
  const Folder folder;
  put_megatron(folder / "iter_0001200", "1000\n");
  EXPECT_EQ(check(folder / "iter_0001200").reason,
            "latest_checkpointed_iteration.txt is still at 1000: the save had not been finished.");
}

TEST(Validate, WantsOrbaxToHaveCommitted) {
  const Folder folder;
  put_orbax(folder / "1200.orbax-checkpoint-tmp-17");
  EXPECT_EQ(check(folder / "1200.orbax-checkpoint-tmp-17").state, State::kIncomplete);
  put_orbax(folder / "1300");
  put_orbax(folder / "1400");
  put(folder / "1300/commit_success.txt", "");
  EXPECT_EQ(check(folder / "1300").state, State::kComplete);
  EXPECT_EQ(check(folder / "1400").reason,
            "It has no commit_success.txt, which its neighbours have.");
}

TEST(Validate, GoesByTheDeclaredMarkerAlone) {
  const Folder folder;
  put(folder / "step-7/anything", "x");
  ValidateOptions options = later();
  options.marker = "DONE";
  EXPECT_EQ(check(folder / "step-7", options).reason,
            "It has no DONE, the marker that the task declares.");
  put(folder / "step-7/DONE", "");
  EXPECT_EQ(check(folder / "step-7", options).state, State::kComplete);
  EXPECT_EQ(check(folder / "step-7", options).framework, Framework::kDeclared);
}

TEST(Validate, WaitsForAnUnknownFolderToBeStill) {
  const Folder folder;
  put(folder / "step-7/weights.bin", torch_file());
  ValidateOptions options;
  options.now = WallTime{(kThen + 12) * 1000};
  const Verdict early = check(folder / "step-7", options);
  EXPECT_EQ(early.state, State::kUnknown);
  EXPECT_EQ(early.reason, "It changed 12 s ago and counts once it has been still for 1 min.");
  ASSERT_TRUE(early.settles_at);
  EXPECT_EQ(early.settles_at->millis, (kThen + 60) * 1000);
  options.now = *early.settles_at;
  EXPECT_EQ(check(folder / "step-7", options).state, State::kComplete);
}

TEST(Validate, TakesATimeInTheFutureForJustNow) {
  const Folder folder;
  put(folder / "step-7/weights.bin", torch_file(), kThen + 7200);
  EXPECT_EQ(check(folder / "step-7").state, State::kUnknown);
}

TEST(Validate, AcceptsAnUnknownFolderLikeTheOneBeforeItAtOnce) {
  const Folder folder;
  for (const char* name : {"step-7", "step-8"}) {
    put(folder / name / "model.pt", torch_file());
    put(folder / name / "optimizer.pt", torch_file());
  }
  ValidateOptions options;
  options.now = WallTime{(kThen + 1) * 1000};
  options.previous = check(folder / "step-7");
  EXPECT_EQ(check(folder / "step-8", options).state, State::kComplete);
  fs::remove(folder / "step-8/optimizer.pt");
  EXPECT_EQ(check(folder / "step-8", options).reason,
            "It has 1 files where the one before it has 2.");
  options.now = kLater;
  EXPECT_EQ(check(folder / "step-8", options).state, State::kIncomplete);
}

TEST(Validate, LooksIntoNestedDistributedParts) {
  const Folder folder;
  const fs::path top = folder / "run--step=9-last";
  put_dcp(top / "weights");
  put(top / "context/model.yaml", "a: 1");
  EXPECT_EQ(check(top).state, State::kComplete) << check(top).reason;
  put(folder / "run--step=9-last-unfinished", "");
  EXPECT_EQ(check(top).state, State::kIncomplete);
  fs::remove(folder / "run--step=9-last-unfinished");
  fs::remove(top / "weights/.metadata");
  EXPECT_EQ(check(top).reason, "weights: It has no .metadata, which is written last.");
}

TEST(Validate, DoesNotFollowNamesOutOfTheFolder) {
  const Folder folder;
  put(folder / "out.safetensors", safetensors());
  put(folder / "step-1/model.safetensors.index.json",
      R"({"weight_map":{"a":"../out.safetensors"}})");
  EXPECT_EQ(check(folder / "step-1").reason,
            "../out.safetensors is missing, which model.safetensors.index.json names.");
}

TEST(Validate, IsNotHeldByALoopOfLinks) {
  const Folder folder;
  put(folder / "step-1/model.pt", torch_file());
  fs::create_directory_symlink(folder / "step-1", folder / "step-1/again");
  fs::create_symlink("self", folder / "step-1/self");
  EXPECT_EQ(check(folder / "step-1").state, State::kComplete);
  EXPECT_EQ(check(folder / "step-1").files, 1U);
}

TEST(Validate, SaysUnknownOfAFolderBeyondItsBounds) {
  const Folder folder;
  for (int i = 0; i < 30; ++i) {
    put(folder / "step-1" / (std::to_string(i) + ".pt"), torch_file());
  }
  ValidateOptions options = later();
  options.limits.max_entries = 10;
  EXPECT_EQ(check(folder / "step-1", options).state, State::kUnknown);
  fs::create_directories(folder / "step-2/a/b/c/d/e/f/g/h/i");
  put(folder / "step-2/a/b/c/d/e/f/g/h/i/model.pt", torch_file());
  EXPECT_EQ(check(folder / "step-2").state, State::kUnknown);
}

TEST(Validate, OfWhatIsNotThereIsIncomplete) {
  const Folder folder;
  EXPECT_EQ(check(folder / "step-1").reason, "step-1 is not there (any more).");
}

// Removes a file just before the n-th look at it, as a cleaning script would.
class VanishingView final : public FileView {
 public:
  VanishingView(fs::path victim, int after) : victim_(std::move(victim)), left_(after) {}
  Result<FileInfo> stat(const fs::path& path) const override {
    strike(path);
    return real_.stat(path);
  }
  Result<Listing> list(const fs::path& folder, std::size_t max) const override {
    return real_.list(folder, max);
  }
  Result<std::string> read(const fs::path& path, std::uint64_t offset,
                           std::size_t length) const override {
    strike(path);
    return real_.read(path, offset, length);
  }

 private:
  void strike(const fs::path& path) const {
    if (path == victim_ && --left_ == 0) {
      fs::remove(victim_);
    }
  }
  PosixFileView real_;
  fs::path victim_;
  mutable int left_;
};

TEST(Validate, CountsNoFolderWhoseFileVanishesInMidScan) {
  for (int after = 1; after < 8; ++after) {
    const Folder folder;
    put_trainer(folder / "checkpoint-5", 5);
    const VanishingView view(folder / "checkpoint-5/optimizer.pt", after);
    const Verdict verdict = validate(view, folder / "checkpoint-5", later());
    if (!fs::exists(folder / "checkpoint-5/optimizer.pt")) {
      EXPECT_NE(verdict.state, State::kComplete) << after;
    }
  }
}

}  // namespace
}  // namespace quad::checkpoint::test
