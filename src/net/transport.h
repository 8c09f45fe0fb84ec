// net/transport.h  (inside the module only)
//
// One connected socket, TCP or unix, with TLS over it or without: reads, writes and their deadlines
// behind one class, so that the rest of the module does not care. Io thread only. One read and one
// write at a time.
//
// Deadlines are two numbers that the server's tick compares with its coarse clock: setting one
// costs nothing, which a timer for each operation would not. A transport without a Ticker (outgoing
// connections) has none.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/time.h"
#include "net/tls_session.h"

namespace quad::net {

namespace asio = boost::asio;
using ErrorValue = boost::system::error_code;
using StreamSocket = asio::generic::stream_protocol::socket;

/// The server's coarse clock; moves on once a tick.
struct Ticker {
  std::int64_t now = 0;
  std::int64_t tick = 0;

  /// The deadline for something that may take `timeout` from now; late by at most two ticks, never
  /// early.
  [[nodiscard]] std::int64_t after(Millis timeout) const { return now + tick + timeout.count(); }
};

struct IoResult {
  ErrorValue failure;
  std::size_t bytes = 0;
};

class Transport {
 public:
  Transport(StreamSocket socket, std::shared_ptr<const Ticker> ticker, Millis write_timeout);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  /// Makes this a TLS connection, as the server. Before any other operation.
  asio::awaitable<ErrorValue> handshake(asio::ssl::context& context);

  /// Bytes, or asio::error::eof.
  asio::awaitable<IoResult> read_some(std::span<char> into);
  /// All of both parts. The write timeout counts from the last byte that went.
  asio::awaitable<IoResult> write(std::string_view first, std::string_view second = {});
  /// Ends this side's half. TLS has no half that clients agree on: there it ends the reading too.
  asio::awaitable<ErrorValue> end_writing();
  /// Reads and forgets what still comes, until the other side ends: so that it can read our last
  /// answer before our closing resets the connection. The read deadline bounds it.
  asio::awaitable<void> discard();
  /// Aborts what is pending; the connection stays usable. Only while nothing is being written.
  void cancel_reading();
  void close();

  [[nodiscard]] bool open() const { return socket_.is_open(); }
  [[nodiscard]] bool secure() const { return tls_ != nullptr; }
  [[nodiscard]] bool writing() const { return writing_; }
  [[nodiscard]] StreamSocket& socket() { return socket_; }

  void set_read_deadline(std::int64_t when) { read_deadline_ = when; }
  /// From now on a peer may take nothing for as long as it likes, provided that it is there.
  void wait_for_slow_peer() { patient_ = true; }
  /// Whether a deadline is past. The caller then closes.
  [[nodiscard]] bool overdue(std::int64_t now);

  static constexpr std::int64_t kNever = INT64_MAX;

 private:
  /// Repeats a call of OpenSSL's until it is done, and waits for the socket between the tries.
  template <typename Call>
  asio::awaitable<IoResult> repeat(Call call);

  StreamSocket socket_;
  SslPtr tls_;
  std::shared_ptr<const Ticker> ticker_;
  Millis write_timeout_;
  std::int64_t read_deadline_ = kNever;
  std::int64_t write_deadline_ = kNever;
  bool patient_ = false;
  bool writing_ = false;
  bool reading_ = false;
};

/// Whether the kernel at the other end still answers, for a socket on which something waits to be
/// sent: of a process that stands still it does, of a machine that is gone it does not.
bool peer_answers(StreamSocket& socket);
/// "10.0.0.3:51234", "[::1]:51234" or "unix".
std::string peer_name(const StreamSocket& socket);
/// The user at the other end of a unix socket.
std::optional<std::uint32_t> peer_user(const StreamSocket& socket);
/// No delay for small writes, and keep-alive probes that find a dead peer in about a minute.
/// Nothing for unix sockets.
void tune_tcp(StreamSocket& socket);

}  // namespace quad::net
