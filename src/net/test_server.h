// net/test_server.h  (for tests only)
//
// A real server on its own thread, a bare blocking socket to talk to it with, and a self-signed
// certificate. Nothing waits longer than kPatience, so that a broken promise fails a test and does
// not hang it.

#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "net/http_client.h"
#include "net/http_server.h"

namespace quad::net {

inline constexpr std::chrono::seconds kPatience{20};

/// Options whose timeouts never strike in a test that does not set them, and whose tick is short.
ServerOptions test_options();

class TestServer {
 public:
  explicit TestServer(Router router, ServerOptions options = test_options());
  ~TestServer();

  /// Runs `work` on the io thread and waits for it.
  void on_io(const std::function<void()>& work);
  void stop(Millis grace);
  /// Whether io_context.run() returned in time.
  bool finished();
  ServerCounters counters();

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] std::uint16_t tls_port() const { return tls_port_; }
  [[nodiscard]] std::string url() const;
  [[nodiscard]] std::string tls_url() const;
  [[nodiscard]] std::string socket_path() const { return folder_ / "socket"; }
  [[nodiscard]] std::string certificate() const { return folder_ / "certificate.pem"; }
  [[nodiscard]] std::string key() const { return folder_ / "key.pem"; }
  /// For use in on_io().
  [[nodiscard]] HttpServer& server() { return *server_; }
  [[nodiscard]] HttpClient client(Millis read_timeout = Millis(20'000)) const;
  [[nodiscard]] HttpClient tls_client() const;
  [[nodiscard]] HttpClient unix_client() const;

 private:
  struct Io;
  std::filesystem::path folder_;
  std::unique_ptr<Io> io_;
  std::unique_ptr<HttpServer> server_;
  std::uint16_t port_ = 0;
  std::uint16_t tls_port_ = 0;
  std::promise<void> ended_;
  std::future<void> end_ = ended_.get_future();
  std::thread thread_;
};

/// A blocking TCP socket to 127.0.0.1 for what no decent client would send.
class RawClient {
 public:
  explicit RawClient(std::uint16_t port, int receive_buffer = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  /// False once the server has closed.
  bool send(std::string_view bytes) const;
  /// What comes until `mark` has come (included), the server closes, or patience ends.
  std::string read_until(std::string_view mark);
  /// What comes until the server closes.
  std::string read_all() { return read_until({}); }
  /// One whole response with a Content-Length.
  std::string read_response();
  void end_writing() const;
  void close();

 private:
  int fd_ = -1;
  std::string held_;
};

/// Writes a new key and a certificate for "localhost" and 127.0.0.1, signed by itself, as PEM
/// files.
void make_certificate(const std::string& certificate, const std::string& key);

}  // namespace quad::net
