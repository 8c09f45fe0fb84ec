// net/client_wire.h  (inside the module only)
//
// The client's connection: blocking reads and writes with timeouts over one non-blocking socket,
// plain or TLS. Plain sockets and poll(), so that a short-lived command pays for nothing else. One
// thread at a time.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/result.h"
#include "base/time.h"
#include "net/http_client.h"

namespace quad::net {

struct ServerAddress {
  enum class Scheme { kHttp, kHttps, kUnix };
  Scheme scheme = Scheme::kHttp;
  std::string host;  ///< without brackets; the path of the socket for kUnix
  std::uint16_t port = 0;
  std::string prefix;  ///< goes before every target; "" or "/…" without a slash at its end
  std::string host_header;
};

Result<ServerAddress> parse_address(std::string_view url);

class Wire {
 public:
  /// Of `options` only what the other side is called and the Cancel are kept.
  Wire(UniqueFd fd, const ClientOptions& options)
      : fd_(std::move(fd)), peer_(options.peer), cancel_(options.cancel) {}
  virtual ~Wire() = default;
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  /// 0 at the end of the stream. A timeout of 0 waits without end.
  virtual Result<std::size_t> read_some(std::span<char> into, Millis timeout);
  /// Sends all; the timeout counts from the last byte that went. With `heed_answer`, stops and
  /// returns false as soon as the other side has something to say.
  virtual Result<bool> write(std::string_view bytes, Millis timeout, bool heed_answer);
  /// Sends as much as goes without waiting; 0 is not now.
  virtual Result<std::size_t> write_some(std::string_view bytes);
  /// Whether a read would return at once, be it with the end.
  virtual bool answer_waiting();
  /// Whether bytes are held that poll() does not see.
  virtual bool buffered() { return false; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// Gives the socket away; nothing else may be called then.
  [[nodiscard]] UniqueFd release() { return std::move(fd_); }

 protected:
  // Waits for `events` of poll(); the error says that nothing came, or went, in that time.
  [[nodiscard]] Status wait_to_read(short events, Millis timeout) const;
  [[nodiscard]] Status wait_to_write(short events, Millis timeout) const;
  /// The error of a Cancel, if it was used: asked before each read, so that a flood of data cannot
  /// keep it from being seen.
  [[nodiscard]] Status check_cancel() const;
  [[nodiscard]] Error broken(std::string_view why) const;

  UniqueFd fd_;
  std::string peer_;
  std::shared_ptr<Cancel> cancel_;
};

/// A connected wire, with TLS where the address says so.
Result<std::unique_ptr<Wire>> connect_wire(const ServerAddress& address,
                                           const ClientOptions& options);

/// In client_tls.cc, the client's only use of OpenSSL.
Result<std::unique_ptr<Wire>> connect_tls(UniqueFd fd, const ServerAddress& address,
                                          const ClientOptions& options);

/// "The request to the … was given up": what a Cancel ends a call with.
Error cancelled_error(std::string_view peer);

}  // namespace quad::net
