// net/exchange.h
//
// One request being answered: what a handler is given. A handler does exactly one of: respond(),
// start_stream(), upgrade() or take_over(); one that does none answers 500. Lives in its connection
// and is valid until the handler returns. Io thread only.

#pragma once

#include <any>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/message.h"
#include "net/stream.h"

namespace quad::net {

/// Takes a piece of a body; an error ends the reading.
using BodySink = std::function<Status(std::string_view)>;

/// An answer that says what went wrong, and that it may be tried again in a moment (Retry-After).
Response busy_response(const Error& failure);

class Exchange {
 public:
  /// The request; mutable so that its body can be moved out.
  [[nodiscard]] Request& request();
  [[nodiscard]] const Request& request() const;
  /// Short for request().parameter(name).
  [[nodiscard]] std::string_view parameter(std::string_view name) const;

  /// The client has shown who it is: from now on its connection is `who`'s, and no stranger's, who
  /// goes first when there is no room (ServerOptions::max_connections). With `kept` it is one of
  /// those for whom room is kept. kExhausted if `who` has too many, kUnavailable if all have;
  /// answer with respond_error.
  Status admit(std::string_view who, bool kept = false);

  /// Sets the answer, which is sent when the handler returns. A later one replaces it.
  void respond(Response response);
  /// Short for respond(error_response(failure)).
  void respond_error(const Error& failure);
  /// Whether the exchange has its answer, of any of the four kinds.
  [[nodiscard]] bool responded() const;

  /// For routes with BodyMode::kStreamed: the next piece of the request's body, empty at its end.
  /// The view holds until the next call. kExhausted past the route's body limit, kUnavailable if
  /// the client goes away first.
  boost::asio::awaitable<Result<std::string_view>> read_body_some();
  /// Feeds the whole body to `sink` and returns its size. kExhausted (a 413, if given to
  /// respond_error) once there are more than `max_bytes`, and before anything is read if the
  /// request says so itself.
  boost::asio::awaitable<Result<std::uint64_t>> read_body_to(BodySink sink,
                                                             std::uint64_t max_bytes);
  /// What Content-Length promises; nothing for a chunked body.
  [[nodiscard]] std::optional<std::uint64_t> content_length() const;

  /// Sends the head of a response whose body follows in pieces. If the client is gone already, the
  /// stream is closed.
  boost::asio::awaitable<BodyStream> start_stream(int status, std::string content_type,
                                                  Headers headers = {});

  /// Answers 101 and hands over the connection. kInvalid (answer with respond_error) unless the
  /// request asks for an upgrade to `protocol`.
  boost::asio::awaitable<Result<RawStream>> upgrade(std::string protocol, Headers headers = {});
  /// Hands over the connection as it stands behind the request's body, with nothing answered: for a
  /// proxy, which passes on the other server's answer. Read the body first.
  boost::asio::awaitable<Result<RawStream>> take_over();

  // Whether the client went away or the server stops, while the handler waits for something else:
  // as in BodyStream. Seen only once the request's body has been read, and at first use at the
  // earliest.
  [[nodiscard]] bool closed();
  boost::asio::awaitable<void> wait_closed();
  void on_closed(std::function<void()> callback);

  [[nodiscard]] boost::asio::any_io_executor executor() const;

  /// The application's own: what Router::before found out (who asks, …). Empty at the start of each
  /// exchange.
  std::any context;

  // For the module's own use.
  explicit Exchange(Connection* connection) : connection_(connection) {}
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

 private:
  Connection* connection_;
};

}  // namespace quad::net
