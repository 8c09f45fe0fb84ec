#include "net/stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <chrono>

#include "net/sse.h"
#include "net/test_server.h"

namespace quad::net {
namespace {

using boost::asio::awaitable;
using testing::HasSubstr;
using testing::StartsWith;

/// What a handler tells the test, each once.
struct Signal {
  std::promise<void> promise;
  std::future<void> future = promise.get_future();
  std::atomic<bool> done = false;

  void set() {
    if (!done.exchange(true)) {
      promise.set_value();
    }
  }
  bool wait() { return future.wait_for(kPatience) == std::future_status::ready; }
};

/// A handler that starts a stream, says so, and waits for the end.
Handler waiting_stream(Signal& started, Signal& ended) {
  return [&](Exchange& exchange) -> awaitable<void> {
    auto stream = co_await exchange.start_stream(200, "text/plain");
    const auto sent = co_await stream.write("first");
    started.set();
    if (sent.ok()) {
      co_await stream.wait_closed();
    }
    ended.set();
  };
}

/// A handler that sends back what it gets.
awaitable<void> echo_upgrade(Exchange& exchange) {
  auto upgraded = co_await exchange.upgrade("quad-echo");
  if (!upgraded.ok()) {
    exchange.respond_error(upgraded.error());
    co_return;
  }
  auto stream = *upgraded;
  std::array<char, 4096> buffer{};
  while (true) {
    const auto got = co_await stream.read_some(buffer);
    if (!got.ok() || *got == 0) {
      co_return;
    }
    const auto sent = co_await stream.write(std::string_view(buffer.data(), *got));
    if (!sent.ok()) {
      co_return;
    }
  }
}

TEST(BodyStream, EventsReachTheClientAsTheyAreSentAndTheConnectionServesOn) {
  Router router;
  router.get("/events", [](Exchange& exchange) -> awaitable<void> {
    auto stream = co_await exchange.start_stream(200, std::string(kSseContentType));
    for (int i = 1; i <= 50; ++i) {
      std::string text;
      append_sse(text, std::to_string(i), "tick",
                 std::string(static_cast<std::size_t>(i) * 100, 'x'));
      const auto sent = co_await stream.write(text);
      if (!sent.ok()) {
        co_return;
      }
    }
  });
  TestServer server(std::move(router));
  auto plain = server.client();
  auto tls = server.tls_client();
  auto local = server.unix_client();
  for (auto* client : {&plain, &tls, &local}) {
    for (int round = 0; round < 3; ++round) {
      SseParser parser;
      std::vector<std::string> ids;
      const auto response = client->stream(
          "GET", "/events",
          [&](std::string_view piece) {
            return parser
                .feed(piece,
                      [&](const SseEvent& event) {
                        ids.push_back(event.id);
                        return true;
                      })
                .ok();
          },
          Millis(20'000));
      ASSERT_TRUE(response.ok()) << response.error().message;
      EXPECT_EQ(response->header("content-type"), "text/event-stream");
      ASSERT_EQ(ids.size(), 50U);
      EXPECT_EQ(ids.back(), "50");
    }
  }
  EXPECT_EQ(server.counters().accepted, 3U) << "a stream's end does not cost the connection";
}

TEST(BodyStream, APipelinedRequestBehindAStreamIsServed) {
  Router router;
  router.get("/stream", [](Exchange& exchange) -> awaitable<void> {
    auto stream = co_await exchange.start_stream(200, "text/plain");
    static_cast<void>(co_await stream.write("piece"));
  });
  router.get("/next", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response("next"));
    co_return;
  });
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(
      client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(client.read_until("0\r\n\r\n"), HasSubstr("5\r\npiece\r\n"));
  EXPECT_THAT(client.read_response(), StartsWith("HTTP/1.1 200 "));
}

TEST(BodyStream, TheClientsLeavingWakesTheHandler) {
  Signal started;
  Signal ended;
  Router router;
  router.get("/stream", waiting_stream(started, ended));
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  EXPECT_THAT(client.read_until("first"), HasSubstr("first"));
  client.close();
  EXPECT_TRUE(ended.wait());
}

TEST(BodyStream, TheClientsLeavingWakesTheHandlerOverTls) {
  Signal started;
  Signal ended;
  Router router;
  router.get("/stream", waiting_stream(started, ended));
  TestServer server(std::move(router));
  auto client = server.tls_client();
  const auto response = client.stream(
      "GET", "/stream", [](std::string_view) { return false; }, Millis(20'000));
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_TRUE(ended.wait());
}

TEST(BodyStream, ACallbackCanWakeAHandlerThatWaitsForNews) {
  Signal started;
  Signal ended;
  Router router;
  router.get("/poll", [&](Exchange& exchange) -> awaitable<void> {
    Wakeup wakeup(exchange.executor());
    exchange.on_closed([&wakeup] { wakeup.notify(); });
    started.set();
    const bool woken = co_await wakeup.wait_for(Millis(60'000));
    if (woken && exchange.closed()) {
      ended.set();
    }
    exchange.respond(text_response("late"));
  });
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /poll HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  client.close();
  EXPECT_TRUE(ended.wait());
}

TEST(BodyStream, AHandlerThatOnlyWaitedForTheClientToLeaveIsNoFault) {
  Signal started;
  Signal reported;
  auto options = test_options();
  options.on_access = [&](const AccessRecord&) { reported.set(); };
  Router router;
  router.get("/poll", [&](Exchange& exchange) -> awaitable<void> {
    started.set();
    co_await exchange.wait_closed();
  });
  TestServer server(std::move(router), options);
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /poll HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  client.close();
  ASSERT_TRUE(reported.wait());
  EXPECT_EQ(server.counters().faults, 0U);
}

TEST(BodyStream, ASlowReaderHoldsBackItsWriterAndNobodyElse) {
  std::atomic<std::uint64_t> written = 0;
  Signal blocked;
  constexpr std::uint64_t kAll = 64ULL << 20U;
  Router router;
  router.get("/big", [&](Exchange& exchange) -> awaitable<void> {
    auto stream = co_await exchange.start_stream(200, "text/plain");
    const std::string piece(64U << 10U, 'x');
    while (written < kAll) {
      const auto sent = co_await stream.write(piece);
      if (!sent.ok()) {
        co_return;
      }
      written += piece.size();
    }
  });
  router.get("/written", [&](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response(std::to_string(written)));
    co_return;
  });
  TestServer server(std::move(router));
  RawClient slow(server.port(), 16U << 10U);
  ASSERT_TRUE(slow.send("GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  slow.read_until("\r\n\r\n");
  // The writer is stuck when the count no longer grows over many exchanges of another client.
  auto other = server.client();
  std::string last;
  for (int same = 0; same < 200;) {
    const auto now = other.get("/written");
    ASSERT_TRUE(now.ok()) << now.error().message;
    same = now->body == last && now->body != "0" ? same + 1 : 0;
    last = now->body;
  }
  EXPECT_LT(written, kAll / 2) << "what the kernel holds, and no more";
  EXPECT_GT(slow.read_all().size(), kAll - (8U << 20U)) << "it all comes when it is read";
  EXPECT_EQ(written, kAll);
}

TEST(BodyStream, AReaderThatTakesNothingIsCutOff) {
  Signal cut_off;
  auto options = test_options();
  options.write_timeout = Millis(100);
  Router router;
  router.get("/big", [&](Exchange& exchange) -> awaitable<void> {
    auto stream = co_await exchange.start_stream(200, "text/plain");
    const std::string piece(256U << 10U, 'x');
    while (true) {
      const auto sent = co_await stream.write(piece);
      if (!sent.ok()) {
        cut_off.set();
        co_return;
      }
    }
  });
  TestServer server(std::move(router), options);
  RawClient stuck(server.port(), 16U << 10U);
  ASSERT_TRUE(stuck.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_TRUE(cut_off.wait());
}

TEST(RawStream, AReaderThatTakesNothingIsWaitedForWhereThatIsWanted) {
  constexpr std::size_t kAll = 16U << 20U;
  for (const bool patient : {false, true}) {
    Signal ended;
    std::atomic<bool> sent_all = false;
    auto options = test_options();
    options.write_timeout = Millis(50);
    Router router;
    router.get("/big", [&](Exchange& exchange) -> awaitable<void> {
      auto upgraded = co_await exchange.upgrade("quad-echo");
      auto stream = *upgraded;
      if (patient) {
        stream.wait_for_slow_reader();
      }
      const std::string piece(256U << 10U, 'x');
      for (std::size_t sent = 0; sent < kAll; sent += piece.size()) {
        const auto written = co_await stream.write(piece);
        if (!written.ok()) {
          ended.set();
          co_return;
        }
      }
      sent_all = true;
      ended.set();
    });
    TestServer server(std::move(router), options);
    RawClient stuck(server.port(), 16U << 10U);
    ASSERT_TRUE(stuck.send(
        "GET /big HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: quad-echo\r\n\r\n"));
    if (patient) {
      // Other requests are answered meanwhile, for many times as long as the timeout.
      const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
      while (std::chrono::steady_clock::now() < until) {
        static_cast<void>(server.client().get("/none"));
      }
      EXPECT_GT(stuck.read_all().size(), kAll);
    }
    EXPECT_TRUE(ended.wait());
    EXPECT_EQ(sent_all, patient);
  }
}

TEST(BodyStream, AnExceptionCutsTheBodyShortVisibly) {
  Router router;
  router.get("/broken", [](Exchange& exchange) -> awaitable<void> {
    auto stream = co_await exchange.start_stream(200, "text/plain");
    static_cast<void>(co_await stream.write("some"));
    throw std::runtime_error("the file is gone");
  });
  TestServer server(std::move(router));
  auto client = server.client();
  const auto response = client.get("/broken");
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code, ErrorCode::kUnavailable);
}

TEST(BodyStream, AHeadRequestEndsAStreamAtItsHead) {
  Signal started;
  Signal ended;
  Router router;
  router.get("/stream", waiting_stream(started, ended));
  TestServer server(std::move(router));
  auto client = server.client();
  const auto response = client.request("HEAD", "/stream");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->status, 200);
  EXPECT_TRUE(ended.wait());
}

TEST(Upgrade, CarriesBytesBothWaysOverTcpAndTls) {
  Router router;
  router.get("/echo", echo_upgrade);
  TestServer server(std::move(router));
  auto plain = server.client();
  auto tls = server.tls_client();
  for (auto* client : {&plain, &tls}) {
    auto result = client->upgrade("/echo", "quad-echo");
    ASSERT_TRUE(result.ok()) << result.error().message;
    ASSERT_EQ(result->response.status, 101);
    EXPECT_EQ(result->response.header("upgrade"), "quad-echo");
    for (std::size_t size : {1U, 100U, 30'000U}) {
      const std::string text(size, 'e');
      ASSERT_TRUE(result->stream->write(text).ok());
      std::string back;
      while (back.size() < size) {
        std::array<char, 4096> buffer{};
        const auto got = result->stream->read_some(buffer, Millis(20'000));
        ASSERT_TRUE(got.ok()) << got.error().message;
        ASSERT_GT(*got, 0U);
        back.append(buffer.data(), *got);
      }
      EXPECT_EQ(back, text);
    }
    EXPECT_EQ(client->get("/nowhere")->status, 404) << "the client makes a new connection";
  }
}

TEST(Upgrade, BytesSentRightBehindTheRequestAreNotLost) {
  Router router;
  router.get("/echo", echo_upgrade);
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(
      client.send("GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
                  "quad-echo\r\n\r\nearly"));
  EXPECT_THAT(client.read_until("\r\n\r\n"), StartsWith("HTTP/1.1 101 "));
  EXPECT_EQ(client.read_until("early"), "early");
}

TEST(Upgrade, ARequestThatDoesNotAskForItIsRefused) {
  Router router;
  router.get("/echo", echo_upgrade);
  TestServer server(std::move(router));
  auto client = server.client();
  EXPECT_EQ(client.get("/echo")->status, 400);
  const auto other = client.upgrade("/echo", "websocket");
  ASSERT_TRUE(other.ok()) << other.error().message;
  EXPECT_EQ(other->response.status, 400);
  EXPECT_EQ(other->stream, nullptr);
}

TEST(RawStream, AProxyRelaysAWholeConnection) {
  Router inner;
  inner.get("/hello", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response("from within"));
    co_return;
  });
  TestServer upstream(std::move(inner));
  const auto port = upstream.port();
  Router router;
  router.get("/proxy/{rest...}", [port](Exchange& exchange) -> awaitable<void> {
    auto there = co_await connect_tcp("127.0.0.1", port, Millis(5'000));
    if (!there.ok()) {
      exchange.respond_error(there.error());
      co_return;
    }
    const std::string head = "GET /" + std::string(exchange.parameter("rest")) +
                             " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    const auto sent = co_await there->write(head);
    auto here = co_await exchange.take_over();
    if (sent.ok() && here.ok()) {
      co_await relay(*here, *there);
    }
  });
  TestServer server(std::move(router));
  auto plain = server.client();
  auto tls = server.tls_client();
  for (auto* client : {&plain, &tls}) {
    const auto response = client->get("/proxy/hello");
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_EQ(response->body, "from within");
  }
}

TEST(RawStream, SaysThatNobodyListens) {
  Router router;
  router.get("/", [](Exchange& exchange) -> awaitable<void> {
    auto tcp = co_await connect_tcp("127.0.0.1", 1, Millis(5'000));
    auto local = co_await connect_unix("/nowhere/socket");
    exchange.respond(text_response(tcp.error().message + " " + local.error().message));
  });
  TestServer server(std::move(router));
  auto client = server.client();
  EXPECT_EQ(client.get("/")->body,
            "Cannot connect to 127.0.0.1:1: Connection refused. Cannot connect to "
            "/nowhere/socket: No such file or directory.");
}

TEST(Stop, EndsIdleConnectionsStreamsAndUpgradesAtOnce) {
  Signal started;
  Signal ended;
  Router router;
  router.get("/stream", waiting_stream(started, ended));
  router.get("/echo", echo_upgrade);
  TestServer server(std::move(router));
  auto idle = server.client();
  auto idle_tls = server.tls_client();
  EXPECT_EQ(idle.get("/nowhere")->status, 404);
  EXPECT_EQ(idle_tls.get("/nowhere")->status, 404);
  auto upgraded = server.client().upgrade("/echo", "quad-echo");
  ASSERT_TRUE(upgraded.ok()) << upgraded.error().message;
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  server.stop(Millis(60'000));
  EXPECT_TRUE(ended.wait());
  EXPECT_TRUE(server.finished()) << "long before the grace is over";
  EXPECT_THAT(client.read_all(), testing::Not(testing::EndsWith("0\r\n\r\n")))
      << "a stream that the stop ended must not look complete";
}

TEST(Stop, LetsARequestInFlightFinish) {
  Signal started;
  Signal go;
  std::shared_ptr<Wakeup> wakeup;
  Router router;
  router.get("/slow", [&](Exchange& exchange) -> awaitable<void> {
    wakeup = std::make_shared<Wakeup>(exchange.executor());
    const auto mine = wakeup;
    started.set();
    co_await mine->wait();
    exchange.respond(text_response("done"));
  });
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  server.stop(Millis(60'000));
  server.on_io([&] {
    wakeup->notify();
    wakeup.reset();  // it may not outlive the io_context
  });
  const auto response = client.read_all();
  EXPECT_THAT(response, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(response, HasSubstr("Connection: close"));
  EXPECT_TRUE(server.finished());
}

TEST(Stop, TellsAWaitingRequestToComeBackLater) {
  Signal started;
  Router router;
  router.get("/poll", [&](Exchange& exchange) -> awaitable<void> {
    started.set();
    co_await exchange.wait_closed();
  });
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /poll HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  server.stop(Millis(60'000));
  EXPECT_THAT(client.read_all(), StartsWith("HTTP/1.1 503 "));
}

TEST(Stop, CancelsWhatOutlastsTheGrace) {
  Signal started;
  Signal unwound;
  struct Guard {
    Signal& signal;
    ~Guard() { signal.set(); }
  };
  Router router;
  router.get("/forever", [&](Exchange& exchange) -> awaitable<void> {
    const Guard guard{unwound};
    Wakeup wakeup(exchange.executor());
    started.set();
    while (true) {
      co_await wakeup.wait();
    }
  });
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /forever HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(started.wait());
  server.stop(Millis(50));
  EXPECT_TRUE(unwound.wait());
  EXPECT_TRUE(server.finished());
}

}  // namespace
}  // namespace quad::net
