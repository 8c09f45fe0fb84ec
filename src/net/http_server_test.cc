#include "net/http_server.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <random>
#include <stdexcept>

#include "base/file.h"
#include "net/test_server.h"

namespace quad::net {
namespace {

using boost::asio::awaitable;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

/// Answers with what it was asked.
awaitable<void> echo(Exchange& exchange) {
  auto& request = exchange.request();
  exchange.respond(text_response(std::string(request.method) + " " + std::string(request.path) +
                                 " " + request.body));
  co_return;
}

Router echo_router() {
  Router router;
  router.get("/echo", echo);
  router.post("/echo", echo);
  router.get("/v1/jobs/{id}/logs", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response(std::string(exchange.parameter("id"))));
    co_return;
  });
  router.get("/throw", [](Exchange&) -> awaitable<void> {
    throw std::runtime_error("the disk is on fire");
    co_return;
  });
  router.get("/silent", [](Exchange&) -> awaitable<void> { co_return; });
  return router;
}

TEST(HttpServer, GivesParametersDecodedAndKeepsAnEscapedSlashInside) {
  TestServer server(echo_router());
  auto client = server.client();
  const auto response = client.get("/v1/jobs/a%2Fb%20c/logs?x=1");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "a/b c");
}

TEST(HttpServer, AnswersWhatIsNotThereWithJsonErrors) {
  TestServer server(echo_router());
  auto client = server.client();
  const auto missing = client.get("/nowhere");
  ASSERT_TRUE(missing.ok()) << missing.error().message;
  EXPECT_EQ(missing->status, 404);
  EXPECT_EQ(missing->header("content-type"), "application/json");
  EXPECT_EQ(missing->to_error().code, ErrorCode::kNotFound);
  EXPECT_EQ(missing->to_error().message, "There is nothing at '/nowhere'.");

  const auto wrong = client.request("DELETE", "/echo");
  ASSERT_TRUE(wrong.ok()) << wrong.error().message;
  EXPECT_EQ(wrong->status, 405);
  EXPECT_EQ(wrong->header("allow"), "GET, HEAD, POST");
}

TEST(HttpServer, AHandlerThatThrowsAnswers500AndTheConnectionLivesOn) {
  std::atomic<int> faults = 0;
  auto options = test_options();
  options.on_fault = [&](std::string_view what) {
    EXPECT_THAT(std::string(what),
                testing::AnyOf(HasSubstr("the disk is on fire"), HasSubstr("gave no answer")));
    ++faults;
  };
  TestServer server(echo_router(), options);
  auto client = server.client();
  for (const auto* path : {"/throw", "/silent"}) {
    const auto response = client.get(path);
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_EQ(response->status, 500);
    EXPECT_THAT(response->body, Not(HasSubstr("fire")))
        << "what a fault was is not the client's business";
  }
  EXPECT_EQ(client.get("/echo")->status, 200);
  EXPECT_EQ(server.counters().accepted, 1U);
  EXPECT_EQ(faults, 2);
}

