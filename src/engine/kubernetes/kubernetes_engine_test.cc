#include "engine/kubernetes/kubernetes_engine.h"

#include <gtest/gtest.h>

#include <atomic>

#include "engine/kubernetes/scripted_cluster.h"
#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/views/test_request.h"

namespace quad::kubernetes {
namespace {

/// The machine's clock, moved on as a test likes.
class MovedClock final : public Clock {
 public:
  [[nodiscard]] Now now() const override {
    const Now real = real_.now();
    return {real.wall + Millis(ahead_), real.mono + Millis(ahead_)};
  }
  void move(Millis by) { ahead_ += by.count(); }

 private:
  SystemClock real_;
  std::atomic<std::int64_t> ahead_ = 0;
};

const RankKey kHead{JobId(17), Epoch(1), Rank(0)};
const RankKey kOther{JobId(17), Epoch(1), Rank(1)};
const NodeId kNode("gpu-07");
constexpr const char* kSecret = "quad-1a2b3c4d-j17-e1";

bool is_certain(const engine::RunnerEnded& one) {
  return !one.result || one.result->confirmed;
}
bool is_doubtful(const engine::RunnerEnded& one) {
  return !is_certain(one);
}

class EngineTest : public testing::Test {
 protected:
  MovedClock clock_;
  ScriptedCluster cluster_;
  KubernetesOptions options_;
  int ranks_ = 1;
  std::vector<VolumeRequest> volumes_;
  std::mutex mutex_;  ///< of seen_
  std::vector<engine::Observation> seen_;
  std::unique_ptr<engine::Engine> engine_;

  void SetUp() override {
    options_.name = "west";
    options_.access.server = cluster_.url();
    options_.api.first_pause = Millis(5);
    options_.settings = settings();
    options_.settings.root_uid.clear();
    options_.holder = "here_1";
    options_.lease.renew = Millis(10);
    options_.lease.look = Millis(10);
    options_.describe = [this](const engine::StartOrder& order) -> Result<PodRequest> {
      PodRequest one = request();
      one.key = order.key;
      one.ranks = ranks_;
      one.amount.gpus = 0;
      one.volumes = volumes_;
      return one;
    };
    cluster_.put("nodes", node("True"));
  }
  void TearDown() override {
    if (engine_ != nullptr) {
      engine_->end();
    }
  }

  void begin() {
    begin_unseen();
    ASSERT_TRUE(sees<engine::Inventory>());
  }
  void begin_unseen() {
    auto made = make_kubernetes(options_, clock_);
    ASSERT_TRUE(made.ok()) << made.error().message;
    engine_ = std::move(made).value();
    ASSERT_TRUE(engine_
                    ->begin([this](engine::Observation one) {
                      const std::lock_guard lock(mutex_);
                      seen_.push_back(std::move(one));
                    })
                    .ok());
  }

  /// The server's lease is spared: it is renewed until the test is taken down.
  void fault(ScriptedCluster::Fault fault) {
    cluster_.set_fault([fault = std::move(fault)](const Asked& asked, Conversation& with) {
      return !asked.has("/leases/quad-") && !asked.has("/leases?") && fault(asked, with);
    });
  }

  static constexpr const char* kLease = "quad-1a2b3c4d";
  /// As another server with the same records writes it.
  void give_lease_to(const std::string& holder) {
    cluster_.put("own leases",
                 {{"metadata", {{"name", kLease}}},
                  {"spec", {{"holderIdentity", holder}, {"leaseDurationSeconds", 15}}}});
  }
  /// At the lease as it is now; time enough, too, for the engine to do what it must not.
  void wait_for_a_look() {
    const std::size_t before = cluster_.asked().size();
    const auto looks = [&] {
      const auto asked = cluster_.asked();
      return std::count_if(asked.begin() + static_cast<std::ptrdiff_t>(before), asked.end(),
                           [](const Asked& one) { return one.has("/leases/quad-"); });
    };
    EXPECT_TRUE(eventually([&] { return looks() >= 10; }));
  }
  bool has_lease() {
    return eventually([&] {
      const auto lease = cluster_.find("own leases", kLease);
      return lease &&
             get_string(lease->at("spec").as_object(), "holderIdentity") == options_.holder;
    });
  }

