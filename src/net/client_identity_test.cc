// What a client needs to reach a cluster's API server: certificates from memory, a name to check
// that is not the URL's, a proxy on the way, and an end to its waits from another thread.

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/text.h"
#include "net/http_client.h"
#include "net/test_server.h"

namespace quad::net {
namespace {

using boost::asio::awaitable;
using testing::HasSubstr;

/// A listening socket on 127.0.0.1 and a thread that takes its connections one by one.
class Listener {
 public:
  explicit Listener(std::function<void(int fd)> take) : take_(std::move(take)) {
    fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(fd_.get(), 16), 0);
    ::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      while (true) {
        const UniqueFd taken(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!taken) {
          return;
        }
        take_(taken.get());
      }
    });
  }
  ~Listener() {
    ::shutdown(fd_.get(), SHUT_RDWR);
    thread_.join();
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  [[nodiscard]] std::string port() const { return std::to_string(port_); }

 private:
  std::function<void(int)> take_;
  UniqueFd fd_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

std::string read_head(int fd) {
  std::string head;
  char one = 0;
  while (!head.ends_with("\r\n\r\n") && ::recv(fd, &one, 1, 0) == 1) {
    head += one;
  }
  return head;
}

void send_all(int fd, std::string_view text) {
  EXPECT_TRUE(write_all(fd, text).ok());
}

/// Carries bytes both ways until one side ends.
void carry(int a, int b) {
  std::array<pollfd, 2> ends{pollfd{a, POLLIN, 0}, pollfd{b, POLLIN, 0}};
  std::array<char, 4096> buffer{};
  while (::poll(ends.data(), ends.size(), -1) > 0) {
    for (int i = 0; i < 2; ++i) {
      if (ends[i].revents != 0) {
        const auto got = ::recv(ends[i].fd, buffer.data(), buffer.size(), 0);
        if (got <= 0 || ::send(ends[1 - i].fd, buffer.data(), static_cast<std::size_t>(got),
                               MSG_NOSIGNAL) != got) {
          return;
        }
      }
    }
  }
}

UniqueFd connect_local(std::uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

class IdentityTest : public testing::Test {
 protected:
  IdentityTest() {
    std::filesystem::create_directories(folder_);
    make_certificate(folder_ / "server.pem", folder_ / "server.key");
    make_certificate(folder_ / "client.pem", folder_ / "client.key");
    make_certificate(folder_ / "other.pem", folder_ / "other.key");
  }
  ~IdentityTest() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string pem(const std::string& name) const {
    return read_file(folder_ / name).value_or("");
  }
  [[nodiscard]] ClientOptions options(const Listener& server) const {
    ClientOptions options;
    options.url = "https://127.0.0.1:" + server.port();
    options.peer = "Kubernetes API server";
    options.ca_pem = pem("server.pem");
    options.certificate_pem = pem("client.pem");
    options.key_pem = pem("client.key");
    return options;
  }
  static Result<ClientResponse> get(ClientOptions options) {
    return HttpClient::create(std::move(options)).value().get("/");
  }

  /// Answers one request over TLS with the name that it was asked for; only to whom it knows.
  void answer(int fd) const {
    SSL_CTX* context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate_file(context, (folder_ / "server.pem").c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(context, (folder_ / "server.key").c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_load_verify_locations(context, (folder_ / "client.pem").c_str(), nullptr);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    SSL* session = SSL_new(context);
    SSL_set_fd(session, fd);
    if (SSL_accept(session) == 1) {
      std::array<char, 4096> request{};
      SSL_read(session, request.data(), request.size());
      const char* name = SSL_get_servername(session, TLSEXT_NAMETYPE_host_name);
      const std::string body = name == nullptr ? "no name" : name;
      const std::string response =
          "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
      SSL_write(session, response.data(), static_cast<int>(response.size()));
      SSL_shutdown(session);
    }
    ERR_clear_error();
    SSL_free(session);
    SSL_CTX_free(context);
  }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("quad-identity-" + random_hex(6));
};

TEST_F(IdentityTest, ShowsACertificateFromMemory) {
  const Listener server([this](int fd) { answer(fd); });
  const auto response = get(options(server));
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->body, "no name") << "an address is no server name";
  auto nobody = options(server);
  nobody.certificate_pem = nobody.key_pem = "";
  EXPECT_EQ(get(nobody).error().code, ErrorCode::kUnavailable);
  auto stranger = options(server);
  stranger.certificate_pem = pem("other.pem");
  stranger.key_pem = pem("other.key");
  EXPECT_EQ(get(stranger).error().code, ErrorCode::kUnavailable);
}

TEST_F(IdentityTest, TrustsAuthoritiesFromMemory) {
  const Listener server([this](int fd) { answer(fd); });
  auto trusting = options(server);
  trusting.ca_pem = pem("other.pem");
  const auto refused = get(trusting);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kDenied);
  EXPECT_THAT(refused.error().message,
              HasSubstr("The certificate of the Kubernetes API server at https://127.0.0.1:"));
  // Any of several; not beside other.pem, which has the same subject.
  trusting.ca_pem =
      read_file("/etc/ssl/certs/ca-certificates.crt").value_or("") + pem("server.pem");
  const auto response = get(trusting);
  EXPECT_TRUE(response.ok()) << response.error().message;
}

TEST_F(IdentityTest, ChecksTheNameThatItIsTold) {
  const Listener server([this](int fd) { answer(fd); });
  auto named = options(server);
  named.tls_server_name = "localhost";
  const auto response = get(named);
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->body, "localhost");
  named.tls_server_name = "kubernetes";
  EXPECT_EQ(get(named).error().code, ErrorCode::kDenied);
}

TEST_F(IdentityTest, SaysWhatIsWrongWithItsOwnCertificate) {
  const Listener server([this](int fd) { answer(fd); });
  auto bad = options(server);
  bad.certificate_pem = "nonsense";
  EXPECT_THAT(get(bad).error().message, HasSubstr("there is no PEM certificate in it"));
  bad = options(server);
  bad.key_pem = pem("other.key");
  EXPECT_THAT(get(bad).error().message, HasSubstr("the key beside it belongs to another"));
  bad.key_pem = "nonsense";
  EXPECT_THAT(get(bad).error().message, HasSubstr("there is no PEM key"));
  bad = options(server);
  bad.ca_pem = "nonsense";
  EXPECT_THAT(get(bad).error().message, HasSubstr("has no PEM certificate in it"));
  EXPECT_EQ(get(bad).error().code, ErrorCode::kInvalid);
}

TEST_F(IdentityTest, GoesThroughAProxy) {
  Router router;
  router.get("/hello", [](Exchange& exchange) -> awaitable<void> {
    exchange.respond(text_response("hello"));
    co_return;
  });
  TestServer server(std::move(router));
  std::string head;
  const Listener proxy([&](int fd) {
    head = read_head(fd);
    send_all(fd, "HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n");
    const auto target = connect_local(server.tls_port());
    carry(fd, target.get());
  });
  ClientOptions options;
  options.url = server.tls_url();
  options.ca_file = server.certificate();
  options.proxy = "http://me:secret@127.0.0.1:" + proxy.port();
  {
    auto client = HttpClient::create(options).value();
    for (int i = 0; i < 2; ++i) {
      const auto response = client.get("/hello");
      ASSERT_TRUE(response.ok()) << response.error().message;
      EXPECT_EQ(response->body, "hello");
    }
  }
  const auto authority = "localhost:" + std::to_string(server.tls_port());
  EXPECT_EQ(head, "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority +
                      "\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n");
}

TEST_F(IdentityTest, SaysThatAProxyRefuses) {
  const Listener proxy([](int fd) {
    read_head(fd);
    send_all(fd, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
  });
  ClientOptions options;
  options.url = "https://api.lab:6443";
  options.peer = "Kubernetes API server";
  options.proxy = "127.0.0.1:" + proxy.port();
  const auto refused = get(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "Cannot reach the Kubernetes API server at https://api.lab:6443: the proxy at "
            "http://127.0.0.1:" +
                proxy.port() + " does not connect: 407 Proxy Authentication Required.");
}

// Each wait of a client, ended from another thread.
class CancelTest : public testing::Test {
 protected:
  /// Cancels once `waiting`; returns what the request ended with.
  Result<ClientResponse> cancelled(ClientOptions options, const std::function<bool()>& waiting) {
    const auto cancel = Cancel::create().value();
    options.cancel = cancel;
    options.connect_timeout = options.read_timeout = Millis(3'600'000);
    auto client = HttpClient::create(std::move(options)).value();
    std::thread other([&] {
      const auto until = std::chrono::steady_clock::now() + kPatience;
      while (!waiting() && std::chrono::steady_clock::now() < until) {
        std::this_thread::yield();
      }
      cancel->cancel();
    });
    auto response = client.post("/", "{}");
    other.join();
    EXPECT_FALSE(client.get("/").ok()) << "once cancelled, it stays so";
    return response;
  }

  static void expect_given_up(const Result<ClientResponse>& response) {
    ASSERT_FALSE(response.ok());
    EXPECT_EQ(response.error().code, ErrorCode::kUnavailable);
    EXPECT_THAT(response.error().message, HasSubstr("was given up, as asked"));
  }

  /// Takes what comes, without a word, until the client leaves.
  std::atomic<int> taken_{0};
  Listener silent_{[this](int fd) {
    ++taken_;
    std::array<char, 4096> buffer{};
    while (::recv(fd, buffer.data(), buffer.size(), 0) > 0) {
    }
  }};
};

TEST_F(CancelTest, EndsTheWaitForAnAnswer) {
  ClientOptions options;
  options.url = "http://127.0.0.1:" + silent_.port();
  expect_given_up(cancelled(options, [&] { return taken_ > 0; }));
}

TEST_F(CancelTest, EndsAHandshake) {
  ClientOptions options;
  options.url = "https://127.0.0.1:" + silent_.port();
  expect_given_up(cancelled(options, [&] { return taken_ > 0; }));
}

TEST_F(CancelTest, EndsTheWaitForAProxy) {
  ClientOptions options;
  options.url = "https://api.lab:6443";
  options.proxy = "http://127.0.0.1:" + silent_.port();
  expect_given_up(cancelled(options, [&] { return taken_ > 0; }));
}

TEST_F(CancelTest, EndsASleepAndAnEndlessWait) {
  const auto cancel = Cancel::create().value();
  EXPECT_TRUE(cancel->sleep(Millis(1)));
  std::thread other([&] { cancel->cancel(); });
  EXPECT_FALSE(cancel->sleep(Millis(3'600'000)));
  other.join();
  EXPECT_FALSE(cancel->sleep(Millis(0)));
  EXPECT_EQ(wait_for_fd(-1, 0, Millis(0), cancel.get()), Waited::kCancelled);
}

TEST_F(CancelTest, AStreamThatNeverPausesIsEndedToo) {
  const Listener flood([](int fd) {
    read_head(fd);
    const std::string chunk = "1000\r\n" + std::string(0x1000, 'x') + "\r\n";
    std::string out = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    while (::send(fd, out.data(), out.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(out.size())) {
      out = chunk;
    }
  });
  ClientOptions options;
  options.url = "http://127.0.0.1:" + flood.port();
  options.cancel = Cancel::create().value();
  auto client = HttpClient::create(options).value();
  bool head_first = false;
  std::size_t got = 0;
  const auto response = client.stream(
      "GET", "/",
      [&](std::string_view piece) {
        got += piece.size();
        if (got > 100'000) {
          options.cancel->cancel();
        }
        return true;
      },
      Millis(20'000), {}, {},
      [&](const ClientResponse& head) { head_first = head.status == 200 && got == 0; });
  EXPECT_FALSE(response.ok());
  EXPECT_TRUE(head_first);
}

TEST_F(CancelTest, ANameIsStillResolved) {
  addrinfo* found = nullptr;
  if (::getaddrinfo("LOCALHOST", nullptr, nullptr, &found) != 0) {
    GTEST_SKIP() << "this machine has no /etc/hosts";
  }
  ::freeaddrinfo(found);
  TestServer server(Router{});
  ClientOptions options;
  // Not "localhost" itself, which never reaches the resolver.
  options.url = "http://LOCALHOST:" + std::to_string(server.port());
  options.cancel = Cancel::create().value();
  const auto response = HttpClient::create(options).value().get("/");
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(response->status, 404);
  options.url = "http://quad-no-such-host.invalid:1";
  options.connect_timeout = Millis(500);
  EXPECT_THAT(HttpClient::create(options).value().get("/").error().message,
              HasSubstr("the name 'quad-no-such-host.invalid' d"));
}

}  // namespace
}  // namespace quad::net
