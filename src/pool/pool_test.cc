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

TEST(Pool, CountsDevicesByTheirNames) {
  const Resources part{1'000, 1, 0, {{"nvidia.com/mig-1g.5gb", 1}}};
  Pool pool;
  pool.put_node(node({8'000, 64, 0, {{"nvidia.com/mig-1g.5gb", 3}, {"rdma/hca", 1}}},
                     {0, 0, 0, {{"nvidia.com/mig-1g.5gb", 1}}}));
  const RankKey other{JobId(2), Epoch(1), Rank(0)};
  const RankKey third{JobId(3), Epoch(1), Rank(0)};
  ASSERT_TRUE(pool.hold(kKey, NodeId("n1"), part).ok());
  ASSERT_TRUE(pool.hold(other, NodeId("n1"), part).ok());
  EXPECT_FALSE(pool.hold(third, NodeId("n1"), part).ok()) << "one is somebody else's";
  EXPECT_TRUE(pool.hold(third, NodeId("n1"), {1, 1, 0, {{"rdma/hca", 1}}}).ok());
  EXPECT_EQ(pool.check(), "");
  pool.release(kKey);
  EXPECT_TRUE(Pool::fits(*pool.find(NodeId("n1")), part));
  EXPECT_FALSE(Pool::fits(*pool.find(NodeId("n1")), {0, 0, 0, {{"rdma/other", 1}}}));
  EXPECT_EQ(pool.check(), "");
}

}  // namespace
}  // namespace quad::pool
