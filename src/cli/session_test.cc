#include <gtest/gtest.h>

#include "cli/copy.h"
#include "cli/port_forward.h"

namespace quad::cli {
namespace {

TEST(RankPath, IsAJobARankAndAPath) {
  const auto simple = parse_rank_path("17:/data/x:y");
  ASSERT_TRUE(simple.has_value());
  EXPECT_EQ(simple->job, "17");
  EXPECT_EQ(simple->rank, 0);
  EXPECT_EQ(simple->path, "/data/x:y");
  const auto ranked = parse_rank_path("17/3:~/log");
  ASSERT_TRUE(ranked.has_value());
  EXPECT_EQ(ranked->rank, 3);
  EXPECT_EQ(ranked->path, "~/log");
  EXPECT_TRUE(parse_rank_path("1:").has_value());
  const auto cluster = parse_rank_path("dev/1:data");
  ASSERT_TRUE(cluster.has_value());
  EXPECT_EQ(cluster->job, "dev");
  EXPECT_EQ(cluster->rank, 1);
}

TEST(RankPath, AnythingElseIsAPathHere) {
  for (const char* local : {"x", "./17:x", "/a:b", "./a17:x", "~/a:x", "0:x", "-1:x", "17/:x",
                            "17/-1:x", "17/1/2:x", ":x", "17"}) {
    EXPECT_FALSE(parse_rank_path(local).has_value()) << local;
  }
}

TEST(PortPair, IsOnePortOrTwo) {
  const auto one = parse_port_pair("8888");
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->local, 8888);
  EXPECT_EQ(one->remote, 8888);
  const auto two = parse_port_pair("0:80");
  ASSERT_TRUE(two.has_value());
  EXPECT_EQ(two->local, 0);
  EXPECT_EQ(two->remote, 80);
  for (const char* wrong : {"", "0", "x", "80:", ":80", "65536", "80:0", "1:2:3", "-1:80"}) {
    EXPECT_FALSE(parse_port_pair(wrong).has_value()) << wrong;
  }
}

}  // namespace
}  // namespace quad::cli