  static json::object node(std::string_view ready, json::array taints = {}, bool cordoned = false) {
    return {{"metadata", {{"name", kNode.value()}}},
            {"spec", {{"taints", std::move(taints)}, {"unschedulable", cordoned}}},
            {"status",
             {{"allocatable", {{"cpu", "8"}, {"memory", "32Gi"}, {"pods", "110"}}},
              {"nodeInfo", {{"bootID", "boot-1"}}},
              {"conditions", json::array{json::object{{"type", "Ready"}, {"status", ready}}}}}}};
  }
  void renew_lease(int number) {
    cluster_.put("leases",
                 {{"metadata", {{"name", kNode.value()}}},
                  {"spec",
                   {{"holderIdentity", kNode.value()},
                    {"leaseDurationSeconds", 40},
                    {"renewTime", fmt::format("2026-11-25T10:00:{:02}.000000Z", number)}}}});
  }

  engine::StartOrder order(const RankKey& key) const {
    auto job = std::make_shared<job::Job>();
    auto asked = std::make_shared<job::Request>();
    asked->ranks = ranks_;
    job->id = key.job;
    job->request = asked;
    job::Attempt attempt;
    attempt.epoch = key.epoch;
    for (int i = 0; i < ranks_; ++i) {
      job::RankRecord rank;
      rank.holding.node = kNode;
      attempt.ranks.push_back(rank);
    }
    job->attempts.push_back(attempt);
    return {key, {kNode, {}, {}}, "token", job};
  }
  void start(const RankKey& key = kHead) { engine_->start(order(key)); }

  template <typename T>
  bool sees(const std::function<bool(const T&)>& holds = [](const T&) { return true; }) {
    return eventually([&] { return count<T>(holds) > 0; });
  }
  template <typename T>
  int count(const std::function<bool(const T&)>& holds = [](const T&) { return true; }) {
    const std::lock_guard lock(mutex_);
    int found = 0;
    for (const engine::Observation& one : seen_) {
      const T* it = std::get_if<T>(&one);
      found += it != nullptr && holds(*it) ? 1 : 0;
    }
    return found;
  }

