#include "server/foresee.h"

#include <gtest/gtest.h>

namespace quad::server {
namespace {

job::Request request(std::int64_t cpu_milli, std::int32_t ranks = 1) {
  job::Request request;
  request.name = "job";
  request.ranks = ranks;
  job::Shape shape;
  shape.per_rank.cpu_milli = cpu_milli;
  request.shapes.push_back(shape);
  return request;
}

control::Snapshot two_nodes() {
  control::Snapshot snapshot;
  for (const char* name : {"a", "b"}) {
    pool::NodeSpec node;
    node.id = NodeId(name);
    node.capacity = {8'000, 1'000'000'000, 0};
    snapshot.pool.put_node(node);
  }
  return snapshot;
}

TEST(Foresight, NamesTheNodesOfAJobThatWouldStart) {
  const auto foreseen = foresee(two_nodes(), {request(8'000, 2)});
  ASSERT_EQ(foreseen.size(), 1U);
  EXPECT_EQ(foreseen[0].nodes, (std::vector<NodeId>{NodeId("a"), NodeId("b")}));
  EXPECT_FALSE(foreseen[0].why);
}

TEST(Foresight, TellsWhatTheOthersWouldWaitFor) {
  const auto snapshot = two_nodes();
  const auto foreseen = foresee(snapshot, {request(8'000, 2), request(1'000), request(9'000)});
  ASSERT_EQ(foreseen.size(), 3U);
  EXPECT_EQ(foreseen[0].nodes.size(), 2U);
  ASSERT_TRUE(foreseen[1].why);
  EXPECT_EQ(foreseen[1].why->code, "waiting_for_resources");
  EXPECT_EQ(foreseen[1].why->position, 1);
  ASSERT_TRUE(foreseen[2].why);
  EXPECT_TRUE(foreseen[2].why->impossible);
  EXPECT_EQ(foreseen[2].why->ahead, 1);
  // Nothing was taken from the pool that was asked about.
  EXPECT_EQ(snapshot.pool.nodes().at(NodeId("a")).free.cpu_milli, 8'000);
}

}  // namespace
}  // namespace quad::server
