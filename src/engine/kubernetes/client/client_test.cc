#include "engine/kubernetes/client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "engine/kubernetes/client/scripted_server.h"

namespace quad::kubernetes {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kPod =
    R"({"kind":"Pod","metadata":{"name":"a","namespace":"train","uid":"u1","resourceVersion":"7"}})";

std::string status(int code, std::string_view reason, std::string_view message) {
  return fmt::format(R"({{"kind":"Status","code":{},"reason":"{}","message":"{}"}})", code, reason,
                     message);
}

json::object pod_named(std::string_view name) {
  return {{"metadata", json::object{{"name", name}}}};
}

class ClientTest : public testing::Test {
 protected:
  ApiClient client(ScriptedServer& server) {
    access_.server = server.url();
    auto made = ApiServer::create(access_, options_, clock_);
    EXPECT_TRUE(made.ok());
    return {made.value(), cancel_};
  }

  static ApiOptions quick() {
    ApiOptions options;
    options.first_pause = Millis(1);
    options.tries = 3;
    return options;
  }

  SystemClock clock_;
  ClusterAccess access_;
  ApiOptions options_ = quick();
  std::shared_ptr<net::Cancel> cancel_ = net::Cancel::create().value();
};

TEST_F(ClientTest, SendsWhatTheApiExpects) {
  ScriptedServer server([](const Asked&, Conversation& with) { with.answer(200, kPod); });
  access_.login.token = "secret";
  access_.login.impersonation = {{"Impersonate-User", "boss"}};
  auto api = client(server);
  const ObjectRef pod{kPods, "train", "a", ""};
  ASSERT_TRUE(api.get(pod).ok());
  ASSERT_TRUE(api.apply(pod, pod_named("a"), {.dry_run = true}).ok());
  ASSERT_TRUE(api.patch({kNodes, "", "n1", "status"}, PatchType::kMerge, json::object{}).ok());
  ASSERT_TRUE(api.create(kLeases, "train", pod_named("l"), {.dry_run = true}).ok());
  RemoveOptions removal;
  removal.grace_seconds = 0;
  removal.uid = "u1";
  ASSERT_TRUE(api.remove(pod, removal).ok());

  const auto asked = server.asked();
  ASSERT_EQ(asked.size(), 5U);
  EXPECT_EQ(asked[0].method + " " + asked[0].target, "GET /api/v1/namespaces/train/pods/a");
  EXPECT_THAT(asked[0].head, HasSubstr("Authorization: Bearer secret\r\n"));
  EXPECT_THAT(asked[0].head, HasSubstr("Impersonate-User: boss\r\n"));
  EXPECT_EQ(asked[1].method + " " + asked[1].target,
            "PATCH /api/v1/namespaces/train/pods/a?fieldManager=quad&force=true&dryRun=All");
  EXPECT_THAT(asked[1].head, HasSubstr("Content-Type: application/apply-patch+yaml\r\n"));
  EXPECT_EQ(asked[2].target, "/api/v1/nodes/n1/status?fieldManager=quad");
  EXPECT_THAT(asked[2].head, HasSubstr("Content-Type: application/merge-patch+json\r\n"));
  EXPECT_EQ(asked[3].target,
            "/apis/coordination.k8s.io/v1/namespaces/train/leases?fieldManager=quad&dryRun=All");
  EXPECT_EQ(asked[4].method, "DELETE");
  EXPECT_EQ(asked[4].body,
            R"({"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background",)"
            R"("gracePeriodSeconds":0,"preconditions":{"uid":"u1"}})");
}

TEST_F(ClientTest, ListsPageByPageAndBeginsAnewWhenTheListExpires) {
  std::atomic<int> expired{0};
  ScriptedServer server([&](const Asked& asked, Conversation& with) {
    if (!asked.has("continue=")) {
      with.answer(200,
                  R"({"metadata":{"continue":"x/1","resourceVersion":"5"},"items":[{"n":1}]})");
    } else if (expired++ == 0) {
      with.answer(410, status(410, "Expired", "too old"));
    } else {
      with.answer(200, R"({"metadata":{"resourceVersion":"6"},"items":[{"n":2},{"n":3}]})");
    }
  });
  auto api = client(server);
  std::vector<std::int64_t> items;
  const auto version = api.list(
      kPods, "train", {"quad.io/job=1", "status.phase!=Failed"},
      [&](const json::object& item) { items.push_back(get_int(item, "n")); },
      [&] { items.clear(); });
  ASSERT_TRUE(version.ok()) << version.error().message;
  EXPECT_EQ(*version, "6");
  EXPECT_THAT(items, ElementsAre(1, 2, 3));
  EXPECT_EQ(server.asked()[1].target,
            "/api/v1/namespaces/train/pods?labelSelector=quad.io%2Fjob%3D1&fieldSelector="
            "status.phase%21%3DFailed&limit=100&continue=x%2F1");
}

TEST_F(ClientTest, ACreateThatFindsAnObjectBringsIt) {
  ScriptedServer server([](const Asked& asked, Conversation& with) {
    if (asked.method == "POST") {
      with.answer(409, status(409, "AlreadyExists", "pods a already exists"));
    } else {
      with.answer(200, kPod);
    }
  });
  auto api = client(server);
  const auto created = api.create(kPods, "train", pod_named("a"));
  ASSERT_TRUE(created.ok()) << created.error().message;
  EXPECT_TRUE(created->existed);
  EXPECT_FALSE(created->repeated) << "certainly somebody else's";
  EXPECT_EQ(get_string(*get_object(created->object, "metadata"), "uid"), "u1");
}

TEST_F(ClientTest, ACreateWhoseAnswerWasLostSaysSo) {
  std::atomic<int> posts{0};
  ScriptedServer server([&](const Asked& asked, Conversation& with) {
    if (asked.method == "GET") {
      with.answer(200, kPod);
    } else if (posts++ == 0) {
      with.hang_up();
    } else {
      with.answer(409, status(409, "AlreadyExists", "there"));
    }
  });
  auto api = client(server);
  const auto created = api.create(kPods, "train", pod_named("a"));
  ASSERT_TRUE(created.ok()) << created.error().message;
  EXPECT_TRUE(created->existed);
  EXPECT_TRUE(created->repeated);
}

TEST_F(ClientTest, AConflictInsideAQuotaIsTriedAgain) {
  std::atomic<int> posts{0};
  ScriptedServer server([&](const Asked&, Conversation& with) {
    if (posts++ == 0) {
      with.answer(409, status(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"));
    } else {
      with.answer(201, kPod);
    }
  });
  auto api = client(server);
  const auto created = api.create(kPods, "train", pod_named("a"));
  ASSERT_TRUE(created.ok()) << created.error().message;
  EXPECT_FALSE(created->existed);
  EXPECT_EQ(posts, 2);
}

TEST_F(ClientTest, HonoursRetryAfter) {
  std::atomic<int> count{0};
  ScriptedServer server([&](const Asked&, Conversation& with) {
    if (count++ == 0) {
      with.answer(429, "Too many requests", "Retry-After: 1\r\n");
    } else {
      with.answer(200, kPod);
    }
  });
  auto api = client(server);
  const auto begun = clock_.now().mono;
  ASSERT_TRUE(api.patch({kPods, "train", "a", ""}, PatchType::kJson, json::array{}).ok())
      << "a 429 says that nothing was done, so even a JSON patch is sent again";
  EXPECT_GE(clock_.now().mono - begun, Millis(1'000));
  EXPECT_EQ(count, 2);
}

TEST_F(ClientTest, GivesUpAfterItsTriesWithTheLastReason) {
  ScriptedServer server([](const Asked&, Conversation& with) {
    with.answer(500, status(500, "InternalError", "failed calling webhook"));
  });
  auto api = client(server);
  const auto failed = api.create(kPods, "train", pod_named("a"));
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(failed.error().message,
            "Cannot create pods 'train/a': failed calling webhook (500 InternalError).");
  EXPECT_EQ(api.last_failure().http, 500);
  EXPECT_EQ(server.asked().size(), 3U);
}

TEST_F(ClientTest, WhatIsNotSafeTwiceIsSentOnce) {
  ScriptedServer server([](const Asked&, Conversation& with) { with.hang_up(); });
  auto api = client(server);
  EXPECT_FALSE(api.patch({kPods, "train", "a", ""}, PatchType::kJson, json::array{}).ok());
  EXPECT_EQ(server.asked().size(), 1U);
  EXPECT_FALSE(api.post({kPods, "train", "a", "eviction"}, {}).ok());
  EXPECT_EQ(server.asked().size(), 2U);
}

TEST_F(ClientTest, ARefusalIsNotTriedAgain) {
  ScriptedServer server([](const Asked&, Conversation& with) {
    with.answer(403, status(403, "Forbidden", "exceeded quota"));
  });
  auto api = client(server);
  const auto failed = api.create(kPods, "train", pod_named("a"));
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::kDenied);
  EXPECT_EQ(server.asked().size(), 1U);
}

TEST_F(ClientTest, ARefusedTokenIsReadAgainOnce) {
  const auto folder = std::filesystem::temp_directory_path() / ("quad-client-" + random_hex(6));
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(write_file_atomically(folder / "token", "old").ok());
  access_.login.token_file = folder / "token";
  std::atomic<int> refused{0};
  ScriptedServer server([&](const Asked& asked, Conversation& with) {
    if (asked.head.find("Bearer new") != std::string::npos) {
      with.answer(200, kPod);
    } else {
      ++refused;
      with.answer(401, status(401, "Unauthorized", "Unauthorized"));
    }
  });
  auto api = client(server);
  const auto early = api.get({kPods, "train", "a", ""});
  ASSERT_FALSE(early.ok());
  EXPECT_EQ(early.error().code, ErrorCode::kDenied);
  EXPECT_EQ(refused, 2) << "once with each reading";
  ASSERT_TRUE(write_file_atomically(folder / "token", "new").ok());
  EXPECT_TRUE(eventually([&] { return api.get({kPods, "train", "a", ""}).ok(); }));
  std::filesystem::remove_all(folder);
}

TEST_F(ClientTest, TellsWhatARemovalMeans) {
  std::string body;
  int code = 200;
  ScriptedServer server([&](const Asked&, Conversation& with) { with.answer(code, body); });
  auto api = client(server);
  RemoveOptions options;
  const auto removal = [&](int with_code, std::string with_body) {
    code = with_code;
    body = std::move(with_body);
    const auto result = api.remove({kPods, "train", "a", ""}, options);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return *result;
  };
  EXPECT_EQ(removal(200, status(200, "", "")), Removal::kGone);
  EXPECT_EQ(removal(404, status(404, "NotFound", "no")), Removal::kGone);
  EXPECT_EQ(removal(200, R"({"kind":"Pod","metadata":{"deletionTimestamp":"x",)"
                         R"("deletionGracePeriodSeconds":30}})"),
            Removal::kTerminating);
  EXPECT_EQ(removal(200, R"({"kind":"Pod","metadata":{"deletionTimestamp":"x",)"
                         R"("deletionGracePeriodSeconds":0}})"),
            Removal::kGone);
  options.uid = "u0";
  EXPECT_EQ(removal(409, status(409, "Conflict", "the UID in the precondition does not match")),
            Removal::kReplaced);
}

TEST_F(ClientTest, AsksWhatIsAllowedAndWhatIsServed) {
  ScriptedServer server([](const Asked& asked, Conversation& with) {
    if (asked.method == "POST") {
      with.answer(201, R"({"status":{"allowed":false,"reason":"no role"}})");
    } else {
      with.answer(200, R"({"resources":[{"name":"pods/log","kind":"Pod","namespaced":true,)"
                       R"("verbs":["get"]}]})");
    }
  });
  auto api = client(server);
  const auto answer = api.may({"create", kPods, "exec", "train", ""});
  ASSERT_TRUE(answer.ok());
  EXPECT_FALSE(answer->allowed);
  EXPECT_EQ(answer->reason, "no role");
  EXPECT_THAT(server.asked()[0].body,
              HasSubstr(R"("resource":"pods","subresource":"exec","namespace":"train"})"));
  EXPECT_THAT(server.asked()[0].body, Not(HasSubstr("\"name\"")));
  const auto served = api.served("", "v1");
  ASSERT_TRUE(served.ok());
  ASSERT_EQ(served->size(), 1U);
  EXPECT_EQ(served->front().plural, "pods/log");
  EXPECT_THAT(served->front().verbs, ElementsAre("get"));
}

TEST_F(ClientTest, AServerThatIsNotThereIsUnavailable) {
  options_.tries = 2;
  std::uint16_t port = 0;
  {
    ScriptedServer server([](const Asked&, Conversation&) {});
    port = server.port();
    auto api = client(server);
  }
  access_.server = fmt::format("http://127.0.0.1:{}", port);
  ApiClient api(ApiServer::create(access_, options_, clock_).value(), cancel_);
  const auto failed = api.get({kNodes, "", "n1", ""});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(failed.error().message,
            fmt::format("Cannot get nodes 'n1': Cannot reach the Kubernetes API server at {}: "
                        "connection refused.",
                        access_.server));
}

TEST_F(ClientTest, ACancelEndsACallAtOnceWhateverItWaitsFor) {
  ScriptedServer server([](const Asked& asked, Conversation& with) {
    if (asked.has("/nodes/")) {
      with.answer(503, "", "Retry-After: 3600\r\n");
    } else {
      with.wait_closed();
    }
  });
  for (const auto& ref : {ObjectRef{kPods, "train", "a", ""}, ObjectRef{kNodes, "", "n", ""}}) {
    cancel_ = net::Cancel::create().value();
    const auto seen = server.asked().size();
    std::thread other([&] {
      EXPECT_TRUE(eventually([&] { return server.asked().size() > seen; }));
      cancel_->cancel();
    });
    options_.read_timeout = Millis(3'600'000);
    auto api = client(server);
    const auto failed = api.get(ref);
    other.join();
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code, ErrorCode::kUnavailable);
    EXPECT_THAT(failed.error().message, HasSubstr("was given up"));
  }
}

TEST_F(ClientTest, WritesOfAllClientsShareOneRate) {
  options_.writes_per_second = 20;
  options_.write_burst = 1;
  ScriptedServer server([](const Asked&, Conversation& with) { with.answer(201, kPod); });
  access_.server = server.url();
  const auto shared = ApiServer::create(access_, options_, clock_).value();
  const auto begun = clock_.now().mono;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      ApiClient api(shared, cancel_);
      for (int j = 0; j < 3; ++j) {
        EXPECT_TRUE(api.create(kPods, "train", pod_named("a")).ok());
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_GE(clock_.now().mono - begun, Millis(8 * 50));
}

}  // namespace
}  // namespace quad::kubernetes
