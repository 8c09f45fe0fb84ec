// net/stream.h
//
// The two ways in which a connection outgrows one response: a BodyStream, a response body that is
// written piece by piece (events, followed logs, large files), and a RawStream, the bare connection
// after a protocol upgrade.
//
// Both are handles: cheap to copy, used only on the io thread. Every write waits until the kernel
// has taken the bytes, so a slow reader holds back its writer and nothing else; a reader that takes
// nothing for the server's write timeout is cut off, but for a RawStream that is told to wait. At
// most one write and one read may be under way on a stream at a time; a second is refused.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"

namespace quad::net {

class Connection;
class Transport;

/// A response body in pieces. Valid until the handler that started it returns; its normal return
/// ends the body, abort() or an exception breaks the connection.
class BodyStream {
 public:
  /// Sends a piece; an empty one sends nothing. kUnavailable once the client has gone or the server
  /// stops.
  boost::asio::awaitable<Status> write(std::string_view chunk);

  /// Whether the client has gone, or the server stops.
  [[nodiscard]] bool closed() const;
  /// Returns when closed() becomes true.
  boost::asio::awaitable<void> wait_closed();
  /// Breaks the connection when the handler returns, so that the client sees that the body is cut
  /// short.
  void abort();
  /// Called once, on the io thread, when closed() becomes true (at once if it is): the place to
  /// wake what the handler waits for. The callback is dropped, uncalled, when the handler returns.
  void on_closed(std::function<void()> callback);

 private:
  friend class Exchange;
  explicit BodyStream(Connection* connection) : connection_(connection) {}
  Connection* connection_;
};

/// A two-way stream of bytes over TCP, TLS or a unix socket. It lives as long as its last handle;
/// one that came from Exchange::upgrade is closed when the handler returns, and reads and writes on
/// it then fail.
class RawStream {
 public:
  /// Waits for bytes; 0 means that the other side has ended its half.
  boost::asio::awaitable<Result<std::size_t>> read_some(std::span<char> into);
  /// Sends all of `bytes`, which must stay where they are until this returns.
  boost::asio::awaitable<Status> write(std::string_view bytes);
  /// Ends this side's half; reading goes on.
  boost::asio::awaitable<Status> end_writing();
  /// From now on a reader that takes nothing is waited for, however long, unless its machine
  /// answers no more: then the write timeout is for it as well.
  void wait_for_slow_reader();
  /// Closes at once; pending reads and writes fail. May be called again.
  void close();
  [[nodiscard]] bool closed() const;

  // For the module's own use.
  struct State;
  explicit RawStream(std::shared_ptr<State> state);

 private:
  std::shared_ptr<State> state_;
};

/// Connects to a TCP address: a number, or "localhost"; names are not resolved. Runs on the
/// caller's executor.
boost::asio::awaitable<Result<RawStream>> connect_tcp(std::string address, std::uint16_t port,
                                                      Millis timeout);
/// Connects to a unix socket.
boost::asio::awaitable<Result<RawStream>> connect_unix(std::string path);

/// Carries bytes both ways until both sides have ended or one breaks; closes both.
boost::asio::awaitable<void> relay(RawStream a, RawStream b);

}  // namespace quad::net
