#include "net/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <boost/asio/awaitable.hpp>
#include <thread>

#include "base/file.h"
#include "net/test_server.h"

namespace quad::net {
namespace {

using boost::asio::awaitable;
using testing::HasSubstr;
using testing::StartsWith;

Router hello_router() {
  Router router;
  router.get("/hello", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response("hello"));
    co_return;
  });
  router.post("/hello", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response(exchange.request().body));
    co_return;
  });
  return router;
}

HttpClient client_of(ClientOptions options) {
  auto client = HttpClient::create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.error().message;
  return std::move(client).value();
}

TEST(HttpClient, SaysWhatIsWrongWithAnAddress) {
  for (const auto* url :
       {"", "localhost:8080", "ftp://x", "http://", "http://x:0", "http://x:99999", "http://x:1a",
        "http://[::1", "http://u@x", "http://x/?q", "unix:relative"}) {
    ClientOptions options;
    options.url = url;
    const auto client = HttpClient::create(options);
    ASSERT_FALSE(client.ok()) << url;
    EXPECT_EQ(client.error().code, ErrorCode::kInvalid);
    EXPECT_THAT(client.error().message, StartsWith("'" + std::string(url) + "' is not a server's"));
  }
}

TEST(HttpClient, SaysThatNobodyListens) {
  ClientOptions options;
  options.url = "http://127.0.0.1:1";
  const auto refused = client_of(options).get("/");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(refused.error().message,
            "Cannot reach the Quad server at http://127.0.0.1:1: connection refused.");
  options.url = "unix:/nowhere/quad.sock";
  EXPECT_EQ(client_of(options).get("/").error().message,
            "Cannot reach the Quad server at unix:/nowhere/quad.sock: there is no such socket, so "
            "no server runs there.");
}

TEST(HttpClient, PutsThePrefixBeforeTheTarget) {
  Router router;
  router.get("/behind/proxy/hello", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response("found"));
    co_return;
  });
  TestServer server(std::move(router));
  ClientOptions options;
  options.url = server.url() + "/behind/proxy/";
  EXPECT_EQ(client_of(options).get("/hello")->body, "found");
}

TEST(HttpClient, ConnectsAgainWhenTheServerHasClosedTheIdleConnection) {
  auto options = test_options();
  options.idle_timeout = Millis(300);
  TestServer server(hello_router(), options);
  auto client = server.client();
  for (std::uint64_t round = 1; round <= 2; ++round) {
    const auto response = client.post("/hello", "again");
    ASSERT_TRUE(response.ok()) << response.error().message;
    EXPECT_EQ(response->body, "again");
    while (server.counters().connections != 0) {
      std::this_thread::yield();
    }
    EXPECT_EQ(server.counters().accepted, round);
  }
}

TEST(HttpClient, GivesUpOnAServerThatSaysNothing) {
  Router router;
  router.get("/never",
             [](Exchange& exchange) -> awaitable<void> { co_await exchange.wait_closed(); });
  TestServer server(std::move(router));
  auto client = server.client(Millis(50));
  const auto response = client.get("/never");
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(response.error().message, "The Quad server sent nothing for 50 ms.");
}

TEST(HttpClient, CollectsAnErrorsBodyInsteadOfStreamingIt) {
  TestServer server(hello_router());
  auto client = server.client();
  bool streamed = false;
  const auto response = client.stream(
      "GET", "/nowhere",
      [&](std::string_view) {
        streamed = true;
        return true;
      },
      Millis(20'000));
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_FALSE(streamed);
  EXPECT_EQ(response->to_error().code, ErrorCode::kNotFound);
}

TEST(HttpClient, UploadsFromAPipe) {
  TestServer server(hello_router());
  auto client = server.client();
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  ASSERT_TRUE(write_all(writer.get(), "through a pipe").ok());
  writer.reset();
  const auto response = client.upload("POST", "/hello", reader.get());
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->body, "through a pipe");
}

TEST(HttpClient, TrustsNoCertificateThatItCannotVerify) {
  TestServer server(hello_router());
  ClientOptions options;
  options.url = server.tls_url();
  const auto unknown = client_of(options).get("/hello");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::kDenied);
  EXPECT_THAT(unknown.error().message, HasSubstr("self-signed certificate"));

  options.ca_file = server.certificate();
  EXPECT_EQ(client_of(options).get("/hello")->body, "hello");
  options.url = "https://127.0.0.1:" + std::to_string(server.tls_port());
  EXPECT_EQ(client_of(options).get("/hello")->body, "hello");

  TestServer other(hello_router());
  options.url = other.tls_url();
  EXPECT_FALSE(client_of(options).get("/hello").ok()) << "another server's key";
  options.verify_certificate = false;
  EXPECT_EQ(client_of(options).get("/hello")->body, "hello");
}

TEST(HttpClient, TrustsNoCertificateOfAnotherName) {
  TestServer server(hello_router());
  std::uint16_t port = 0;
  server.on_io([&] {
    port = server.server()
               .listen_tls("127.0.0.2", 0, {server.certificate(), server.key()})
               .value_or(0);
  });
  ClientOptions options;
  options.ca_file = server.certificate();
  options.url = "https://127.0.0.2:" + std::to_string(port);
  const auto refused = client_of(options).get("/hello");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kDenied);
  EXPECT_THAT(refused.error().message, HasSubstr("IP address mismatch"));
}

TEST(HttpClient, TellsTlsFromPlain) {
  TestServer server(hello_router());
  ClientOptions options;
  options.url = "https://127.0.0.1:" + std::to_string(server.port());
  options.verify_certificate = false;
  const auto tls_to_plain = client_of(options).get("/hello");
  ASSERT_FALSE(tls_to_plain.ok());
  EXPECT_THAT(tls_to_plain.error().message, StartsWith("Cannot speak TLS with the Quad server at"));
  options.url = "http://127.0.0.1:" + std::to_string(server.tls_port());
  EXPECT_FALSE(client_of(options).get("/hello").ok());
}

}  // namespace
}  // namespace quad::net
