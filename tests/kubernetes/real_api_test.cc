// The Kubernetes client against a real kube-apiserver: what no scripted server can vouch for. Runs
// where QUAD_TEST_KUBECONFIG names a kubeconfig of a cluster that may be written to (each test has
// a namespace of its own); QUAD_TEST_RESTART may be a command that restarts its API server, and
// QUAD_TEST_COMPACT one that compacts its etcd. test_api_client.py sees to all of these.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

#include "base/file.h"
#include "base/text.h"
#include "engine/kubernetes/client/scripted_server.h"
#include "engine/kubernetes/client/watch.h"

namespace quad::kubernetes {
namespace {

using testing::Contains;
using testing::HasSubstr;

class RealApi : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("QUAD_TEST_KUBECONFIG");
    if (path == nullptr) {
      GTEST_SKIP() << "QUAD_TEST_KUBECONFIG names no cluster to test with";
    }
    AccessRequest request;
    request.kubeconfig = path;
    auto access = find_access(request, net::process_environment());
    ASSERT_TRUE(access.ok()) << access.error().message;
    auto server = ApiServer::create(access.value(), {}, clock_);
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = server.value();
    api_ = std::make_unique<ApiClient>(server_, cancel_);
    const auto made = api_->create(kNamespaces, "", named(name_space_));
    ASSERT_TRUE(made.ok()) << made.error().message;
    // Pods are admitted only when it is there. The controllers make it, when they come to it.
    const auto account = api_->create(kServiceAccounts, name_space_, named("default"));
    ASSERT_TRUE(account.ok()) << account.error().message;
  }
  void TearDown() override {
    if (api_ != nullptr) {
      EXPECT_TRUE(api_->remove({kNamespaces, "", name_space_, ""}).ok());
    }
  }

  static json::object named(std::string_view name, std::string_view value = "") {
    json::object object{{"metadata", json::object{{"name", name}}}};
    if (!value.empty()) {
      object["data"] = json::object{{"v", value}};
    }
    return object;
  }
  static std::string uid(const json::object& object) {
    return std::string(get_string(*get_object(object, "metadata"), "uid"));
  }
  [[nodiscard]] ObjectRef map_named(const std::string& name) const {
    return {kConfigMaps, name_space_, name, ""};
  }
  void put(const std::string& name, const std::string& value) {
    auto object = named(name, value);
    object["kind"] = "ConfigMap";
    object["apiVersion"] = "v1";
    const auto done = api_->apply(map_named(name), object);
    ASSERT_TRUE(done.ok()) << done.error().message;
  }
  static void command(const char* variable) {
    ASSERT_EQ(std::system(std::getenv(variable)), 0) << std::getenv(variable);
  }

  SystemClock clock_;
  std::string name_space_ = "quad-test-" + random_hex(4);
  std::shared_ptr<net::Cancel> cancel_ = net::Cancel::create().value();
  std::shared_ptr<ApiServer> server_;
  std::unique_ptr<ApiClient> api_;
};