TEST(HttpServer, ServesManyRequestsOnOneConnection) {
  TestServer server(echo_router());
  auto client = server.client();
  for (int i = 0; i < 100; ++i) {
    const auto response = client.post("/echo", std::to_string(i));
    ASSERT_TRUE(response.ok()) << response.error().message;
    ASSERT_EQ(response->body, "POST /echo " + std::to_string(i));
  }
  EXPECT_EQ(server.counters().accepted, 1U);
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  TestServer server(echo_router());
  RawClient client(server.port());
  std::string requests;
  for (int i = 0; i < 20; ++i) {
    const auto body = "number " + std::to_string(i);
    requests += "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body;
  }
  ASSERT_TRUE(client.send(requests));
  for (int i = 0; i < 20; ++i) {
    const auto response = client.read_response();
    EXPECT_THAT(response, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(response, testing::EndsWith("POST /echo number " + std::to_string(i)));
  }
}

TEST(HttpServer, UnderstandsChunkedBodiesHoweverTheyAreCut) {
  TestServer server(echo_router());
  const std::string request =
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5;ext=1\r\nhello\r\n1\r\n \r\nA\r\nwide world\r\n0\r\nTrailer: y\r\n\r\n";
  RawClient client(server.port());
  for (std::size_t size = 1; size < request.size(); size += 7) {
    for (std::size_t at = 0; at < request.size(); at += size) {
      ASSERT_TRUE(client.send(std::string_view(request).substr(at, size)));
    }
    EXPECT_THAT(client.read_response(), HasSubstr("POST /echo hello wide world")) << size;
  }
}

TEST(HttpServer, RefusesABodyPastTheLimitWithoutReadingIt) {
  auto options = test_options();
  options.body_limit = 1000;
  TestServer server(echo_router(), options);
  auto client = server.client();
  EXPECT_EQ(client.post("/echo", std::string(1000, 'x'))->status, 200);
  const auto response = client.post("/echo", std::string(1001, 'x'));
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->status, 413);
  EXPECT_EQ(response->to_error().code, ErrorCode::kExhausted);

  const auto huge = client.post("/echo", std::string(20U << 20U, 'x'));
  ASSERT_TRUE(huge.ok()) << huge.error().message;
  EXPECT_EQ(huge->status, 413);

  RawClient chunked(server.port());
  ASSERT_TRUE(
      chunked.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" +
                   std::string(1001, 'x') + "\r\n0\r\n\r\n"));
  EXPECT_THAT(chunked.read_response(), StartsWith("HTTP/1.1 413 "));
}

TEST(HttpServer, StreamsALargeUploadToItsHandler) {
  Router router;
  router.add("PUT", "/blob",
             [](Exchange& exchange) -> awaitable<void> {
               std::uint64_t sum = 0;
               auto taken = co_await exchange.read_body_to(
                   [&sum](std::string_view piece) -> Status {
                     for (const char c : piece) {
                       sum += static_cast<unsigned char>(c);
                     }
                     return {};
                   },
                   64U << 20U);
               if (!taken.ok()) {
                 exchange.respond_error(taken.error());
                 co_return;
               }
               exchange.respond(text_response(std::to_string(*taken) + " " + std::to_string(sum)));
             },
             {BodyMode::kStreamed});
  TestServer server(std::move(router));
  const std::string path = server.certificate() + ".blob";
  std::string blob(20U << 20U, '\0');
  std::uint64_t sum = 0;
  std::minstd_rand random(7);
  for (auto& c : blob) {
    c = static_cast<char>(random());
    sum += static_cast<unsigned char>(c);
  }
  ASSERT_TRUE(write_file_atomically(path, blob).ok());
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto plain = server.client();
  auto tls = server.tls_client();
  for (auto* client : {&plain, &tls}) {
    ASSERT_EQ(::lseek(file.get(), 0, SEEK_SET), 0);
    const auto response = client->upload("PUT", "/blob", file.get());
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_EQ(response->body, std::to_string(blob.size()) + " " + std::to_string(sum));
  }
}

TEST(HttpServer, AStreamedUploadPastItsBoundIsRefusedWhileItIsBeingSent) {
  Router router;
  router.add("PUT", "/blob",
             [](Exchange& exchange) -> awaitable<void> {
               auto taken = co_await exchange.read_body_to(
                   [](std::string_view) -> Status { return {}; }, 1U << 20U);
               if (!taken.ok()) {
                 exchange.respond(error_response(413, "exhausted", taken.error().message));
               }
             },
             {BodyMode::kStreamed});
  TestServer server(std::move(router));
  const std::string path = server.certificate() + ".blob";
  ASSERT_TRUE(write_file_atomically(path, std::string(40U << 20U, 'x')).ok());
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto plain = server.client();
  auto tls = server.tls_client();
  for (auto* client : {&plain, &tls}) {
    ASSERT_EQ(::lseek(file.get(), 0, SEEK_SET), 0);
    const auto response = client->upload("PUT", "/blob", file.get());
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_EQ(response->status, 413);
  }
}

TEST(HttpServer, TellsAClientThatAsksFirstToGoOn) {
  TestServer server(echo_router());
  RawClient client(server.port());
  ASSERT_TRUE(
      client.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                  "Content-Length: 5\r\n\r\n"));
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(client.send("hello"));
  EXPECT_THAT(client.read_response(), HasSubstr("POST /echo hello"));
}

