// net/http_server.h
//
// An HTTP/1.1 server on a caller's io_context: TCP, TLS and unix sockets, keep-alive, pipelining,
// chunked bodies, streams and upgrades. One thread runs the io_context and calls everything here
// and in the handlers; nothing locks. Other threads reach a handler by posting to the io_context.
//
// Everything is bounded: connections, header and body sizes, and the time that a client may take
// for each step. What a client sends cannot end the server, and neither can an exception in a
// handler, which becomes a 500.
//
// Cost: about 20 µs of the thread for a small request; some 10 KiB for an idle connection.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"
#include "net/exchange.h"
#include "net/message.h"
#include "net/router.h"
#include "net/stream.h"
#include "net/wakeup.h"

namespace boost::asio {
class io_context;
}

namespace quad::net {

/// One answered request, for logs and metrics. Views hold during the call.
struct AccessRecord {
  const Request& request;
  int status;  ///< 101 for an upgrade; 0 if nothing was answered: the client went away, or
               ///< take_over()
  std::uint64_t bytes_out;  ///< head and body
  std::chrono::microseconds
      duration;  ///< from the end of the request's head to the answer's last byte
};

struct ServerOptions {
  std::size_t header_limit = 16U << 10U;   ///< bytes of a request's head; 431 beyond
  std::uint64_t body_limit = 8ULL << 20U;  ///< bytes of a buffered body; 413 beyond
  /// Bytes of large bodies that are buffered at once, for all requests; 503 beyond. One owner's
  /// requests have at most a half; 429 beyond.
  std::uint64_t buffer_limit = 256ULL << 20U;
  /// Over TCP. When there is no room for another, somebody goes: strangers before whoever has shown
  /// who it is (Exchange::admit), the idle before the busy (net/room.h has the shares). 503 when
  /// all are at work.
  std::size_t max_connections = 4096;
  /// The same over unix sockets, which have room of their own: strangers cannot crowd out the users
  /// whom a socket's mode lets in.
  std::size_t max_local_connections = 4096;

  // Timeouts, kept to the precision of one `tick`.
  Millis header_timeout{10'000};  ///< for a request's head, and for the TLS handshake
  Millis idle_timeout{75'000};    ///< between two requests
  Millis body_timeout{30'000};    ///< without a byte of a body that is being read
  /// Bytes a second that a body comes with, after a first body_timeout: who sends one byte now and
  /// then is cut off too.
  std::uint64_t least_body_rate = 1024;
  Millis write_timeout{30'000};  ///< without a byte taken by the client
  Millis tick{250};

  std::function<void(const AccessRecord&)> on_access;  ///< after each exchange
  std::function<void(std::string_view)> on_fault;      ///< what a handler threw, and the like
};

struct TlsFiles {
  std::string certificate_chain;  ///< PEM, the server's own certificate first
  std::string private_key;        ///< PEM
};

struct ServerCounters {
  std::uint64_t accepted = 0;
  std::uint64_t rejected = 0;  ///< for want of room: answered with 503, or sent away for another
  std::uint64_t requests = 0;
  std::uint64_t faults = 0;
  std::size_t connections = 0;  ///< now
};

struct ServerState;

class HttpServer {
 public:
  HttpServer(boost::asio::io_context& io, Router router, ServerOptions options = {});
  /// Closes what is left at once, as stop(0) does.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Each starts to accept and returns; a server may listen in many places.

  /// `address` is a number ("127.0.0.1", "::1", "0.0.0.0", "::" for both families) or "localhost".
  /// Port 0 takes a free one. Returns the port.
  Result<std::uint16_t> listen_tcp(std::string_view address, std::uint16_t port);
  /// The same with TLS 1.2 or newer.
  Result<std::uint16_t> listen_tls(std::string_view address, std::uint16_t port,
                                   const TlsFiles& files);
  /// What connections over TLS are shown from now on. On the io_context's thread.
  Status use_certificate(const TlsFiles& files);
  /// A socket file of that mode. A file that a dead server left is replaced; kExists if a live one
  /// answers there.
  Status listen_unix(const std::string& path, unsigned mode = 0600);

  /// Stops accepting, closes idle connections, tells streams that they are closed, lets other
  /// exchanges finish within `grace`, then cancels them. The io_context runs out of this server's
  /// work when the last is gone.
  void stop(Millis grace);
  /// Whether stop() was called and the last connection is gone.
  [[nodiscard]] bool stopped() const;

  [[nodiscard]] ServerCounters counters() const;

 private:
  std::shared_ptr<ServerState> state_;
};

}  // namespace quad::net
