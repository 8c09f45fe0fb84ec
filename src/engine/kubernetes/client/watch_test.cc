#include "engine/kubernetes/client/watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "engine/kubernetes/client/scripted_server.h"

namespace quad::kubernetes {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string object(std::string_view name, std::string_view uid, int version) {
  return fmt::format(
      R"({{"metadata":{{"namespace":"x","name":"{}","uid":"{}","resourceVersion":"{}"}}}})", name,
      uid, version);
}
std::string event(std::string_view type, const std::string& object) {
  return fmt::format(R"({{"type":"{}","object":{}}})", type, object) + "\n";
}
std::string bookmark(int version) {
  return event("BOOKMARK", fmt::format(R"({{"metadata":{{"resourceVersion":"{}"}}}})", version));
}
std::string list(int version, const std::vector<std::string>& items) {
  return fmt::format(R"({{"metadata":{{"resourceVersion":"{}"}},"items":[{}]}})", version,
                     fmt::join(items, ","));
}

bool is_watch(const Asked& asked) {
  return asked.has("watch=true");
}
/// The version that a watch begins from; -1 for a list.
int from(const Asked& asked) {
  const auto at = asked.target.find("resourceVersion=");
  return at == std::string::npos ? -1 : std::stoi(asked.target.substr(at + 16));
}

class WatchTest : public testing::Test {
 protected:
  using Value = int;  ///< an object's resourceVersion, so that each version is a change

  void begin(ScriptedServer::Script script) {
    server_ = std::make_unique<ScriptedServer>(std::move(script));
    watch(server_->url());
  }
  void watch(const std::string& url) {
    ClusterAccess access;
    access.server = url;
    ApiOptions api;
    api.tries = 1;
    WatchOptions options;
    options.type = kPods;
    options.least_pause = Millis(1);
    options.most_pause = Millis(20);
    options.silence = silence_;
    options.most_line = 10'000;
    watcher_ = std::make_unique<Watcher<Value>>(
        ApiServer::create(access, api, clock_).value(), options,
        [](const json::object& found) -> std::optional<Value> {
          return std::stoi(
              std::string(get_string(*get_object(found, "metadata"), "resourceVersion")));
        },
        [this](const Change<Value>& change) {
          const std::lock_guard lock(mutex_);
          const char sign = change.kind == ChangeKind::kAdded     ? '+'
                            : change.kind == ChangeKind::kChanged ? '~'
                                                                  : '-';
          told_.push_back(fmt::format("{}{}@{}", sign, change.name, change.value));
        },
        [this](const WatchState& state) {
          const std::lock_guard lock(mutex_);
          states_.push_back(state);
        });
    ASSERT_TRUE(watcher_->start().ok());
  }

  ~WatchTest() override {
    if (watcher_ != nullptr) {
      watcher_->stop();
    }
  }

  std::vector<std::string> told() {
    const std::lock_guard lock(mutex_);
    return told_;
  }
  std::vector<WatchState> states() {
    const std::lock_guard lock(mutex_);
    return states_;
  }
  bool told_last(const std::string& what) {
    return eventually([&] {
      const auto all = told();
      return !all.empty() && all.back() == what;
    });
  }
  /// The versions that watches began from, with -1 for each list, in order.
  std::vector<int> history() {
    std::vector<int> versions;
    for (const auto& asked : server_->asked()) {
      versions.push_back(is_watch(asked) ? from(asked) : -1);
    }
    return versions;
  }

  SystemClock clock_;
  Millis silence_{20'000};
  std::mutex mutex_;
  std::vector<std::string> told_;
  std::vector<WatchState> states_;
  std::unique_ptr<ScriptedServer> server_;
  std::unique_ptr<Watcher<Value>> watcher_;
};

TEST_F(WatchTest, ListsThenWatchesFromWhereTheListEnds) {
  begin([](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, list(5, {object("a", "u1", 3)}));
      return;
    }
    with.begin_stream();
    with.chunk(event("ADDED", object("b", "u2", 6)) + event("MODIFIED", object("a", "u1", 7)));
    with.chunk(event("DELETED", object("b", "u2", 8)));
    with.wait_closed();
  });
  ASSERT_TRUE(watcher_->wait_synced(Millis(20'000)).ok());
  ASSERT_TRUE(told_last("-b@8"));
  EXPECT_THAT(told(), ElementsAre("+a@3", "+b@6", "~a@7", "-b@8"));
  const auto asked = server_->asked();
  EXPECT_EQ(from(asked[1]), 5);
  EXPECT_TRUE(asked[1].has("allowWatchBookmarks=true"));
  EXPECT_TRUE(watcher_->state().synced);
}

TEST_F(WatchTest, GoesOnFromItsLastVersionWhenTheServerCloses) {
  begin([](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, list(5, {}));
    } else if (from(asked) == 5) {
      with.begin_stream();
      with.chunk(event("ADDED", object("a", "u1", 6)));
      with.end_stream();
    } else if (from(asked) == 6) {
      with.begin_stream();
      with.chunk(bookmark(50));
      with.hang_up();  // in the middle of the body
    } else {
      with.begin_stream();
      with.chunk(event("MODIFIED", object("a", "u1", 51)));
      with.wait_closed();
    }
  });
  ASSERT_TRUE(told_last("~a@51"));
  EXPECT_THAT(told(), ElementsAre("+a@6", "~a@51"));
  EXPECT_THAT(history(), ElementsAre(-1, 5, 6, 50));
}

TEST_F(WatchTest, AnEventThatComesTwiceIsTakenOnce) {
  begin([](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, list(5, {object("a", "u1", 3)}));
      return;
    }
    with.begin_stream();
    with.chunk(event("ADDED", object("a", "u1", 3)) + event("MODIFIED", object("a", "u1", 6)) +
               event("MODIFIED", object("a", "u1", 6)) + event("DELETED", object("a", "u1", 7)) +
               event("DELETED", object("a", "u1", 7)) + event("ADDED", object("end", "u9", 9)));
    with.wait_closed();
  });
  ASSERT_TRUE(told_last("+end@9"));
  EXPECT_THAT(told(), ElementsAre("+a@3", "~a@6", "-a@7", "+end@9"));
}