/// Follows the config maps of a namespace, and counts what it is told.
class Follower {
 public:
  Follower(const std::shared_ptr<ApiServer>& server, const std::string& name_space)
      : watcher_(
            server, options(name_space),
            [](const json::object& object) -> std::optional<std::string> {
              const auto* data = get_object(object, "data");
              return std::string(data == nullptr ? "" : get_string(*data, "v"));
            },
            [this](Change<std::string> change) { take(std::move(change)); }) {
    EXPECT_TRUE(watcher_.start().ok());
    const auto synced = watcher_.wait_synced(Millis(20'000));
    EXPECT_TRUE(synced.ok()) << synced.error().message;
  }

  bool reaches(const std::map<std::string, std::string>& wanted) {
    return eventually([&] { return now() == wanted; });
  }
  std::map<std::string, std::string> now() {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  /// Added twice, changed or removed without having been there, changed to what it was.
  std::vector<std::string> nonsense() {
    const std::lock_guard lock(mutex_);
    return nonsense_;
  }
  std::size_t changes() {
    const std::lock_guard lock(mutex_);
    return changes_;
  }
  [[nodiscard]] WatchState state() const { return watcher_.state(); }

 private:
  static WatchOptions options(const std::string& name_space) {
    WatchOptions options;
    options.type = kConfigMaps;
    options.name_space = name_space;
    options.selection.fields = "metadata.name!=kube-root-ca.crt";
    return options;
  }
  void take(const Change<std::string>& change) {
    const std::lock_guard lock(mutex_);
    ++changes_;
    const auto there = now_.find(change.name);
    if ((change.kind == ChangeKind::kAdded) != (there == now_.end()) ||
        (change.kind == ChangeKind::kChanged && there->second == change.value)) {
      nonsense_.push_back(change.name);
    }
    if (change.kind == ChangeKind::kRemoved) {
      now_.erase(change.name);
    } else {
      now_[change.name] = change.value;
    }
  }

  std::mutex mutex_;
  std::map<std::string, std::string> now_;
  std::vector<std::string> nonsense_;
  std::size_t changes_ = 0;
  Watcher<std::string> watcher_;
};

TEST_F(RealApi, CreatesOnceAndRemovesWhatIsMeant) {
  const auto first = api_->create(kConfigMaps, name_space_, named("a", "1"));
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_FALSE(first->existed);
  const auto second = api_->create(kConfigMaps, name_space_, named("a", "2"));
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_TRUE(second->existed);
  EXPECT_EQ(uid(second->object), uid(first->object));

  RemoveOptions other;
  other.uid = "11111111-2222-3333-4444-555555555555";
  auto removed = api_->remove(map_named("a"), other);
  ASSERT_TRUE(removed.ok()) << removed.error().message;
  EXPECT_EQ(*removed, Removal::kReplaced);
  other.uid = uid(first->object);
  EXPECT_EQ(*api_->remove(map_named("a"), other), Removal::kGone);
  EXPECT_EQ(*api_->remove(map_named("a"), other), Removal::kGone);
  EXPECT_EQ(api_->get(map_named("a")).error().code, ErrorCode::kNotFound);
}

TEST_F(RealApi, AppliesAndPatches) {
  put("a", "1");
  put("a", "2");
  ASSERT_TRUE(api_->patch(map_named("a"), PatchType::kMerge, {{"data", {{"w", "3"}}}}).ok());
  ASSERT_TRUE(api_->patch(map_named("a"), PatchType::kJson,
                          json::array{json::object{{"op", "remove"}, {"path", "/data/w"}}})
                  .ok());
  const auto got = api_->get(map_named("a"));
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(to_text(*got->if_contains("data")), R"({"v":"2"})");
}

TEST_F(RealApi, ADryRunIsCheckedAndKeepsNothing) {
  WriteOptions dry;
  dry.dry_run = true;
  ASSERT_TRUE(api_->create(kConfigMaps, name_space_, named("a", "1"), dry).ok());
  EXPECT_FALSE(api_->get(map_named("a")).ok());
  auto pod = named("p");
  pod["spec"] = {{"containers", json::array{json::object{{"name", "Not A Name"}}}}};
  const auto refused = api_->create(kPods, name_space_, pod, dry);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(refused.error().message, HasSubstr("spec.containers[0].name"));
  EXPECT_EQ(api_->last_failure().reason, "Invalid");
  EXPECT_FALSE(api_->last_failure().causes.empty());
  EXPECT_EQ(api_->create(kPods, "quad-no-such-namespace", pod, dry).error().code,
            ErrorCode::kNotFound);
}

TEST_F(RealApi, SaysWhatIsServedAndAllowed) {
  const auto served = api_->served("coordination.k8s.io", "v1");
  ASSERT_TRUE(served.ok()) << served.error().message;
  EXPECT_THAT(*served, Contains(testing::Field(&ServedResource::plural, "leases")));
  EXPECT_EQ(api_->served("no.such.group", "v1").error().code, ErrorCode::kNotFound);
  const auto allowed = api_->may({"create", kPods, "", name_space_, ""});
  ASSERT_TRUE(allowed.ok()) << allowed.error().message;
  EXPECT_TRUE(allowed->allowed);
  EXPECT_THAT(*api_->text("/version"), HasSubstr("gitVersion"));
}

TEST_F(RealApi, AWatchSeesAllAndNothingTwice) {
  std::map<std::string, std::string> wanted;
  for (int i = 0; i < 230; ++i) {  // three pages
    const auto name = fmt::format("m{}", i);
    ASSERT_TRUE(api_->create(kConfigMaps, name_space_, named(name, "0")).ok());
    wanted[name] = "0";
  }
  Follower follower(server_, name_space_);
  ASSERT_TRUE(follower.reaches(wanted));
  EXPECT_EQ(follower.changes(), 230U);
  for (int i = 0; i < 230; i += 2) {
    const auto name = fmt::format("m{}", i);
    if (i % 4 == 0) {
      put(name, "1");
      wanted[name] = "1";
    } else {
      ASSERT_TRUE(api_->remove(map_named(name)).ok());
      wanted.erase(name);
    }
  }
  ASSERT_TRUE(follower.reaches(wanted));
  EXPECT_EQ(follower.changes(), 230U + 115U);
  EXPECT_TRUE(follower.nonsense().empty());
}

TEST_F(RealApi, AnUnknownTokenIsRefused) {
  auto access = server_->access();
  access.login = {};
  access.login.token = "nonsense";
  ApiClient stranger(ApiServer::create(access, {}, clock_).value(), cancel_);
  const auto refused = stranger.get(map_named("a"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kDenied);
  EXPECT_EQ(
      refused.error().message,
      fmt::format("Cannot get configmaps '{}/a': Unauthorized (401 Unauthorized).", name_space_));
}

constexpr ResourceType kBindings{"rbac.authorization.k8s.io", "v1", "clusterrolebindings",
                                 "ClusterRoleBinding", false};
constexpr ResourceType kFlowSchemas{"flowcontrol.apiserver.k8s.io", "v1", "flowschemas",
                                    "FlowSchema", false};
constexpr ResourceType kPriorityLevels{"flowcontrol.apiserver.k8s.io", "v1",
                                       "prioritylevelconfigurations", "PriorityLevelConfiguration",
                                       false};

TEST_F(RealApi, ACallThatPriorityAndFairnessPutsOffIsMadeLater) {
  const auto user = name_space_;
  const auto any = json::array{"*"};
  auto binding = named(user);
  binding["roleRef"] = {{"apiGroup", "rbac.authorization.k8s.io"},
                        {"kind", "ClusterRole"},
                        {"name", "cluster-admin"}};
  binding["subjects"] = json::array{
      json::object{{"kind", "User"}, {"apiGroup", "rbac.authorization.k8s.io"}, {"name", user}}};
  auto level = named(user);
  level["spec"] = {{"type", "Limited"},
                   {"limited", json::object{{"nominalConcurrencyShares", 0},
                                            {"lendablePercent", 0},
                                            {"borrowingLimitPercent", 0},
                                            {"limitResponse", json::object{{"type", "Reject"}}}}}};
  const json::object rule{
      {"subjects",
       json::array{json::object{{"kind", "User"}, {"user", json::object{{"name", user}}}}}},
      {"resourceRules", json::array{json::object{{"verbs", any},
                                                 {"apiGroups", any},
                                                 {"resources", any},
                                                 {"namespaces", any},
                                                 {"clusterScope", true}}}}};
  auto schema = named(user);
  schema["spec"] = {{"priorityLevelConfiguration", json::object{{"name", user}}},
                    {"matchingPrecedence", 50},
                    {"rules", json::array{rule}}};
  for (const auto& [type, object] :
       {std::pair{kBindings, binding}, std::pair{kPriorityLevels, level},
        std::pair{kFlowSchemas, schema}}) {
    const auto made = api_->create(type, "", object);
    ASSERT_TRUE(made.ok()) << made.error().message;
  }
  put("a", "1");

  auto access = server_->access();
  access.login.impersonation = {{"Impersonate-User", user}};
  ApiOptions once;
  once.tries = 1;
  // A level without seats lets one request run at a time and puts off those beside it.
  std::atomic<bool> crowded{true};
  std::atomic<std::int64_t> longest{0};
  std::vector<std::thread> crowd;
  for (int i = 0; i < 6; ++i) {
    crowd.emplace_back([&] {
      ApiClient hasty(ApiServer::create(access, once, clock_).value(), cancel_);
      while (crowded) {
        const auto refused = hasty.get(map_named("a"));
        if (!refused.ok() && refused.error().code == ErrorCode::kExhausted) {
          longest = std::max<std::int64_t>(longest, hasty.last_failure().retry_after.count());
        }
      }
    });
  }
  EXPECT_TRUE(eventually([&] { return longest >= 1'000; }));
  ApiOptions many;
  many.tries = 20;
  ApiClient patient(ApiServer::create(access, many, clock_).value(), cancel_);
  std::thread other([&] {
    EXPECT_TRUE(cancel_->sleep(Millis(500)));
    crowded = false;
  });
  const auto got = patient.get(map_named("a"));
  other.join();
  for (auto& thread : crowd) {
    thread.join();
  }
  EXPECT_TRUE(api_->remove({kFlowSchemas, "", user, ""}).ok());
  EXPECT_TRUE(got.ok()) << got.error().message;
  EXPECT_TRUE(api_->remove({kPriorityLevels, "", user, ""}).ok());
  EXPECT_TRUE(api_->remove({kBindings, "", user, ""}).ok());
}

/// What of a pod the engine may want.
struct PodSeen {
  std::string phase;
  std::string node;
  std::string job;
  bool operator==(const PodSeen&) const = default;
};

std::optional<PodSeen> see(const json::object& pod) {
  PodSeen seen;
  if (const auto* status = get_object(pod, "status"); status != nullptr) {
    seen.phase = get_string(*status, "phase");
  }
  if (const auto* spec = get_object(pod, "spec"); spec != nullptr) {
    seen.node = get_string(*spec, "nodeName");
  }
  if (const auto* labels = get_object(*get_object(pod, "metadata"), "labels"); labels != nullptr) {
    seen.job = get_string(*labels, "quad.io/job");
  }
  return seen;
}

std::int64_t resident_kib() {
  const auto status = read_file("/proc/self/status").value_or("");
  const auto at = status.find("VmRSS:");
  return at == std::string::npos ? 0 : std::atoll(status.c_str() + at + 6);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kOwnMemory = false;
#else
constexpr bool kOwnMemory = true;
#endif

TEST_F(RealApi, AThousandPodsAreMadeByAPoolAndFollowedInLittleMemory) {
  constexpr int kPodCount = 1'000;
  constexpr int kWriters = 8;
  const auto begun = clock_.now().mono;
  std::atomic<int> next{0};
  std::atomic<int> made{0};
  std::vector<std::thread> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.emplace_back([&] {
      ApiClient api(server_, cancel_);
      for (int n = next++; n < kPodCount; n = next++) {
        json::array variables;
        for (int v = 0; v < 40; ++v) {
          variables.push_back(json::object{{"name", fmt::format("QUAD_VARIABLE_{}", v)},
                                           {"value", "a value of some length, as they are"}});
        }
        json::object pod{
            {"metadata",
             json::object{{"name", fmt::format("quad-{}-1-0", n)},
                          {"labels", json::object{{"quad.io/job", std::to_string(n)}}}}},
            {"spec", json::object{{"restartPolicy", "Never"},
                                  {"automountServiceAccountToken", false},
                                  {"containers", json::array{json::object{{"name", "rank"},
                                                                          {"image", "quad/none"},
                                                                          {"env", variables}}}}}}};
        const auto created = api.create(kPods, name_space_, pod);
        made += created.ok() && !created->existed ? 1 : 0;
      }
    });
  }
  for (auto& writer : writers) {
    writer.join();
  }
  ASSERT_EQ(made, kPodCount);
  const auto written = clock_.now().mono;
  WatchOptions options;
  options.type = kPods;
  options.name_space = name_space_;
  const auto before = resident_kib();
  std::atomic<int> seen{0};
  Watcher<PodSeen> watcher(server_, options, see, [&](const Change<PodSeen>&) { ++seen; });
  ASSERT_TRUE(watcher.start().ok());
  ASSERT_TRUE(watcher.wait_synced(Millis(60'000)).ok());
  const auto synced = clock_.now().mono;
  EXPECT_GE(seen, kPodCount);
  const auto grown = resident_kib() - before;
  fmt::print("{} pods by {} writers in {}, followed after {}; {} KiB more\n", kPodCount, kWriters,
             format_duration(written - begun), format_duration(synced - written), grown);
  if (kOwnMemory) {
    EXPECT_LE(grown, 16 * 1024);
  }
  watcher.stop();
}

TEST_F(RealApi, AVersionThatIsCompactedAwayIsGone) {
  if (std::getenv("QUAD_TEST_RESTART") == nullptr || std::getenv("QUAD_TEST_COMPACT") == nullptr) {
    GTEST_SKIP() << "QUAD_TEST_RESTART and QUAD_TEST_COMPACT are no commands";
  }
  put("a", "1");
  const auto got = api_->get(map_named("a"));
  ASSERT_TRUE(got.ok()) << got.error().message;
  const std::string old(get_string(*get_object(*got, "metadata"), "resourceVersion"));
  const std::string target = collection_path(kConfigMaps, name_space_) +
                             "?watch=true&timeoutSeconds=5&resourceVersion=" + old;
  put("a", "2");
  ASSERT_NO_FATAL_FAILURE(command("QUAD_TEST_COMPACT"));
  ASSERT_NO_FATAL_FAILURE(command("QUAD_TEST_RESTART"));
  ASSERT_TRUE(eventually([&] { return api_->text("/readyz").ok(); }));
  std::string lines;
  const auto done = api_->stream(
      target,
      [&](std::string_view piece) {
        lines += piece;
        return true;
      },
      Millis(20'000), [] {});
  // Both forms are in use.
  if (done.ok()) {
    EXPECT_THAT(lines, HasSubstr("\"type\":\"ERROR\""));
    EXPECT_THAT(lines, HasSubstr("\"code\":410"));
  } else {
    EXPECT_EQ(api_->last_failure().http, 410) << done.error().message;
  }
}

TEST_F(RealApi, AWatchOutlivesARestartOfTheApiServer) {
  if (std::getenv("QUAD_TEST_RESTART") == nullptr) {
    GTEST_SKIP() << "QUAD_TEST_RESTART is no command";
  }
  put("kept", "0");
  put("gone", "0");
  Follower follower(server_, name_space_);
  ASSERT_TRUE(follower.reaches({{"kept", "0"}, {"gone", "0"}}));
  for (int round = 1; round <= 2; ++round) {
    ASSERT_NO_FATAL_FAILURE(command("QUAD_TEST_RESTART"));
    ASSERT_TRUE(eventually([&] { return api_->text("/readyz").ok(); }));
    if (round == 1) {
      ASSERT_TRUE(api_->remove(map_named("gone")).ok());
    }
    put("kept", std::to_string(round));
    put("new", std::to_string(round));
    if (std::getenv("QUAD_TEST_COMPACT") != nullptr) {
      ASSERT_NO_FATAL_FAILURE(command("QUAD_TEST_COMPACT"));
    }
    ASSERT_TRUE(
        follower.reaches({{"kept", std::to_string(round)}, {"new", std::to_string(round)}}));
    ASSERT_TRUE(eventually([&] { return follower.state().synced; }));
  }
  EXPECT_TRUE(follower.nonsense().empty());
}

}  // namespace
}  // namespace quad::kubernetes
