#include "pool/pool.h"

#include <gtest/gtest.h>

namespace quad::pool {
namespace {

const RankKey kKey{JobId(1), Epoch(1), Rank(0)};

NodeSpec node(const Resources& capacity, const Resources& reserved) {
  NodeSpec spec;
  spec.id = NodeId("n1");
  spec.capacity = capacity;
  spec.reserved = reserved;
  return spec;
}

TEST(Pool, GivesNothingOfWhatOthersUse) {
  Pool pool;
  pool.put_node(node({8'000, 64, 4}, {2'000, 16, 1}));
  EXPECT_EQ(pool.find(NodeId("n1"))->free, (Resources{6'000, 48, 3}));
  EXPECT_FALSE(pool.hold(kKey, NodeId("n1"), {1'000, 1, 4}).ok());
  EXPECT_TRUE(pool.hold(kKey, NodeId("n1"), {6'000, 48, 3}).ok());
  EXPECT_EQ(pool.check(), "");
}

TEST(Pool, FollowsWhatOthersUse) {
  Pool pool;
  pool.put_node(node({8'000, 64, 4}, {}));
  ASSERT_TRUE(pool.hold(kKey, NodeId("n1"), {4'000, 32, 2}).ok());
  pool.put_node(node({8'000, 64, 4}, {6'000, 0, 0}));
  EXPECT_EQ(pool.find(NodeId("n1"))->free, (Resources{-2'000, 32, 2}));
  EXPECT_EQ(pool.check(), "");
  pool.put_node(node({8'000, 64, 4}, {}));
  pool.release(kKey);
  EXPECT_EQ(pool.find(NodeId("n1"))->free, (Resources{8'000, 64, 4}));
  EXPECT_EQ(pool.check(), "");
}

}  // namespace
}  // namespace quad::pool
