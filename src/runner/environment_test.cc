#include "runner/environment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "runner/launch_agent.h"

namespace quad::runner {
namespace {

Start start_of(std::int32_t rank) {
  Start start;
  start.key = RankKey{JobId(17), Epoch(2), Rank(rank)};
  start.gpus = {2, 3};
  start.gpu_env = "CUDA_VISIBLE_DEVICES";
  start.cpu_milli = 3500;
  start.memory_bytes = 1 << 30;
  return start;
}

Order order_of(std::int32_t ranks) {
  Order order;
  order.num_ranks = ranks;
  for (std::int32_t i = 0; i < ranks; ++i) {
    order.ips.push_back("10.0.0." + std::to_string(9 - i));  // not sorted: rank order counts
  }
  order.task_id = order.task_ids = "sky-managed-2026-11-23-17-16-40-123456_train_17-0";
  order.user = "ana";
  order.cluster_info =
      R"({"cluster_name": "lab", "cloud": "Kubernetes", "region": "r1", "zone": null})";
  order.num_gpus = 2;
  order.checkpoint.job_dir = "/hot/17";
  return order;
}

Go go_of(const Order& order) {
  Go go;
  go.ips = order.ips;
  go.master_addr = order.ips.front();
  go.master_port = 23456;
  return go;
}

const Places kPlaces{"/w", "/w/home", "/w/progress"};

std::map<std::string, std::string> as_map(const std::vector<Variable>& variables) {
  std::map<std::string, std::string> map;
  for (const Variable& variable : variables) {
    EXPECT_TRUE(map.emplace(variable.name, variable.value).second) << variable.name << " twice";
  }
  return map;
}

class EnvironmentOfNodes : public ::testing::TestWithParam<std::int32_t> {};

TEST_P(EnvironmentOfNodes, RunSeesWhatSkyPilotGives) {
  const Order order = order_of(GetParam());
  std::string ips;
  for (const std::string& ip : order.ips) {
    ips += (ips.empty() ? "" : "\n") + ip;
  }
  for (std::int32_t rank = 0; rank < GetParam(); ++rank) {
    auto seen = as_map(run_exports(start_of(rank), order, go_of(order), kPlaces));
    EXPECT_EQ(seen["SKYPILOT_NODE_RANK"], std::to_string(rank));
    EXPECT_EQ(seen["SKYPILOT_NODE_IPS"], ips);
    EXPECT_EQ(seen["SKYPILOT_NUM_NODES"], std::to_string(GetParam()));
    EXPECT_EQ(seen["SKYPILOT_NUM_GPUS_PER_NODE"], "2");
    EXPECT_EQ(seen["SKYPILOT_TASK_ID"], order.task_id);
    EXPECT_EQ(seen["SKYPILOT_TASK_IDS"], order.task_id);
    EXPECT_EQ(seen["SKYPILOT_MANAGED_JOB_ID"], "17");
    EXPECT_EQ(seen["SKYPILOT_JOB_RANK"], "0");
    EXPECT_EQ(seen["SKYPILOT_NUM_JOBS"], "1");
    EXPECT_EQ(seen["SKYPILOT_CLUSTER_INFO"], order.cluster_info);
    EXPECT_EQ(seen["SKYPILOT_USER"], "ana");
    EXPECT_EQ(seen["SKYPILOT_INTERNAL_JOB_ID"], "17");
    EXPECT_EQ(seen["CUDA_VISIBLE_DEVICES"], "2,3");
    EXPECT_EQ(seen["MASTER_ADDR"], "10.0.0.9");
    EXPECT_EQ(seen["MASTER_PORT"], "23456");
    EXPECT_EQ(seen["QUAD_JOB_ID"], "17");
    EXPECT_EQ(seen["QUAD_EPOCH"], "2");
    EXPECT_EQ(seen["QUAD_RANK"], std::to_string(rank));
    EXPECT_EQ(seen["QUAD_NUM_RANKS"], std::to_string(GetParam()));
    EXPECT_EQ(seen["QUAD_CHECKPOINT_DIR"], "/hot/17/e2");
    EXPECT_EQ(seen["QUAD_PROGRESS"], "/w/progress");
    EXPECT_FALSE(seen.contains("SKYPILOT_SETUP_NODE_RANK"));
    EXPECT_FALSE(seen.contains("QUAD_RESUME_FROM"));
    EXPECT_FALSE(seen.contains("SKYPILOT_JOBGROUP_NAME"));
  }
}

TEST_P(EnvironmentOfNodes, SetupSeesTheSetupVariablesAndNoneOfRun) {
  const Order order = order_of(GetParam());
  for (std::int32_t rank = 0; rank < GetParam(); ++rank) {
    auto seen = as_map(setup_exports(start_of(rank), order, kPlaces));
    EXPECT_EQ(seen["SKYPILOT_SETUP_NODE_RANK"], std::to_string(rank));
    EXPECT_EQ(std::count(seen["SKYPILOT_SETUP_NODE_IPS"].begin(),
                         seen["SKYPILOT_SETUP_NODE_IPS"].end(), '\n'),
              GetParam() - 1);
    EXPECT_EQ(seen["SKYPILOT_SETUP_NUM_GPUS_PER_NODE"], "2");
    EXPECT_EQ(seen["SKYPILOT_NUM_NODES"], std::to_string(GetParam()));
    EXPECT_EQ(seen["SKYPILOT_TASK_ID"], order.task_id);
    EXPECT_EQ(seen["SKYPILOT_USER"], "ana");
    for (const char* of_run :
         {"SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS", "SKYPILOT_NUM_GPUS_PER_NODE",
          "SKYPILOT_INTERNAL_JOB_ID", "CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT"}) {
      EXPECT_FALSE(seen.contains(of_run)) << of_run;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Nodes, EnvironmentOfNodes, ::testing::Values(1, 2, 4));

TEST(Environment, ATasksOwnMasterPortWinsButItsOwnRankDoesNot) {
  Order order = order_of(2);
  order.envs = {{"MASTER_PORT", "29500"}, {"SKYPILOT_NODE_RANK", "7"}, {"A", "1"}};
  order.secrets = {{"A", "2"}};
  auto seen = as_map(run_exports(start_of(1), order, go_of(order), kPlaces));
  EXPECT_EQ(seen["MASTER_PORT"], "29500");
  EXPECT_EQ(seen["SKYPILOT_NODE_RANK"], "1");
  EXPECT_EQ(seen["A"], "2");
}

TEST(Environment, AGangIsToldHowMpirunReachesItsRanks) {
  Places places = kPlaces;
  places.program = "/quad/quad-runner";
  Order order = order_of(2);
  auto seen = as_map(run_exports(start_of(1), order, go_of(order), places));
  EXPECT_EQ(seen["OMPI_MCA_plm_rsh_agent"], "/quad/quad-runner rsh");
  EXPECT_EQ(seen["QUAD_HOSTFILE"], "/w/hostfile");
  EXPECT_EQ(hostfile_text(start_of(0), order, go_of(order)),
            "10.0.0.9 slots=2\n10.0.0.8 slots=2\n");
  order.num_gpus = 0;
  EXPECT_EQ(hostfile_text(start_of(0), order, go_of(order)),
            "10.0.0.9 slots=3\n10.0.0.8 slots=3\n");
  order.envs = {{"OMPI_MCA_plm_rsh_agent", "ssh"}};
  seen = as_map(run_exports(start_of(1), order, go_of(order), places));
  EXPECT_EQ(seen["OMPI_MCA_plm_rsh_agent"], "ssh") << "the task's own goes before";
  const Order single = order_of(1);
  EXPECT_FALSE(as_map(run_exports(start_of(0), single, go_of(single), places))
                   .contains("OMPI_MCA_plm_rsh_agent"));
}

TEST(Environment, ResumeIsSetOnlyWhenThereIsSomething) {
  const Order order = order_of(1);
  Go go = go_of(order);
  go.resume_from = "/hot/17/e2/step-40";
  go.resume_step = 40;
  auto seen = as_map(run_exports(start_of(0), order, go, kPlaces));
  EXPECT_EQ(seen["QUAD_RESUME_FROM"], "/hot/17/e2/step-40");
}

TEST(Environment, ATaskWithoutGpusSeesNone) {
  Order order = order_of(1);
  order.num_gpus = 0;
  Start start = start_of(0);
  start.gpus.clear();
  auto seen = as_map(run_exports(start, order, go_of(order), kPlaces));
  EXPECT_EQ(seen.at("CUDA_VISIBLE_DEVICES"), "");
  EXPECT_EQ(seen.at("SKYPILOT_NUM_GPUS_PER_NODE"), "0");
  const auto process = process_environment({"NVIDIA_VISIBLE_DEVICES=all"}, start, order, kPlaces);
  EXPECT_EQ(std::count(process.begin(), process.end(), "NVIDIA_VISIBLE_DEVICES=none"), 1);
  EXPECT_EQ(std::count(process.begin(), process.end(), "NVIDIA_VISIBLE_DEVICES=all"), 0);
}

TEST(Environment, TheProcessHasThePodsVariablesAndNothingOfAnotherLife) {
  const auto process =
      process_environment({"PATH=/x", "HOME=/root", "SKYPILOT_NODE_RANK=5", "QUAD_TOKEN=secret",
                           "LANG=C", "SKYPILOT_POD_CPU_CORE_LIMIT=9"},
                          start_of(1), order_of(2), kPlaces);
  const std::set<std::string> entries(process.begin(), process.end());
  EXPECT_TRUE(entries.contains("PATH=/x"));
  EXPECT_TRUE(entries.contains("LANG=C"));
  EXPECT_TRUE(entries.contains("HOME=/w/home"));
  EXPECT_TRUE(entries.contains("SKYPILOT_POD_NODE_TYPE=worker"));
  EXPECT_TRUE(entries.contains("SKYPILOT_POD_CPU_CORE_LIMIT=9"));
  EXPECT_TRUE(entries.contains("SKYPILOT_POD_MEMORY_BYTES_LIMIT=1073741824"));
  EXPECT_TRUE(entries.contains("QUAD_RANK_KEY=17-2-1"));
  EXPECT_TRUE(entries.contains("QUAD_RANK_FOLDER=/w/"));
  for (const std::string& entry : entries) {
    EXPECT_FALSE(entry.starts_with("QUAD_TOKEN") || entry.starts_with("SKYPILOT_NODE_RANK"));
  }
}

TEST(Order, ClusterInfoIsWrittenAsPythonWritesIt) {
  const auto order = read_order(
      {{"type", "order"},
       {"cluster_info",
        {{"cluster_name", "lab"}, {"cloud", "Kubernetes"}, {"region", "r1"}, {"zone", nullptr}}}});
  ASSERT_TRUE(order.ok());
  EXPECT_EQ(order.value().cluster_info,
            R"({"cluster_name": "lab", "cloud": "Kubernetes", "region": "r1", "zone": null})");
}

TEST(Order, AnUnknownKindOfMountIsNamed) {
  const auto order = read_order(
      {{"type", "order"}, {"mounts", json::array{json::object{{"dst", "/d"}, {"kind", "ftp"}}}}});
  ASSERT_FALSE(order.ok());
  EXPECT_NE(order.error().message.find("ftp"), std::string::npos);
}

}  // namespace
}  // namespace quad::runner