  static std::string pod_of(const RankKey& key) { return pod_name("1a2b3c4d", key); }
  bool has_pod(const RankKey& key = kHead) {
    return eventually([&] { return cluster_.find("pods", pod_of(key)).has_value(); });
  }
  void set_status(const RankKey& key, const std::string& status) {
    cluster_.change("pods", pod_of(key), [&](json::object& pod) {
      pod["spec"].get_object()["nodeName"] = kNode.value();
      pod["status"] = parse_json_object("{" + status + "}").value();
    });
  }
  void run(const RankKey& key = kHead) { set_status(key, std::string(kRunning)); }
  static constexpr std::string_view kRunning =
      R"("phase":"Running","containerStatuses":[{"name":"rank","state":{"running":{}}}])";
};

TEST_F(EngineTest, AnOrderThatIsGivenTwiceIsOnePod) {
  begin();
  start();
  start();
  ASSERT_TRUE(has_pod());
  start();
  run();
  ASSERT_TRUE(sees<engine::NodeFound>());
  EXPECT_EQ(cluster_.count("POST", "/pods"), 1);
  EXPECT_EQ(cluster_.count("POST", "/secrets"), 1);
}

TEST_F(EngineTest, AnswersThatAreLostMakeNothingTwiceAndFailNothing) {
  std::set<std::string> lost;
  std::mutex guard;
  fault([&](const Asked& asked, Conversation& with) {
    const std::lock_guard lock(guard);
    if (asked.method != "POST" || !lost.insert(asked.target).second) {
      return false;
    }
    std::string body;
    cluster_.answer(asked, body);
    with.hang_up();
    return true;
  });
  begin();
  start();
  ASSERT_TRUE(has_pod());
  EXPECT_GE(lost.size(), 3U) << "the root, the Secret, the pod";
  run();
  engine_->forget(kHead, kNode);
  EXPECT_TRUE(eventually([&] { return !cluster_.find("secrets", kSecret); }));
  EXPECT_EQ(count<engine::StartFailed>(), 0);
}

TEST_F(EngineTest, AServerThatPutsOffIsAskedAgain) {
  std::atomic<int> refused = 0;
  fault([&](const Asked& asked, Conversation& with) {
    if (asked.method != "POST" || refused++ >= 4) {
      return false;
    }
    with.answer(429, R"({"kind":"Status","reason":"TooManyRequests","message":"later","code":429})",
                "Retry-After: 0\r\n");
    return true;
  });
  begin();
  start();
  EXPECT_TRUE(has_pod());
  EXPECT_EQ(count<engine::StartFailed>(), 0);
}

TEST_F(EngineTest, NothingIsOrderedWhileAnotherServerWithTheSameRecordsIs) {
  give_lease_to("there_2");
  begin_unseen();
  ASSERT_TRUE(sees<engine::EngineAway>([](const auto& one) {
    return !one.blind && one.reason.find("on there,") != std::string::npos;
  }));
  EXPECT_TRUE(sees<engine::NodeFound>()) << "what there is can be looked at";
  start();
  engine_->kill(kOther, kNode, Millis(10'000));
  clock_.move(Millis(10'000));
  give_lease_to("there_2");  // renews it
  wait_for_a_look();
  clock_.move(Millis(10'000));
  wait_for_a_look();
  EXPECT_EQ(count<engine::Inventory>(), 0);
  EXPECT_EQ(cluster_.count("POST", "/"), 0);
  EXPECT_EQ(cluster_.count("DELETE", "/"), 0);
  clock_.move(Millis(6'000));
  EXPECT_TRUE(sees<engine::Inventory>());
  EXPECT_TRUE(has_pod()) << "what was ordered meanwhile";
}

TEST_F(EngineTest, AServerThatIsStoppedLetsTheOtherGoOnAtOnce) {
  begin();
  ASSERT_TRUE(has_lease());
  engine_->end();
  engine_.reset();
  const auto lease = cluster_.find("own leases", kLease);
  EXPECT_FALSE(lease->at("spec").as_object().contains("holderIdentity"));
  options_.holder = "there_2";
  seen_.clear();
  begin();
  EXPECT_TRUE(has_lease());
}

TEST_F(EngineTest, AHolderThatFindsAnotherOneStopsItsOrdersAndNothingElse) {
  ranks_ = 2;
  begin();
  start();
  ASSERT_TRUE(has_pod());
  run();
  give_lease_to("there_2");
  ASSERT_TRUE(sees<engine::EngineAway>([](const auto& one) { return !one.blind; }));
  engine_->kill(kHead, kNode, Millis(10'000));
  start(kOther);
  wait_for_a_look();
  EXPECT_EQ(cluster_.count("DELETE", "/"), 0);
  EXPECT_FALSE(cluster_.find("pods", pod_of(kOther)));
  EXPECT_EQ(count<engine::Inventory>(), 1);
  give_lease_to("");
  EXPECT_TRUE(eventually([&] { return count<engine::Inventory>() == 2; }));
  EXPECT_TRUE(eventually([&] { return cluster_.count("DELETE", "/pods") > 0; }));
  EXPECT_TRUE(has_pod(kOther));
}

TEST_F(EngineTest, AHolderThatCannotRenewOrdersNothingUntilItHasAndStaysTheHolder) {
  ranks_ = 2;
  begin();
  start();
  ASSERT_TRUE(has_pod());
  run();
  std::atomic<bool> away = true;
  cluster_.set_fault([&](const Asked& asked, Conversation& with) {
    if (!away || !asked.has("/leases") || asked.has("kube-node-lease")) {
      return false;
    }
    with.answer(503, R"({"kind":"Status","message":"later","code":503})");
    return true;
  });
  clock_.move(Millis(11'000));
  start(kOther);
  wait_for_a_look();
  EXPECT_FALSE(cluster_.find("pods", pod_of(kOther)));
  clock_.move(Millis(60'000));
  ASSERT_TRUE(sees<engine::EngineAway>(
      [](const auto& one) { return one.reason.find("leases") != std::string::npos; }));
  away = false;
  EXPECT_TRUE(has_pod(kOther));
  EXPECT_EQ(count<engine::Inventory>(), 1) << "nobody else can have ordered anything";
  EXPECT_EQ(cluster_.count("DELETE", "/"), 0);
  engine_->end();
}

TEST_F(EngineTest, WhatAnEarlierProcessMadeIsTakenUp) {
  cluster_.put("secrets", {{"metadata", {{"name", kSecret}, {"uid", "from-before"}}}});
  begin();
  start();
  ASSERT_TRUE(has_pod());
  const auto pod = cluster_.find("pods", pod_of(kHead));
  EXPECT_EQ(pod->at("metadata").at_pointer("/ownerReferences/0/uid"), "from-before");
}

TEST_F(EngineTest, WhatWouldBeRefusedAnywhereEndsTheJob) {
  fault([&](const Asked& asked, Conversation& with) {
    if (asked.method != "POST" || !asked.has("/pods")) {
      return false;
    }
    with.answer(422, R"({"kind":"Status","reason":"Invalid","message":"spec.x: bad","code":422})");
    return true;
  });
  begin();
  start();
  EXPECT_TRUE(sees<engine::StartFailed>([](const auto& one) { return one.of_task; }));
}

TEST_F(EngineTest, AQuotaIsWaitedForAndTold) {
  std::atomic<bool> full = true;
  fault([&](const Asked& asked, Conversation& with) {
    if (!full || asked.method != "POST" || !asked.has("/pods")) {
      return false;
    }
    with.answer(403, R"({"kind":"Status","reason":"Forbidden","code":403,"message":)"
                     R"("pods \"x\" is forbidden: exceeded quota: none, requested: pods=1"})");
    return true;
  });
  begin();
  start();
  ASSERT_TRUE(sees<engine::StartWaits>(
      [](const auto& one) { return one.reason.find("quota") != std::string::npos; }));
  full = false;
  clock_.move(Millis(20'000));
  EXPECT_TRUE(has_pod());
}

TEST_F(EngineTest, AGangIsNotMadeOnAClaimThatItCannotShare) {
  ranks_ = 2;
  VolumeRequest volume;
  volume.destination = "/data";
  volume.source = "data";
  volumes_ = {volume};
  cluster_.put("persistentvolumeclaims",
               {{"metadata", {{"name", "data"}}},
                {"spec", {{"accessModes", json::array{"ReadWriteOnce"}}}}});
  begin();
  start(kHead);
  start(kOther);
  ASSERT_TRUE(sees<engine::StartFailed>([](const auto& one) {
    return one.of_task && one.reason.find("ReadWriteOnce") != std::string::npos;
  }));
  EXPECT_EQ(cluster_.count("POST", "/pods"), 0);
  EXPECT_EQ(cluster_.count("POST", "/secrets"), 0);
}

TEST_F(EngineTest, ARankThatDoesNotStartInTimeIsGivenUpAndItsPodRemoved) {
  options_.provision_timeout = Millis(600);
  begin();
  start();
  ASSERT_TRUE(has_pod());
  ASSERT_TRUE(sees<engine::StartFailed>([](const auto& one) {
    return !one.of_task && one.reason.find("provision_timeout") != std::string::npos;
  }));
  EXPECT_TRUE(eventually([&] { return cluster_.count("DELETE", "/pods") > 0; }));
}

TEST_F(EngineTest, ARankThatIsKilledBeforeItsPodIsSeenIsRemovedOnceItIs) {
  std::atomic<bool> held = false;
  std::atomic<bool> go = false;
  fault([&](const Asked& asked, Conversation& with) {
    if (asked.method != "POST" || !asked.has("/pods")) {
      return false;
    }
    held = true;
    eventually([&] { return go.load(); });
    std::string body;
    const int status = cluster_.answer(asked, body);
    with.answer(status, body);
    return true;
  });
  begin();
  start();
  ASSERT_TRUE(eventually([&] { return held.load(); }));
  engine_->kill(kHead, kNode, Millis(10'000));
  go = true;
  EXPECT_TRUE(eventually([&] { return cluster_.count("DELETE", "/pods") > 0; }));
  cluster_.remove("pods", pod_of(kHead));
  EXPECT_TRUE(sees<engine::RunnerEnded>());
}

TEST_F(EngineTest, AForceDeletedPodIsNotCertainToHaveEndedUntilItsKubeletHasHadTheTime) {
  begin();
  renew_lease(1);
  start();
  ASSERT_TRUE(has_pod());
  run();
  cluster_.remove("pods", pod_of(kHead));
  ASSERT_TRUE(sees<engine::RunnerEnded>(is_doubtful));
  ASSERT_TRUE(sees<engine::RankTaken>(
      [](const auto& one) { return one.taken.verdict == job::Verdict::kDeleted; }));
  renew_lease(2);
  ASSERT_TRUE(sees<engine::NodeSeen>());
  EXPECT_EQ(count<engine::RunnerEnded>(is_certain), 0);
  clock_.move(Millis(120'000));
  renew_lease(3);
  EXPECT_TRUE(sees<engine::RunnerEnded>(is_certain));
}

TEST_F(EngineTest, APodThatWentWhileNobodyLookedIsFoundGoneByTheNextList) {
  begin();
  start();
  ASSERT_TRUE(has_pod());
  run();
  cluster_.remove("pods", pod_of(kHead), false);
  cluster_.compact();
  EXPECT_TRUE(sees<engine::RunnerEnded>(is_doubtful));
}

TEST_F(EngineTest, AfterARestartPodsAreFoundAndWhatIsNotThereIsNotTakenForDead) {
  begin();
  start();
  ASSERT_TRUE(has_pod());
  run();
  engine_->end();
  seen_.clear();
  begin();
  ASSERT_TRUE(sees<engine::Inventory>([](const auto& one) {
    return !one.complete && one.existing.size() == 1 && one.existing[0].key == kHead &&
           one.existing[0].alive;
  }));
  engine_->kill(kOther, kNode, Millis(10'000));
  EXPECT_TRUE(sees<engine::RunnerEnded>(
      [](const auto& one) { return one.key == kOther && is_doubtful(one); }));
}

TEST_F(EngineTest, APodOfAnotherNamespaceIsNoRankWhateverItsLabelsSay) {
  begin();
  start();
  ASSERT_TRUE(has_pod());
  engine_->end();
  seen_.clear();
  cluster_.change("pods", pod_of(kHead), [&](json::object& pod) {
    pod["metadata"].get_object()["namespace"] = "somebody-elses";
  });
  begin();
  EXPECT_TRUE(sees<engine::Inventory>([](const auto& one) { return one.existing.empty(); }));
}

TEST_F(EngineTest, APodThatWentBeforeThisProcessHasEndedOnceItsKubeletHasHadItsGrace) {
  renew_lease(1);
  begin();
  engine_->kill(kHead, kNode, Millis(10'000));
  ASSERT_TRUE(sees<engine::RunnerEnded>(is_doubtful));
  clock_.move(Millis(30'000));  // its grace, and the runner's
  renew_lease(2);
  ASSERT_TRUE(sees<engine::NodeSeen>());
  renew_lease(3);
  ASSERT_TRUE(eventually([&] { return count<engine::NodeSeen>() > 1; }));
  EXPECT_EQ(count<engine::RunnerEnded>(is_certain), 0);
  clock_.move(Millis(15'000));
  renew_lease(4);
  EXPECT_TRUE(sees<engine::RunnerEnded>(is_certain));
}

TEST_F(EngineTest, OfAPodThatWentWithItsNodeBeforeThisProcessTheNodeIsToldAsGone) {
  begin();
  const NodeId other("gpu-08");
  engine_->kill(kHead, other, Millis(10'000));
  ASSERT_TRUE(sees<engine::RunnerEnded>(is_doubtful));
  clock_.move(Millis(61'000));
  EXPECT_TRUE(sees<engine::NodeDown>(
      [&](const auto& one) { return one.certain && one.removed && one.node == other; }));
  EXPECT_EQ(count<engine::NodeDown>(), 1);
}

TEST_F(EngineTest, WhoTakesARankAwayIsToldBeforeItEnds) {
  begin();
  start();
  ASSERT_TRUE(has_pod());
  run();
  cluster_.change("pods", pod_of(kHead), [](json::object& pod) {
    pod["metadata"].get_object()["deletionTimestamp"] = "2026-11-25T10:00:00Z";
    pod["status"].get_object()["conditions"] = json::array{json::object{
        {"type", "DisruptionTarget"}, {"status", "True"}, {"reason", "PreemptionByScheduler"}}};
  });
  EXPECT_TRUE(sees<engine::RankTaken>(
      [](const auto& one) { return one.taken.verdict == job::Verdict::kPreempted; }));
  EXPECT_EQ(count<engine::RunnerEnded>(), 0);
}

TEST_F(EngineTest, ACordonedNodeWithRanksCanBeDrained) {
  const std::string budget = "quad-1a2b3c4d-ranks";
  const auto leaves_out = [&](std::string_view text) {
    const auto found = cluster_.find("poddisruptionbudgets", budget);
    return found && (to_text(*found).find("NotIn") != std::string::npos) == !text.empty() &&
           to_text(*found).find(text) != std::string::npos;
  };
  begin();
  start();
  ASSERT_TRUE(has_pod());
  run();
  ASSERT_TRUE(eventually([&] { return leaves_out(""); }));
  cluster_.put("nodes", node("True", {}, true));
  EXPECT_TRUE(eventually([&] { return leaves_out(R"(["gpu-07"])"); }));
  cluster_.put("nodes", node("True"));
  EXPECT_TRUE(eventually([&] { return leaves_out(""); }));
}

TEST_F(EngineTest, ADeadNodeIsToldAndTaintedForTheListThatWasRead) {
  options_.out_of_service_taint = true;
  begin();
  const json::object shutdown{{"key", "node.cloudprovider.kubernetes.io/shutdown"},
                              {"effect", "NoSchedule"}};
  cluster_.put("nodes", node("True", {shutdown}));
  EXPECT_EQ(count<engine::NodeDown>(), 0) << "its kubelet answers";
  cluster_.put("nodes", node("Unknown", {shutdown}));
  ASSERT_TRUE(sees<engine::NodeDown>([](const auto& one) { return one.certain; }));
  ASSERT_TRUE(eventually([&] { return cluster_.count("PATCH", "/nodes/") > 0; }));
  for (const Asked& one : cluster_.asked()) {
    if (one.method == "PATCH" && one.has("/nodes/")) {
      EXPECT_NE(one.body.find(R"("op":"test","path":"/metadata/resourceVersion")"),
                std::string::npos)
          << one.body;
      EXPECT_NE(one.body.find("out-of-service"), std::string::npos);
      EXPECT_NE(one.body.find("cloudprovider"), std::string::npos) << "the others stay";
    }
  }
}

TEST_F(EngineTest, ANodeThatWasRemovedMayRunOn) {
  begin();
  ASSERT_TRUE(sees<engine::NodeFound>());
  cluster_.remove("nodes", kNode.value());
  EXPECT_TRUE(sees<engine::NodeDown>([](const auto& one) { return !one.certain && one.removed; }));
  clock_.move(Millis(61'000));
  EXPECT_TRUE(sees<engine::NodeDown>([](const auto& one) { return one.certain && one.removed; }));
}

TEST_F(EngineTest, ANodeThatNoPodOfQuadsMayBeOnIsClosed) {
  cluster_.put(
      "nodes",
      node("True", {json::object{{"key", "team"}, {"value", "a"}, {"effect", "NoSchedule"}}}));
  begin();
  EXPECT_TRUE(sees<engine::NodeFound>(
      [](const auto& one) { return one.spec.closed.find("team=a") != std::string::npos; }));
}

TEST_F(EngineTest, ANodeThatTheSelectorLeavesOutIsNotToldUntilItsLabelsSayOtherwise) {
  options_.settings.node_selector = {{"quad.io/pool", "a100"}};
  json::object other = node("False");
  other["metadata"].get_object()["name"] = "other";
  cluster_.put("nodes", other);
  json::object chosen = node("True");
  const auto label = [](json::object& one, std::string_view pool) {
    one["metadata"].get_object()["labels"] = json::object{{"quad.io/pool", pool}};
  };
  label(chosen, "a100");
  cluster_.put("nodes", chosen);
  begin();
  ASSERT_TRUE(sees<engine::NodeFound>([](const auto& one) { return one.spec.id == kNode; }));
  cluster_.remove("nodes", "other");
  label(other, "h100");
  cluster_.put("nodes", other);
  label(chosen, "h100");  // what was told stays, and is closed
  cluster_.put("nodes", chosen);
  EXPECT_TRUE(sees<engine::NodeFound>([](const auto& one) { return !one.spec.closed.empty(); }));
  const auto is_other = [](const auto& one) { return one.node.value() == "other"; };
  EXPECT_EQ(count<engine::NodeFound>([](const auto& one) { return one.spec.id != kNode; }), 0);
  EXPECT_EQ(count<engine::NodeDown>(is_other), 0);
  label(other, "a100");
  cluster_.put("nodes", other);
  EXPECT_TRUE(
      sees<engine::NodeFound>([](const auto& one) { return one.spec.id.value() == "other"; }));
}

TEST_F(EngineTest, ASecretThatACrashHasLeftIsRemovedOnce) {
  cluster_.put("secrets", {{"metadata", {{"name", kSecret}}}});
  begin();
  engine_->forget(kHead, kNode);
  EXPECT_TRUE(eventually([&] { return !cluster_.find("secrets", kSecret); }));
  engine_->forget(kOther, kNode);
  engine_->forget({JobId(18), Epoch(1), Rank(0)}, kNode);
  EXPECT_TRUE(eventually([&] { return cluster_.count("DELETE", "j18-e1") == 1; }));
  EXPECT_EQ(cluster_.count("DELETE", "j17-e1"), 1);
}

}  // namespace
}  // namespace quad::kubernetes
