#include "engine/kubernetes/writers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <vector>

namespace quad::kubernetes {
namespace {

TEST(Writers, TheMostUrgentGoesFirst) {
  SystemClock clock;
  ClusterAccess access;
  access.server = "http://127.0.0.1:1";
  auto server = ApiServer::create(access, {}, clock);
  auto cancel = net::Cancel::create();
  ASSERT_TRUE(server.ok() && cancel.ok());
  Writers writers(*server, *cancel, 1);

  std::promise<void> begun;
  std::promise<void> all_given;
  std::promise<void> last_done;
  std::vector<std::string> done;
  const auto note = [&done](const char* what) {
    return [&done, what](ApiClient&) { done.emplace_back(what); };
  };
  writers.give(Urgency::kClear, [&](ApiClient& /*client*/) {
    begun.set_value();
    all_given.get_future().wait();
  });
  begun.get_future().wait();
  writers.give(Urgency::kClear, [&](ApiClient& /*client*/) { last_done.set_value(); });
  writers.give(Urgency::kPrepare, note("secret 1"));
  writers.give(Urgency::kPrepare, note("secret 2"));
  writers.give(Urgency::kStart, note("pod"));
  writers.give(Urgency::kStop, note("kill"));
  all_given.set_value();
  last_done.get_future().wait();
  writers.end();
  EXPECT_THAT(done, testing::ElementsAre("kill", "pod", "secret 1", "secret 2"));
}

}  // namespace
}  // namespace quad::kubernetes