class ExpiryTest : public WatchTest, public testing::WithParamInterface<bool> {};

TEST_P(ExpiryTest, IsMendedByAListAndItsDifferences) {
  const bool in_stream = GetParam();
  std::atomic<int> lists{0};
  begin([&, in_stream](const Asked& asked, Conversation& with) {
    const std::string expired =
        R"({"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"})";
    if (!is_watch(asked)) {
      with.answer(200, lists++ == 0 ? list(5, {object("kept", "u1", 1), object("gone", "u2", 2),
                                               object("new", "u3", 3), object("same", "u4", 4)})
                                    : list(90, {object("kept", "u1", 80), object("new", "u5", 81),
                                                object("same", "u4", 4)}));
    } else if (from(asked) == 5 && in_stream) {
      with.begin_stream();
      with.chunk(event("ERROR", expired));
      with.wait_closed();
    } else if (from(asked) == 5) {
      with.answer(410, expired);
    } else {
      with.begin_stream();
      with.wait_closed();
    }
  });
  ASSERT_TRUE(told_last("-gone@2"));
  auto news = told();
  news.erase(news.begin(), news.begin() + 4);
  EXPECT_THAT(news, ElementsAre("~kept@80", "-new@3", "+new@81", "-gone@2"));
  ASSERT_TRUE(eventually([&] { return history().size() == 4; }));
  EXPECT_THAT(history(), ElementsAre(-1, 5, -1, 90));
}

INSTANTIATE_TEST_SUITE_P(Watch, ExpiryTest, testing::Bool(), [](const auto& param) {
  return param.param ? "ToldInTheStream" : "ToldAtTheStart";
});

TEST_F(WatchTest, AListThatBreaksInTheMiddleRemovesNothing) {
  std::atomic<int> lists{0};
  begin([&](const Asked& asked, Conversation& with) {
    if (asked.has("continue=")) {
      if (lists == 2) {
        with.hang_up();
      } else {
        with.answer(200, list(90, {object("b", "u2", 2)}));
      }
    } else if (!is_watch(asked)) {
      ++lists;
      with.answer(200, R"({"metadata":{"continue":"c"},"items":[)" + object("a", "u1", 1) + "]}");
    } else if (lists == 1) {
      with.answer(410, "");
    } else {
      with.begin_stream();
      with.chunk(event("ADDED", object("end", "u9", 99)));
      with.wait_closed();
    }
  });
  ASSERT_TRUE(told_last("+end@99"));
  EXPECT_THAT(told(), ElementsAre("+a@1", "+b@2", "+end@99"));
  EXPECT_EQ(lists, 3);
}

TEST_F(WatchTest, ABrokenLineIsAskedForAgain) {
  std::atomic<int> broken{0};
  begin([&](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, list(5, {}));
      return;
    }
    with.begin_stream();
    if (from(asked) == 5) {
      with.chunk(event("ADDED", object("a", "u1", 6)));
      const auto next = event("ADDED", object("b", "u2", 7));
      with.chunk(next.substr(0, 20));
      with.chunk("\x01\n" + next);
      with.wait_closed();
    } else if (broken++ == 0) {
      const auto next = event("ADDED", object("b", "u2", 7));
      with.chunk(next.substr(0, next.size() / 2));  // the end of the connection in a line
      with.hang_up();
    } else {
      const auto next = event("ADDED", object("b", "u2", 7));
      for (const char c : next) {
        with.chunk(std::string_view(&c, 1));
      }
      with.wait_closed();
    }
  });
  ASSERT_TRUE(told_last("+b@7"));
  EXPECT_THAT(told(), ElementsAre("+a@6", "+b@7"));
  EXPECT_THAT(history(), ElementsAre(-1, 5, 6, 6));
}

