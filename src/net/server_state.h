// net/server_state.h  (inside the module only)
//
// What all connections of one server share. Held by the server, its accept loops and its
// connections, whichever lives longest. Io thread only.

#pragma once

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <ctime>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "net/http_server.h"
#include "net/room.h"
#include "net/transport.h"

namespace quad::net {

using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol>;

struct Listener {
  explicit Listener(asio::io_context& io) : acceptor(io), pause(io) {}
  Acceptor acceptor;
  asio::steady_timer pause;  ///< after an accept that failed for want of descriptors
  std::shared_ptr<asio::ssl::context> tls;
  std::string socket_file;  ///< removed when the listener closes
};

struct ServerState : std::enable_shared_from_this<ServerState> {
  ServerState(asio::io_context& context, Router routes, ServerOptions settings);

  void start_tick();
  void on_tick();
  void stop(Millis grace);
  void close_listeners();
  void fault(std::string_view what);
  void connection_ended();
  [[nodiscard]] Room& room(bool local) { return local ? local_room : tcp_room; }
  /// Lets somebody go so that another may come in; false if nobody can.
  bool make_room(Room& room);
  /// Whether so many more bytes of the owner's bodies may be held; they then are.
  Status hold(const std::string& owner, std::uint64_t bytes);
  void release(const std::string& owner, std::uint64_t bytes);

  asio::io_context& io;
  const Router router;
  const ServerOptions options;
  const std::shared_ptr<Ticker> ticker = std::make_shared<Ticker>();
  asio::steady_timer tick_timer;
  std::time_t date_second = 0;
  std::string date;  ///< as in a Date header

  std::vector<std::shared_ptr<Listener>> listeners;
  std::list<Connection*> connections;
  std::size_t rejecting = 0;  ///< of them, those that are there only to be told so
  Room tcp_room;
  Room local_room;
  std::uint64_t held = 0;                                  ///< bytes of large bodies
  std::unordered_map<std::string, std::uint64_t> held_of;  ///< by owner
  ServerCounters counters;
  bool ticking = false;
  bool stopping = false;
  std::int64_t cut_at = Transport::kNever;  ///< when stopping: what is left then is cancelled
};

/// Accepts until the listener is closed.
asio::awaitable<void> accept_loop(std::shared_ptr<ServerState> state,
                                  std::shared_ptr<Listener> listener);

}  // namespace quad::net
