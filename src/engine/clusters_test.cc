#include "engine/clusters.h"

#include <gmock/gmock.h>

#include <vector>

namespace quad::engine {
namespace {

using ::testing::ElementsAre;

RankKey key(std::int64_t job, std::int32_t epoch, std::int32_t rank) {
  return {JobId(job), Epoch(epoch), Rank(rank)};
}

TEST(ClusterNode, SaysWhichRunnerHoldsIt) {
  const NodeId node = cluster_node("dev-1.a", key(17, 2, 3));
  EXPECT_EQ(node.value(), "dev-1.a:3@17.2");
  EXPECT_EQ(parse_cluster_node(node), (ClusterNode{"dev-1.a", key(17, 2, 3)}));
}

TEST(ClusterNode, IsNoneOfAMachine) {
  for (const char* name : {"local-1", "west:gpu-1", "gpu-1.example.edu", "", "@", "dev:@1.1",
                           "dev:0@1", "dev:0@1.", "dev0@1.1", "dev:x@1.1"}) {
    EXPECT_FALSE(parse_cluster_node(NodeId(name))) << name;
  }
}

/// Machines that write down what they are told.
class Machines final : public Engine {
 public:
  explicit Machines(std::vector<std::string>& told) : told_(told) {}
  Result<std::vector<Inventory>> begin(Sink /*sink*/) override { return std::vector<Inventory>(); }
  [[nodiscard]] std::string engine_of(const NodeId& /*node*/) const override { return "local"; }
  void start(const StartOrder& order) override { told_.push_back("start " + to_string(order.key)); }
  void kill(const RankKey& key, const NodeId& /*node*/, Millis /*grace*/) override {
    told_.push_back("kill " + to_string(key));
  }
  void forget(const RankKey& key, const NodeId& /*node*/) override {
    told_.push_back("forget " + to_string(key));
  }
  Status node_action(const NodeId& node, const std::string& verb) override {
    told_.push_back(verb + " " + node.value());
    return {};
  }
  void end() override {}

 private:
  std::vector<std::string>& told_;
};

TEST(Clusters, HandsOnOrdersToWhomTheyAreFor) {
  std::vector<std::string> told;
  Holders holders;
  holders.start = [&](const RankKey& holder, const StartOrder& order) {
    told.push_back("holder " + to_string(holder) + " start " + to_string(order.key));
  };
  holders.kill = [&](const RankKey& holder, const RankKey& task) {
    told.push_back("holder " + to_string(holder) + " kill " + to_string(task));
  };
  holders.forget = [&](const RankKey& holder, const RankKey& task) {
    told.push_back("holder " + to_string(holder) + " forget " + to_string(task));
  };
  const auto engine = with_clusters(std::make_unique<Machines>(told), holders);
  const NodeId machine("local-1");
  const NodeId node = cluster_node("dev", key(1, 1, 0));
  for (const NodeId& on : {machine, node}) {
    StartOrder order;
    order.key = key(2, 1, 0);
    order.holding.node = on;
    engine->start(order);
    engine->kill(order.key, on, Millis(0));
    engine->forget(order.key, on);
  }
  EXPECT_THAT(told,
              ElementsAre("start 2-1-0", "kill 2-1-0", "forget 2-1-0", "holder 1-1-0 start 2-1-0",
                          "holder 1-1-0 kill 2-1-0", "holder 1-1-0 forget 2-1-0"));
  EXPECT_EQ(engine->engine_of(machine), "local");
  EXPECT_EQ(engine->engine_of(node), "cluster dev");
  EXPECT_TRUE(engine->node_action(machine, "fail").ok());
  EXPECT_EQ(engine->node_action(node, "fail").error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace quad::engine
