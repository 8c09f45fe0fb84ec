// What a user may ask of the local engine, and the nodes that come of it.

#include "engine/local/local.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <vector>

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

class LocalOptionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quad-local-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    options_.data_dir = pattern;
    options_.runner = "/bin/true";
    options_.server_url = "unix:/tmp/quad.sock";
  }
  void TearDown() override {
    std::error_code failure;
    fs::remove_all(options_.data_dir, failure);
  }
  std::vector<pool::NodeSpec> nodes() const {
    std::vector<pool::NodeSpec> specs;
    auto engine = make_local(options_);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
    if (engine.ok()) {
      const auto begun = (*engine)->begin([&](const Observation& one) {
        if (const auto* found = std::get_if<NodeFound>(&one)) {
          specs.push_back(found->spec);
        }
      });
      EXPECT_TRUE(begun.ok());
      (*engine)->end();
    }
    return specs;
  }
  std::string refusal() const {
    const auto engine = make_local(options_);
    return engine.ok() ? "" : engine.error().message;
  }

  LocalOptions options_;
};

TEST_F(LocalOptionsTest, WithoutPretendNodesThisMachineIsTheNode) {
  const auto specs = nodes();
  ASSERT_EQ(specs.size(), 1U);
  EXPECT_FALSE(specs[0].pretend);
  EXPECT_FALSE(specs[0].id.value().empty());
  EXPECT_EQ(specs[0].address, "127.0.0.1");
  EXPECT_GT(specs[0].capacity.cpu_milli, 0);
  EXPECT_GT(specs[0].capacity.memory_bytes, 0);
  EXPECT_EQ(specs[0].capacity.gpus > 0, !specs[0].gpu_model.empty());
}

TEST_F(LocalOptionsTest, PretendNodesHaveAtLeastWhatTryingThingsOutTakes) {
  options_.nodes = 3;
  options_.gpus = "NVIDIA H100 80GB HBM3:8";
  const auto specs = nodes();
  ASSERT_EQ(specs.size(), 3U);
  EXPECT_EQ(specs[0].id.value(), "local-1");
  EXPECT_EQ(specs[2].id.value(), "local-3");
  EXPECT_EQ(specs[2].address, "127.64.0.3");
  EXPECT_TRUE(specs[0].pretend);
  EXPECT_EQ(specs[0].gpu_model, "H100");
  EXPECT_EQ(specs[0].capacity.gpus, 8);
  EXPECT_GE(specs[0].capacity.cpu_milli, 8'000);
  EXPECT_GE(specs[0].capacity.memory_bytes, 32LL << 30U);
}

TEST_F(LocalOptionsTest, PretendNodesHaveWhatWasAskedFor) {
  options_.nodes = 300;
  options_.gpus = "L4";
  options_.cpu_milli = 1'500;
  options_.memory_bytes = 1'000'000;
  const auto specs = nodes();
  ASSERT_EQ(specs.size(), 300U);
  const pool::Resources asked{1'500, 1'000'000, 1};
  EXPECT_EQ(specs[0].capacity, asked);
  for (const pool::NodeSpec& spec : specs) {
    if (spec.id.value() == "local-251") {
      EXPECT_EQ(spec.address, "127.64.1.1");
    }
  }
}

TEST_F(LocalOptionsTest, RefusesWhatMakesNoSenseInWordsThatHelp) {
  options_.gpus = "H100:8";
  EXPECT_EQ(refusal(),
            "GPUs, CPUs and memory can be chosen for pretend nodes only; give --nodes N too");
  options_.nodes = 1001;
  EXPECT_EQ(refusal(), "--nodes 1001 is not possible; 0 (this machine as it is) to 1000 are");
  options_.nodes = 1;
  for (const char* gpus : {"H100:", "H100:0", "H100:x", ":8", "H100:8:8", "H100:65", "H100:-1"}) {
    options_.gpus = gpus;
    EXPECT_NE(refusal().find("such as H100:8"), std::string::npos) << gpus;
  }
  options_.gpus.clear();
  options_.runner = "/no/such/quad-runner";
  EXPECT_NE(refusal().find("/no/such/quad-runner is missing"), std::string::npos) << refusal();
  options_.runner.clear();
  EXPECT_NE(refusal(), "");
}

}  // namespace
}  // namespace quad::engine
