#include "checkpoint/names.h"

#include <gtest/gtest.h>

namespace quad::checkpoint {
namespace {

struct Case {
  const char* name;
  std::int64_t step;   // -1: none
  std::int64_t epoch;  // -1: none
};

TEST(Names, SayTheStepAndTheTrainingEpoch) {
  const Case cases[] = {
      {"step-000120.pt", 120, -1},
      {"checkpoint-500", 500, -1},
      {"epoch=3-step=1200.ckpt", 1200, 3},
      {"epoch=3-step=1200-v1.ckpt", 1200, 3},
      {"model_1200.pt", 1200, -1},
      {"iter_0001200", 1200, -1},
      {"global_step12", 12, -1},
      {"1200", 1200, -1},
      {"0", 0, -1},
      {"step_10k.pt", 10000, -1},
      {"ckpt-7.pth.tar", 7, -1},
      {"optim_000500_rank0.pt", 500, -1},
      {"meta_000500.json", 500, -1},
      {"checkpoint_epoch_3.pt", -1, 3},
      {"epoch3.pt", -1, 3},
      {"checkpoint-2-step-500", 500, -1},
      {"500steps.pt", 500, -1},
      {"Step=77.CKPT", 77, -1},
      {"model-00001-of-00002.safetensors", -1, -1},
      {"rng_state_0.pth", 0, -1},
      {"mp_rank_00", -1, -1},
      {"llama-7b.pt", -1, -1},
      {"model_v2.pt", -1, -1},
      {"model_seed_42.pt", -1, -1},
      {"epoch=3-val_loss=0.25.ckpt", -1, 3},
      {"best_acc_95.pt", -1, -1},
      {"last.ckpt", -1, -1},
      {"version_0", -1, -1},
      {"step-99999999999999999999.pt", -1, -1},
      {"", -1, -1},
      {"---", -1, -1},
      {"step-", -1, -1},
  };
  for (const Case& one : cases) {
    const NameFacts facts = facts_of_name(one.name);
    EXPECT_EQ(facts.step.value_or(-1), one.step) << one.name;
    EXPECT_EQ(facts.training_epoch.value_or(-1), one.epoch) << one.name;
  }
}

TEST(Names, OfWritersInProgressAreTemporary) {
  for (const char* name : {"tmp-checkpoint-500", "model.pt.tmp", "x.partial", ".hidden",
                           "1200.orbax-checkpoint-tmp-17", "a.pt.tmp-12ab", "model.pt~"}) {
    EXPECT_TRUE(is_temporary_name(name)) << name;
  }
  for (const char* name : {"checkpoint-500", "model.pt", "temperature.pt", "template.ckpt"}) {
    EXPECT_FALSE(is_temporary_name(name)) << name;
  }
}

TEST(Names, OfOneSeriesHaveOneShape) {
  EXPECT_EQ(shape_of_name("step-000120.pt"), shape_of_name("step-000240.pt"));
  EXPECT_NE(shape_of_name("model_120.pt"), shape_of_name("optim_120.pt"));
  EXPECT_EQ(shape_of_name("last.ckpt"), "last.ckpt");
}

TEST(Names, AreShownWithoutControlCharactersOrBadBytes) {
  EXPECT_EQ(shown("a\nb\x1b[31mc\xff.pt"), "a?b?[31mc?.pt");
  EXPECT_EQ(shown("größe.pt"), "größe.pt");
  EXPECT_EQ(shown("\xc2\x9b"), "??");
  EXPECT_LE(shown(std::string(5000, 'x')).size(), 210U);
}

}  // namespace
}  // namespace quad::checkpoint
