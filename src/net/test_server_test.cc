// The bodies of test_server.h; named as a test so that it is built into the test program only.

#include "net/test_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <charconv>
#include <cstdio>

#include "base/text.h"

namespace quad::net {

struct TestServer::Io {
  boost::asio::io_context context{1};
};

ServerOptions test_options() {
  ServerOptions options;
  options.tick = Millis(10);
  options.write_timeout = Millis(60'000);
  return options;
}

TestServer::TestServer(Router router, ServerOptions options)
    : folder_(std::filesystem::temp_directory_path() / ("quad-net-" + random_hex(6))),
      io_(std::make_unique<Io>()),
      server_(std::make_unique<HttpServer>(io_->context, std::move(router), std::move(options))) {
  std::filesystem::create_directories(folder_);
  make_certificate(certificate(), key());
  auto port = server_->listen_tcp("127.0.0.1", 0);
  EXPECT_TRUE(port.ok()) << port.error().message;
  port_ = *port;
  auto tls_port = server_->listen_tls("127.0.0.1", 0, {certificate(), key()});
  EXPECT_TRUE(tls_port.ok()) << tls_port.error().message;
  tls_port_ = *tls_port;
  const auto listening = server_->listen_unix(socket_path());
  EXPECT_TRUE(listening.ok()) << listening.error().message;
  thread_ = std::thread([this] {
    io_->context.run();
    ended_.set_value();
  });
}

TestServer::~TestServer() {
  stop(Millis(0));
  EXPECT_TRUE(finished()) << "the io_context did not run out of work after stop(0)";
  io_->context.stop();
  thread_.join();
  server_.reset();
  std::filesystem::remove_all(folder_);
}

void TestServer::on_io(const std::function<void()>& work) {
  std::promise<void> done;
  boost::asio::post(io_->context, [&] {
    work();
    done.set_value();
  });
  if (done.get_future().wait_for(kPatience) != std::future_status::ready) {
    std::abort();  // `done` is gone when this returns
  }
}

void TestServer::stop(Millis grace) {
  boost::asio::post(io_->context, [this, grace] { server_->stop(grace); });
}

bool TestServer::finished() {
  return end_.wait_for(kPatience) == std::future_status::ready;
}

ServerCounters TestServer::counters() {
  ServerCounters counters;
  on_io([&] { counters = server_->counters(); });
  return counters;
}

std::string TestServer::url() const {
  return "http://127.0.0.1:" + std::to_string(port_);
}
std::string TestServer::tls_url() const {
  return "https://localhost:" + std::to_string(tls_port_);
}

namespace {

HttpClient make_client(ClientOptions options) {
  auto client = HttpClient::create(std::move(options));
  EXPECT_TRUE(client.ok()) << client.error().message;
  return std::move(client).value();
}

}  // namespace

HttpClient TestServer::client(Millis read_timeout) const {
  ClientOptions options;
  options.url = url();
  options.read_timeout = read_timeout;
  return make_client(std::move(options));
}

HttpClient TestServer::tls_client() const {
  ClientOptions options;
  options.url = tls_url();
  options.ca_file = certificate();
  return make_client(std::move(options));
}

HttpClient TestServer::unix_client() const {
  ClientOptions options;
  options.url = "unix:" + socket_path();
  return make_client(std::move(options));
}

RawClient::RawClient(std::uint16_t port, int receive_buffer)
    : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (receive_buffer > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  }
  const timeval patience{kPatience.count(), 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}

RawClient::~RawClient() {
  close();
}

bool RawClient::send(std::string_view bytes) const {
  while (!bytes.empty()) {
    const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      return false;
    }
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

std::string RawClient::read_until(std::string_view mark) {
  std::array<char, 16384> buffer{};
  while (true) {
    if (!mark.empty()) {
      const auto found = held_.find(mark);
      if (found != std::string::npos) {
        auto text = held_.substr(0, found + mark.size());
        held_.erase(0, found + mark.size());
        return text;
      }
    }
    const auto got = ::recv(fd_, buffer.data(), buffer.size(), 0);
    if (got <= 0) {
      return std::exchange(held_, {});
    }
    held_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

std::string RawClient::read_response() {
  auto text = read_until("\r\n\r\n");
  constexpr std::string_view kLength = "Content-Length: ";
  const auto found = text.find(kLength);
  std::size_t length = 0;
  if (found != std::string::npos) {
    const char* digits = text.data() + found + kLength.size();
    std::from_chars(digits, text.data() + text.size(), length);
  }
  std::array<char, 16384> buffer{};
  while (held_.size() < length) {
    const auto got = ::recv(fd_, buffer.data(), buffer.size(), 0);
    if (got <= 0) {
      break;
    }
    held_.append(buffer.data(), static_cast<std::size_t>(got));
  }
  text += held_.substr(0, length);
  held_.erase(0, length);
  return text;
}

void RawClient::end_writing() const {
  ::shutdown(fd_, SHUT_WR);
}

void RawClient::close() {
  if (fd_ >= 0) {
    ::close(std::exchange(fd_, -1));
  }
}

void make_certificate(const std::string& certificate, const std::string& key) {
  EVP_PKEY* pair = EVP_EC_gen("P-256");
  X509* subject = X509_new();
  X509_set_version(subject, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(subject), 1);
  X509_gmtime_adj(X509_getm_notBefore(subject), -3600);
  X509_gmtime_adj(X509_getm_notAfter(subject), 24L * 3600);
  X509_set_pubkey(subject, pair);
  X509_NAME* name = X509_get_subject_name(subject);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(subject, name);
  X509_EXTENSION* names =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
  X509_add_ext(subject, names, -1);
  X509_EXTENSION_free(names);
  X509_sign(subject, pair, EVP_sha256());
  FILE* file = std::fopen(certificate.c_str(), "we");
  PEM_write_X509(file, subject);
  std::fclose(file);
  file = std::fopen(key.c_str(), "we");
  PEM_write_PrivateKey(file, pair, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(subject);
  EVP_PKEY_free(pair);
}

}  // namespace quad::net
