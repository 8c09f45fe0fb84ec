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
  explicit Wire(UniqueFd fd) : fd_(std::move(fd)) {}
  virtual ~Wire() = default;
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  /// 0 at the end of the stream. A timeout of 0 waits without end.
  virtual Result<std::size_t> read_some(std::span<char> into, Millis timeout);
  /// Sends all; the timeout counts from the last byte that went. With `heed_answer`, stops and
  /// returns false as soon as the other side has something to say.
  virtual Result<bool> write(std::string_view bytes, Millis timeout, bool heed_answer);
  /// Whether a read would return at once, be it with the end.
  virtual bool answer_waiting();
  /// Whether bytes are held that poll() does not see.
  virtual bool buffered() { return false; }
  [[nodiscard]] int fd() const { return fd_.get(); }

 protected:
  /// Waits for `events` of poll(). False when the time is up.
  [[nodiscard]] bool wait(short events, Millis timeout) const;

  UniqueFd fd_;
};

/// A connected wire, with TLS where the address says so.
Result<std::unique_ptr<Wire>> connect_wire(const ServerAddress& address,
                                           const ClientOptions& options);

/// In client_tls.cc, the client's only use of OpenSSL.
Result<std::unique_ptr<Wire>> connect_tls(UniqueFd fd, const ServerAddress& address,
                                          const ClientOptions& options);

Error read_timeout_error(Millis timeout);
/// Waits for one of `events` on `fd`; false when the time is up. A timeout of 0 waits without end.
bool wait_for_fd(int fd, short events, Millis timeout);

}  // namespace quad::net