TEST_F(WatchTest, ALineThatStaysBrokenIsPassedOverByAList) {
  std::atomic<int> lists{0};
  begin([&](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, lists++ == 0 ? list(5, {}) : list(9, {object("a", "u1", 8)}));
      return;
    }
    with.begin_stream();
    if (from(asked) == 5) {
      with.chunk("{\"type\":\n");
    }
    with.wait_closed();
  });
  ASSERT_TRUE(told_last("+a@8"));
  EXPECT_THAT(history(), testing::Contains(-1).Times(2));
  EXPECT_THAT(states().at(1).trouble, HasSubstr("sent a line that is no event"));
}

TEST_F(WatchTest, ALineWithoutEndIsNotKept) {
  std::atomic<int> lists{0};
  begin([&](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, lists++ == 0 ? list(5, {}) : list(9, {object("a", "u1", 8)}));
      return;
    }
    with.begin_stream();
    while (from(asked) == 5 && !with.ended()) {
      with.chunk(std::string(4'000, 'x'));
    }
    with.wait_closed();
  });
  ASSERT_TRUE(told_last("+a@8"));
  EXPECT_TRUE(eventually([&] { return watcher_->state().synced; }));
}

TEST_F(WatchTest, ASilentConnectionIsTakenForDead) {
  silence_ = Millis(100);
  begin([&](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, list(5, {}));
      return;
    }
    with.begin_stream();
    if (from(asked) == 5) {
      with.chunk(event("ADDED", object("a", "u1", 6)));
    } else if (server_->asked().size() == 4) {
      with.chunk(event("ADDED", object("b", "u2", 7)));
    }
    with.wait_closed();
  });
  ASSERT_TRUE(told_last("+b@7"));
  EXPECT_THAT(told(), ElementsAre("+a@6", "+b@7"));
}

TEST_F(WatchTest, SaysThatTheServerIsAwayAndSinceWhen) {
  begin([](const Asked& asked, Conversation& with) {
    if (!is_watch(asked)) {
      with.answer(200, list(5, {object("a", "u1", 3)}));
      return;
    }
    with.begin_stream();
    with.wait_closed();
  });
  ASSERT_TRUE(watcher_->wait_synced(Millis(20'000)).ok());
  const auto port = server_->port();
  const auto before = watcher_->state();
  EXPECT_TRUE(before.synced);
  EXPECT_FALSE(before.stale_since.has_value());
  server_.reset();
  ASSERT_TRUE(eventually([&] {
    return !watcher_->state().synced &&
           watcher_->state().trouble.find("connection refused") != std::string::npos;
  })) << watcher_->state().trouble;
  const auto away = watcher_->state();
  ASSERT_TRUE(away.stale_since.has_value());
  EXPECT_GE(*away.stale_since, before.heard);
  EXPECT_LE(*away.stale_since, away.heard);
  EXPECT_THAT(told(), ElementsAre("+a@3")) << "its absence says nothing of the objects";
  ScriptedServer again(
      [](const Asked& asked, Conversation& with) {
        if (is_watch(asked) && from(asked) == 5) {
          with.begin_stream();
          with.chunk(event("DELETED", object("a", "u1", 6)));
        }
        with.wait_closed();
      },
      port);
  ASSERT_TRUE(told_last("-a@6"));
  EXPECT_TRUE(watcher_->state().synced);
  EXPECT_FALSE(watcher_->state().stale_since.has_value());
  EXPECT_EQ(watcher_->state().trouble, "");
  watcher_->stop();
}

TEST_F(WatchTest, SaysWhyItNeverCameToBe) {
  begin([](const Asked&, Conversation& with) {
    with.answer(403, R"({"kind":"Status","reason":"Forbidden","message":"pods is forbidden"})");
  });
  ASSERT_TRUE(eventually([&] { return !watcher_->state().trouble.empty(); }));
  EXPECT_EQ(watcher_->wait_synced(Millis(1)).error().message,
            "Cannot list pods: pods is forbidden (403 Forbidden).");
  EXPECT_FALSE(watcher_->state().stale_since.has_value());
}

TEST_F(WatchTest, StopsAtOnceWhateverItWaitsFor) {
  silence_ = Millis(3'600'000);
  begin([](const Asked& asked, Conversation& with) {
    if (is_watch(asked)) {
      with.begin_stream();
      with.wait_closed();
    } else {
      with.answer(200, list(5, {}));
    }
  });
  ASSERT_TRUE(watcher_->wait_synced(Millis(20'000)).ok());
  watcher_->stop();  // in a stream
  watcher_->stop();
  begin([](const Asked&, Conversation& with) { with.wait_closed(); });
  ASSERT_TRUE(eventually([&] { return !server_->asked().empty(); }));
  watcher_->stop();  // in a list without an answer
}

}  // namespace
}  // namespace quad::kubernetes