TEST(HttpServer, TheFilterAnswersBeforeTheBodyIsRead) {
  auto router = echo_router();
  router.before([](Exchange& exchange) {
    if (!exchange.request().header("AUTHORIZATION").has_value()) {
      exchange.respond_error(error(ErrorCode::kUnauthenticated, "Log in first."));
    }
  });
  TestServer server(std::move(router));
  RawClient client(server.port());
  ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"));
  const auto response = client.read_response();
  EXPECT_THAT(response, StartsWith("HTTP/1.1 401 "));
  EXPECT_THAT(response, HasSubstr("Connection: close"));
  RawClient good(server.port());
  ASSERT_TRUE(good.send("GET /echo HTTP/1.1\r\nHost: x\r\nauthorization: y\r\n\r\n"));
  EXPECT_THAT(good.read_response(), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServer, AHeadRequestGetsTheLengthWithoutTheBody) {
  TestServer server(echo_router());
  RawClient client(server.port());
  ASSERT_TRUE(client.send("HEAD /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  const auto response = client.read_all();
  EXPECT_THAT(response, HasSubstr("Content-Length: 11\r\n"));
  EXPECT_THAT(response, testing::EndsWith("\r\n\r\n"));
}

TEST(HttpServer, SpeaksHttp10) {
  TestServer server(echo_router());
  RawClient client(server.port());
  ASSERT_TRUE(client.send("GET /echo HTTP/1.0\r\n\r\n"));
  EXPECT_THAT(client.read_all(), testing::EndsWith("GET /echo "));
}

TEST(HttpServer, AHeaderCannotBeSmuggledIntoAResponse) {
  Router router;
  router.get("/", [](Exchange& exchange) -> awaitable<void> {
    auto response = text_response("x");
    response.headers.emplace_back("X-Name", "a\r\nSet-Cookie: b");
    exchange.respond(std::move(response));
    co_return;
  });
  TestServer server(std::move(router));
  auto client = server.client();
  const auto response = client.get("/");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->header("set-cookie"), std::nullopt);
}

struct Refusal {
  std::string name;
  std::string bytes;
  std::string answer;
};

void PrintTo(const Refusal& refusal, std::ostream* out) {
  *out << refusal.name;
}

class Refused : public testing::TestWithParam<Refusal> {};

TEST_P(Refused, IsAnsweredAndTheConnectionClosed) {
  auto options = test_options();
  options.header_limit = 4096;
  TestServer server(echo_router(), options);
  RawClient client(server.port());
  client.send(GetParam().bytes);
  EXPECT_THAT(client.read_all(), StartsWith("HTTP/1.1 " + GetParam().answer));
  auto other = server.client();
  EXPECT_EQ(other.get("/echo")->status, 200) << "the server lives on";
}

INSTANTIATE_TEST_SUITE_P(
    HttpServer, Refused,
    testing::Values(
        Refusal{"NoHttp", "hello there\r\n\r\n", "400"},
        Refusal{"Tls", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 15),
                "400"},
        Refusal{"NoHost", "GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n", "400"},
        Refusal{
            "TwoLengths",
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "400"},
        Refusal{"LengthAndChunked",
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: "
                "chunked\r\n\r\n0\r\n\r\n",
                "400"},
        Refusal{"UnknownEncoding",
                "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabc", "501"},
        Refusal{"BadChunk",
                "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                "400"},
        Refusal{"LongHeader", "GET /echo HTTP/1.1\r\nHost: x\r\nX: " + std::string(9000, 'y'),
                "431"},
        Refusal{"LongTarget", "GET /" + std::string(9000, 'y'), "431"},
        Refusal{"ManyHeaders",
                [] {
                  std::string text = "GET /echo HTTP/1.1\r\nHost: x\r\n";
                  for (int i = 0; i < 1000; ++i) {
                    text += "A: b\r\n";
                  }
                  return text + "\r\n";
                }(),
                "431"},
        Refusal{"BrokenEscape", "GET /%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "400"},
        Refusal{"NulInPath", "GET /a%00b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "400"},
        Refusal{"Expectation",
                "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\nContent-Length: "
                "100000\r\n\r\n",
                "417"}),
    [](const auto& test) { return test.param.name; });

TEST(HttpServer, NoGarbageKillsIt) {
  TestServer server(echo_router());
  std::mt19937 random(20261123);
  const std::string valid =
      "POST /echo?a=b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: "
      "keep-alive\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /v1/jobs/1/logs HTTP/1.1\r\nHost: x\r\n\r\n";
  for (int round = 0; round < 400; ++round) {
    std::string bytes;
    if (round % 2 == 0) {
      bytes.resize(random() % 300);
      for (auto& c : bytes) {
        c = static_cast<char>(random());
      }
    } else {
      bytes = valid;
      for (auto changes = random() % 6 + 1; changes > 0; --changes) {
        const auto at = random() % bytes.size();
        switch (random() % 3) {
          case 0:
            bytes[at] = static_cast<char>(random());
            break;
          case 1:
            bytes.erase(at, random() % 5);
            break;
          default:
            bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 20));
            break;
        }
      }
    }
    RawClient client(server.port());
    const auto cut = bytes.empty() ? 0 : random() % bytes.size();
    client.send(std::string_view(bytes).substr(0, cut));
    client.send(std::string_view(bytes).substr(cut));
    client.end_writing();
    if (round % 4 < 2) {
      client.read_all();
    }
  }
  auto client = server.client();
  const auto response = client.get("/echo");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->status, 200);
}

TEST(HttpServer, ASlowHeadAndAnIdleConnectionAreClosed) {
  auto options = test_options();
  options.header_timeout = Millis(300);
  options.idle_timeout = Millis(300);
  TestServer server(echo_router(), options);
  RawClient slow(server.port());
  ASSERT_TRUE(slow.send("GET /echo HT"));
  EXPECT_THAT(slow.read_all(), StartsWith("HTTP/1.1 408 "));
  RawClient idle(server.port());
  ASSERT_TRUE(idle.send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(idle.read_response(), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(idle.read_all(), "");
  RawClient tls(server.tls_port());
  EXPECT_EQ(tls.read_all(), "") << "a TLS handshake that does not begin";
}

TEST(HttpServer, ASlowBodyIsRefused) {
  auto options = test_options();
  options.body_timeout = Millis(50);
  TestServer server(echo_router(), options);
  RawClient client(server.port());
  ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhel"));
  EXPECT_THAT(client.read_all(), StartsWith("HTTP/1.1 408 "));
}

TEST(HttpServer, ABodyThatDripsIsRefusedAsWell) {
  auto options = test_options();
  options.body_timeout = Millis(200);
  TestServer server(echo_router(), options);
  RawClient client(server.port());
  ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"));
  // Never silent for long, and yet no faster than a few hundred bytes a second.
  std::promise<void> never;
  const auto pause = never.get_future();
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (client.send("x") && std::chrono::steady_clock::now() < give_up) {
    pause.wait_for(std::chrono::milliseconds(10));
    if (server.counters().connections == 0) {
      break;
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now(), give_up) << "it was let to drip";
}

TEST(HttpServer, AStreamThatIsAbortedIsSeenToBeCutShort) {
  Router router;
  router.get("/cut", [](Exchange& exchange) -> awaitable<void> {
    const std::string type = "text/plain";
    BodyStream stream = co_await exchange.start_stream(200, type);
    const Status sent = co_await stream.write("the first half");
    EXPECT_TRUE(sent.ok());
    stream.abort();
    EXPECT_TRUE(stream.closed());
  });
  TestServer server(std::move(router));
  auto client = server.client();
  const auto response = client.get("/cut");
  ASSERT_FALSE(response.ok()) << response->body;
  EXPECT_EQ(response.error().code, ErrorCode::kUnavailable);
}

/// Lets in whoever names itself in the header Who, and keeps room for those who begin with
/// "runner". GET /follow is a stream that lasts until its client goes.
Router guarded_router() {
  Router router = echo_router();
  router.get("/follow", [](Exchange& exchange) -> awaitable<void> {
    const std::string type = "text/plain";
    BodyStream stream = co_await exchange.start_stream(200, type);
    const Status sent = co_await stream.write("begun");
    EXPECT_TRUE(sent.ok());
    co_await stream.wait_closed();
  });
  router.before([](Exchange& exchange) {
    if (const auto who = exchange.request().header("Who")) {
      const Status admitted = exchange.admit(*who, who->starts_with("runner"));
      if (!admitted.ok()) {
        exchange.respond_error(admitted.error());
      }
    }
  });
  return router;
}

std::string request_of(std::string_view who, std::string_view target) {
  return "GET " + std::string(target) + " HTTP/1.1\r\nHost: x\r\nWho: " + std::string(who) +
         "\r\n\r\n";
}

TEST(HttpServer, AUnixSocketHasRoomWhenStrangersFilledTheRest) {
  auto options = test_options();
  options.max_connections = 1;
  TestServer server(guarded_router(), options);
  RawClient follower(server.port());
  follower.send(request_of("alice", "/follow"));
  ASSERT_THAT(follower.read_until("begun"), HasSubstr("200 OK"));
  auto second = server.client();
  EXPECT_EQ(second.get("/echo")->status, 503);
  for (int i = 0; i < 3; ++i) {
    auto own = server.unix_client();
    EXPECT_EQ(own.get("/echo")->status, 200);
  }
}

TEST(HttpServer, BeyondItsRoomItAnswers503WhenAllAreAtWork) {
  auto options = test_options();
  options.max_connections = 2;
  TestServer server(guarded_router(), options);
  RawClient runner(server.port());
  runner.send(request_of("runner", "/follow"));
  ASSERT_THAT(runner.read_until("begun"), HasSubstr("200 OK"));
  RawClient follower(server.port());
  follower.send(request_of("alice", "/follow"));
  ASSERT_THAT(follower.read_until("begun"), HasSubstr("200 OK"));
  auto third = server.client();
  const auto response = third.get("/echo");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->status, 503);
  EXPECT_EQ(response->header("retry-after"), "1");
  EXPECT_EQ(response->to_error().code, ErrorCode::kUnavailable);
}

TEST(HttpServer, StrangersWithHalfARequestMakeRoomForOthers) {
  auto options = test_options();
  options.max_connections = 20;
  TestServer server(guarded_router(), options);
  RawClient follower(server.port());
  follower.send(request_of("alice", "/follow"));
  ASSERT_THAT(follower.read_until("begun"), HasSubstr("200 OK"));
  std::vector<std::unique_ptr<RawClient>> crowd;
  for (int i = 0; i < 60; ++i) {
    crowd.push_back(std::make_unique<RawClient>(server.port()));
    crowd.back()->send("GET /echo HTTP/1.1\r\nHost: x\r\nX-Slow: ");
  }
  for (int i = 0; i < 20; ++i) {
    auto client = server.client();
    EXPECT_EQ(client.get("/echo")->status, 200);
  }
  EXPECT_LE(server.counters().connections, 12U) << "strangers have half of the room";
  EXPECT_GT(server.counters().rejected, 40U);
  EXPECT_EQ(crowd.front()->read_all(), "") << "the first of the crowd were sent away";
}

TEST(HttpServer, OneCallerHasHalfOfTheRoomAndItsIdleConnectionsGoFirst) {
  auto options = test_options();
  options.max_connections = 8;
  TestServer server(guarded_router(), options);
  RawClient idle(server.port());
  idle.send(request_of("alice", "/echo"));
  ASSERT_THAT(idle.read_until("GET /echo "), HasSubstr("200 OK"));
  std::vector<std::unique_ptr<RawClient>> followers;
  for (int i = 0; i < 4; ++i) {
    followers.push_back(std::make_unique<RawClient>(server.port()));
    followers.back()->send(request_of("alice", "/follow"));
    ASSERT_THAT(followers.back()->read_until("begun"), HasSubstr("200 OK")) << i;
  }
  EXPECT_EQ(idle.read_all(), "") << "it made room for the fourth";
  RawClient fifth(server.port());
  fifth.send(request_of("alice", "/follow"));
  EXPECT_THAT(fifth.read_until("}}"), HasSubstr("alice has as many connections as one caller may"));
  RawClient other(server.port());
  other.send(request_of("bob", "/follow"));
  EXPECT_THAT(other.read_until("begun"), HasSubstr("200 OK"));
  RawClient runner(server.port());
  runner.send(request_of("runner", "/follow"));
  EXPECT_THAT(runner.read_until("begun"), HasSubstr("200 OK"));
}

TEST(HttpServer, ARouteRefusesBeforeTheBodyIsRead) {
  Router router;
  router.add("POST", "/guarded", echo,
             {BodyMode::kBuffered, 64U << 20U, [](Exchange& exchange) {
                exchange.respond_error(error(ErrorCode::kDenied, "Not for you"));
              }});
  TestServer server(std::move(router));
  RawClient client(server.port());
  client.send("POST /guarded HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\nonly a little");
  EXPECT_THAT(client.read_until("}}"), StartsWith("HTTP/1.1 403 "));
}

TEST(HttpServer, LargeBodiesAreBoundedTogetherAndForEachCaller) {
  Router router = guarded_router();
  router.add("POST", "/large", echo, {BodyMode::kBuffered, 64U << 20U});
  auto options = test_options();
  options.buffer_limit = 8U << 20U;
  TestServer server(std::move(router), options);
  const auto begin = [&](std::string_view who, std::string_view length) {
    auto client = std::make_unique<RawClient>(server.port());
    client->send("POST /large HTTP/1.1\r\nHost: x\r\nWho: " + std::string(who) +
                 "\r\nExpect: 100-continue\r\n" + std::string(length) + "\r\n\r\n");
    return client;
  };
  auto first = begin("alice", "Content-Length: 3000000");
  ASSERT_THAT(first->read_until("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  auto second = begin("alice", "Content-Length: 3000000");
  EXPECT_THAT(second->read_until("}}"), StartsWith("HTTP/1.1 429 "));
  auto other = begin("bob", "Content-Length: 3000000");
  ASSERT_THAT(other->read_until("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  auto third = begin("carol", "Content-Length: 3000000");
  EXPECT_THAT(third->read_until("}}"), StartsWith("HTTP/1.1 503 "));
  auto small = server.client();
  EXPECT_EQ(small.post("/echo", std::string(60'000, 'x'))->status, 200) << "small ones always go";
  // What an answered request held is there for the next one; a chunked body counts as it comes.
  first->send(std::string(3'000'000, 'x'));
  ASSERT_THAT(first->read_until("POST /large"), StartsWith("HTTP/1.1 200 "));
  auto chunked = begin("alice", "Transfer-Encoding: chunked");
  ASSERT_THAT(chunked->read_until("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  for (int i = 0; i < 5; ++i) {
    chunked->send("100000\r\n" + std::string(0x100000, 'x') + "\r\n");
  }
  EXPECT_THAT(chunked->read_until("}}"), StartsWith("HTTP/1.1 429 "));
}

TEST(HttpServer, RunsOutOfDescriptorsWithoutSpinningAndRecovers) {
  TestServer server(echo_router());
  auto early = server.client();
  ASSERT_EQ(early.get("/echo")->status, 200);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // All descriptors below the limit are taken, so that the server cannot accept.
  std::vector<UniqueFd> hoard;
  const rlimit tight{256, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  const int spare = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  while (true) {
    UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd) {
      break;
    }
    hoard.push_back(std::move(fd));
  }
  ::close(spare);
  {
    RawClient waiting(server.port());  // takes the spare one
    rusage start{};
    getrusage(RUSAGE_SELF, &start);
    EXPECT_EQ(early.get("/echo")->status, 200) << "who is in is served";
    std::promise<void> later;
    EXPECT_EQ(later.get_future().wait_for(std::chrono::milliseconds(300)),
              std::future_status::timeout);
    rusage end{};
    getrusage(RUSAGE_SELF, &end);
    const auto used = [](const rusage& r) {
      return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1'000'000 + r.ru_utime.tv_usec +
             r.ru_stime.tv_usec;
    };
    EXPECT_LT(used(end) - used(start), 150'000) << "microseconds of CPU in 300 ms of shortage";
    hoard.clear();
    ASSERT_TRUE(waiting.send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
    EXPECT_THAT(waiting.read_response(), StartsWith("HTTP/1.1 200 "));
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(HttpServer, ServesAUnixSocketForItsOwnerOnlyAndKnowsTheUser) {
  Router router;
  router.get("/who", [](Exchange& exchange) -> awaitable<void> {
    const auto& request = exchange.request();
    exchange.respond(text_response(std::string(request.peer) + " " +
                                   std::to_string(request.peer_uid.value_or(99999))));
    co_return;
  });
  TestServer server(std::move(router));
  struct stat info {};
  ASSERT_EQ(::stat(server.socket_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  auto client = server.unix_client();
  const auto response = client.get("/who");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->body, "unix " + std::to_string(::getuid()));
  auto tcp = server.client();
  EXPECT_THAT(tcp.get("/who")->body, StartsWith("127.0.0.1:"));
}

TEST(HttpServer, DoesNotTakeALiveServersSocketButReplacesADeadOnes) {
  TestServer live(echo_router());
  boost::asio::io_context io;
  HttpServer second(io, echo_router());
  const auto taken = second.listen_unix(live.socket_path());
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code, ErrorCode::kExists);

  const auto stale = live.socket_path() + ".stale";
  ASSERT_TRUE(write_file_atomically(stale, "").ok());
  const auto replaced = second.listen_unix(stale);
  EXPECT_TRUE(replaced.ok()) << replaced.error().message;
  struct stat info {};
  ASSERT_EQ(::stat(stale.c_str(), &info), 0);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
}

TEST(HttpServer, SaysWhyItCannotListen) {
  TestServer live(echo_router());
  boost::asio::io_context io;
  HttpServer second(io, echo_router());
  EXPECT_EQ(second.listen_tcp("127.0.0.1", live.port()).error().code, ErrorCode::kExists);
  EXPECT_EQ(second.listen_tcp("example.org", 0).error().code, ErrorCode::kInvalid);
  EXPECT_EQ(second.listen_tls("127.0.0.1", 0, {"/nowhere.pem", "/nowhere.pem"}).error().code,
            ErrorCode::kInvalid);
  EXPECT_EQ(second.listen_unix("/" + std::string(200, 'x')).error().code, ErrorCode::kInvalid);
}

TEST(HttpServer, ServesTls) {
  TestServer server(echo_router());
  auto client = server.tls_client();
  for (int i = 0; i < 3; ++i) {
    const auto response = client.post("/echo", std::string(100'000, 'x'));
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_EQ(response->body.size(), 100'011U);
  }
  EXPECT_EQ(server.counters().accepted, 1U);
}

TEST(HttpServer, ShowsNewConnectionsARenewedCertificate) {
  TestServer server(echo_router());
  TestServer other(echo_router());
  auto before = server.tls_client();
  ASSERT_TRUE(before.post("/echo", "x").ok());
  Status used;
  server.on_io([&] {
    EXPECT_FALSE(server.server().use_certificate({other.certificate(), server.key()}).ok())
        << "a key of another one";
    used = server.server().use_certificate({other.certificate(), other.key()});
  });
  ASSERT_TRUE(used.ok()) << used.error().message;
  EXPECT_TRUE(before.post("/echo", "x").ok()) << "what is open stays";
  EXPECT_FALSE(server.tls_client().post("/echo", "x").ok());
  ClientOptions options;
  options.url = server.tls_url();
  options.ca_file = other.certificate();
  auto after = HttpClient::create(options);
  ASSERT_TRUE(after.ok());
  EXPECT_TRUE(after->post("/echo", "x").ok());
}

TEST(HttpServer, ReportsEachExchange) {
  std::promise<std::string> seen;
  auto options = test_options();
  options.on_access = [&](const AccessRecord& record) {
    seen.set_value(std::string(record.request.route) + " " + std::to_string(record.status));
  };
  TestServer server(echo_router(), options);
  auto client = server.client();
  ASSERT_TRUE(client.get("/v1/jobs/9/logs").ok());
  auto future = seen.get_future();
  ASSERT_EQ(future.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(future.get(), "/v1/jobs/{id}/logs 200");
}

}  // namespace
}  // namespace quad::net
