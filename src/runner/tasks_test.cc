#include "runner/tasks.h"

#include <gtest/gtest.h>

namespace quad::runner {
namespace {

Start holder() {
  Start start;
  start.server = "https://quad.example:7";
  start.ca = "/ca.pem";
  start.key = {JobId(1), Epoch(2), Rank(1)};
  start.address = "10.0.0.9";
  start.gpus = {4, 5, 6, 7};
  start.gpu_env = "ROCR_VISIBLE_DEVICES";
  start.cpu_milli = 8'000;
  start.cpus = {2, 3};
  start.memory_bytes = 1LL << 34U;
  start.processes = 500;
  start.hot = "/hot";
  start.namespaces = false;
  return start;
}

json::object message(json::array gpus) {
  return {{"type", "start_task"},
          {"job", 7},
          {"epoch", 3},
          {"rank", 0},
          {"token", "secret"},
          {"node", "dev:1@1.2"},
          {"gpus", std::move(gpus)}};
}

TEST(TaskStart, SharesWhatTheHolderHasAndNamesItsOwnGpus) {
  const auto start = task_start(holder(), "/home/dev", message({1, 3}));
  ASSERT_TRUE(start.ok()) << start.error().message;
  const auto read = parse_start(to_text(*start));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(to_string(read->key), "7-3-0");
  EXPECT_EQ(read->token, "secret");
  EXPECT_EQ(read->node, "dev:1@1.2");
  EXPECT_EQ(read->gpus, (std::vector<std::int32_t>{5, 7}));
  EXPECT_EQ(read->gpu_env, "ROCR_VISIBLE_DEVICES");
  EXPECT_EQ(read->home, "/home/dev");
  EXPECT_EQ(read->holder, "1-2-1");
  EXPECT_EQ(read->address, "10.0.0.9");
  EXPECT_EQ(read->server, "https://quad.example:7");
  EXPECT_EQ(read->ca, "/ca.pem");
  EXPECT_EQ(read->hot, "/hot");
  EXPECT_EQ(read->cpus, (std::vector<int>{2, 3}));
  EXPECT_EQ(read->memory_bytes, 1LL << 34U);
  EXPECT_EQ(read->processes, 500U);
  EXPECT_FALSE(read->namespaces);
  EXPECT_EQ(read->termination_message, "");
}

TEST(TaskStart, CountsGpusAsThePodDoesWhereItsEngineHidesTheOthers) {
  Start pod = holder();
  pod.gpu_env.clear();
  const auto start = task_start(pod, "/home/dev", message({0, 2}));
  ASSERT_TRUE(start.ok());
  const auto read = parse_start(to_text(*start));
  EXPECT_EQ(read->gpus, (std::vector<std::int32_t>{0, 2}));
  EXPECT_EQ(read->gpu_env, "CUDA_VISIBLE_DEVICES");
}

TEST(TaskStart, RefusesAGpuThatTheHolderHasNot) {
  const auto start = task_start(holder(), "/home/dev", message({4}));
  ASSERT_FALSE(start.ok());
  EXPECT_NE(start.error().message.find("\"gpus\""), std::string::npos);
}

}  // namespace
}  // namespace quad::runner
