#include "engine/kubernetes/server_lease.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/scripted_cluster.h"
#include "engine/kubernetes/views/test_request.h"

namespace quad::kubernetes {
namespace {

/// A server's hold, and what it told.
struct Contender {
  Contender(ScriptedCluster& cluster, std::string name, const Clock& clock) {
    options.holder = std::move(name);
    options.settings = settings();
    options.access.server = cluster.url();
    options.lease = {Millis(400), Millis(20), Millis(10)};
    server = ApiServer::create(options.access, {}, clock).value();
    lease = std::make_unique<ServerLease>(server, options, clock, [this](const LeaseState& state) {
      const std::lock_guard lock(mutex);
      told.push_back(state);
    });
  }
  LeaseState last() {
    const std::lock_guard lock(mutex);
    return told.empty() ? LeaseState() : told.back();
  }

  KubernetesOptions options;
  std::shared_ptr<ApiServer> server;
  std::mutex mutex;  ///< of told
  std::vector<LeaseState> told;
  std::unique_ptr<ServerLease> lease;
};

bool refuse(const Asked& asked, Conversation& with) {
  if (!asked.has("/leases")) {
    return false;
  }
  with.answer(503, R"({"kind":"Status","message":"later","code":503})");
  return true;
}

TEST(ServerLease, IsHeldByOneOfManyThatStartTogether) {
  const SystemClock clock;
  ScriptedCluster cluster;
  std::vector<std::unique_ptr<Contender>> all;
  for (int i = 0; i < 5; ++i) {
    all.push_back(std::make_unique<Contender>(cluster, fmt::format("host_{}", i), clock));
  }
  for (const auto& one : all) {
    ASSERT_TRUE(one->lease->start().ok());
  }
  ASSERT_TRUE(eventually([&] {
    return std::all_of(all.begin(), all.end(), [](const auto& one) {
      return one->last().held || !one->last().other.empty();
    });
  }));
  EXPECT_EQ(std::count_if(all.begin(), all.end(), [](const auto& one) { return one->last().held; }),
            1);
  // Each that is stopped hands it on, and never are there two.
  for (int round = 0; round < 4; ++round) {
    const auto holder =
        std::find_if(all.begin(), all.end(), [](const auto& one) { return one->last().held; });
    ASSERT_NE(holder, all.end());
    (*holder)->lease->stop();
    EXPECT_FALSE((*holder)->lease->good());
    all.erase(holder);
    ASSERT_TRUE(eventually([&] {
      return std::any_of(all.begin(), all.end(), [](const auto& one) { return one->last().held; });
    }));
    EXPECT_EQ(
        std::count_if(all.begin(), all.end(), [](const auto& one) { return one->lease->good(); }),
        1);
  }
}

TEST(ServerLease, IsNotGoodLongBeforeAnotherCanHaveIt) {
  const SystemClock clock;
  ScriptedCluster cluster;
  Contender one(cluster, "host_1", clock);
  ASSERT_TRUE(one.lease->start().ok());
  ASSERT_TRUE(eventually([&] { return one.lease->good(); }));
  cluster.set_fault(refuse);
  EXPECT_TRUE(eventually([&] { return !one.lease->good(); }));
  EXPECT_TRUE(one.last().held);
  EXPECT_NE(one.last().trouble, "");
  cluster.set_fault({});
  EXPECT_TRUE(eventually([&] { return one.lease->good() && one.last().trouble.empty(); }));
  EXPECT_EQ(one.last().term, 1U) << "nobody had it meanwhile";
}

TEST(ServerLease, OfWhichARenewalsAnswerWasLostIsStillTheSame) {
  const SystemClock clock;
  ScriptedCluster cluster;
  Contender one(cluster, "host_1", clock);
  std::atomic<int> lost = 0;
  cluster.set_fault([&](const Asked& asked, Conversation& with) {
    if (asked.method != "PATCH" || lost++ >= 1) {
      return false;
    }
    std::string body;
    cluster.answer(asked, body);
    with.hang_up();
    return true;
  });
  ASSERT_TRUE(one.lease->start().ok());
  ASSERT_TRUE(eventually([&] { return lost > 5; }));
  EXPECT_EQ(one.last().term, 1U);
  EXPECT_TRUE(one.lease->good());
}

TEST(ServerLease, OfAProcessThatWasKilledIsItsSuccessorsAtOnce) {
  const SystemClock clock;
  ScriptedCluster cluster;
  cluster.put("own leases",
              {{"metadata", {{"name", "quad-1a2b3c4d"}}},
               {"spec", {{"holderIdentity", "host_1"}, {"leaseDurationSeconds", 3600}}}});
  Contender one(cluster, "host_1", clock);
  ASSERT_TRUE(one.lease->start().ok());
  EXPECT_TRUE(eventually([&] { return one.lease->good(); }));
  EXPECT_EQ(one.last().term, 1U);
}

TEST(ServerLease, ThatMayNotBeReadSaysSo) {
  const SystemClock clock;
  ScriptedCluster cluster;
  cluster.set_fault([](const Asked& /*asked*/, Conversation& with) {
    with.answer(403, R"({"kind":"Status","reason":"Forbidden","message":"no leases","code":403})");
    return true;
  });
  Contender one(cluster, "host_1", clock);
  ASSERT_TRUE(one.lease->start().ok());
  EXPECT_TRUE(
      eventually([&] { return one.last().trouble.find("no leases") != std::string::npos; }));
  EXPECT_FALSE(one.lease->good());
}

}  // namespace
}  // namespace quad::kubernetes
