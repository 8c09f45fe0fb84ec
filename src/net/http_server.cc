#include "net/http_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>

#include "base/file.h"
#include "net/connection.h"

namespace quad::net {

namespace {

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr int kBacklog = 4096;  // the kernel lowers it to its own bound
/// Beyond max_connections, so many more are let in to be told that there is no room.
constexpr std::size_t kMaxRejecting = 64;
constexpr Millis kAcceptPause{50};

asio::awaitable<void> run_connection(std::shared_ptr<Connection> connection) {
  co_await connection->run();
}

void begin_connection(const std::shared_ptr<ServerState>& state, const Listener& listener,
                      StreamSocket socket) {
  const bool local = !listener.socket_file.empty();
  Room& room = state->room(local);
  const bool reject = room.full() && !state->make_room(room);
  if (reject) {
    ++state->counters.rejected;
    if (state->rejecting >= kMaxRejecting) {
      return;
    }
  }
  ++state->counters.accepted;
  auto connection =
      std::make_shared<Connection>(state, listener.tls, std::move(socket), reject, local);
  if (room.is_crowded()) {
    state->make_room(room);
  }
  asio::co_spawn(state->io, run_connection(connection),
                 asio::bind_cancellation_slot(
                     connection->cancellation_slot(),
                     // An exception here is the cancellation itself, or memory that ran out: either
                     // way this one connection ends, and nothing else.
                     [connection](const std::exception_ptr&) {}));
}

/// The name of a socket file as the kernel takes it, or an error.
Status check_socket_path(const std::string& path) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un{}.sun_path) - 4) {
    return error(ErrorCode::kInvalid, "The socket path '" + path + "' must have 1 to " +
                                          std::to_string(sizeof(sockaddr_un{}.sun_path) - 5) +
                                          " characters.");
  }
  return {};
}

/// Whether a server answers on the socket file.
bool answers(const asio::generic::stream_protocol::endpoint& endpoint) {
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto length = static_cast<socklen_t>(endpoint.size());
  return probe && (::connect(probe.get(), endpoint.data(), length) == 0 || errno == EAGAIN);
}

Result<std::uint16_t> listen_on(const std::shared_ptr<ServerState>& state, std::string_view address,
                                std::uint16_t port, std::shared_ptr<asio::ssl::context> tls) {
  const auto name = std::string(address) + ":" + std::to_string(port);
  if (state->stopping) {
    return error(ErrorCode::kUnavailable, "The server is stopping.");
  }
  ErrorValue failure;
  const auto number =
      asio::ip::make_address(address == "localhost" ? "127.0.0.1" : std::string(address), failure);
  if (failure) {
    return error(ErrorCode::kInvalid, "Cannot listen on '" + std::string(address) +
                                          "': it must be a numeric address or 'localhost'.");
  }
  const asio::ip::tcp::endpoint endpoint(number, port);
  auto listener = std::make_shared<Listener>(state->io);
  listener->tls = std::move(tls);
  auto& acceptor = listener->acceptor;
  acceptor.open(asio::generic::stream_protocol(endpoint.protocol()), failure);
  if (!failure) {
    acceptor.set_option(asio::socket_base::reuse_address(true), failure);
  }
  if (!failure && number.is_v6()) {
    acceptor.set_option(asio::ip::v6_only(!number.to_v6().is_unspecified()), failure);
  }
  if (!failure) {
    acceptor.bind(endpoint, failure);
  }
  if (!failure) {
    acceptor.listen(kBacklog, failure);
  }
  if (failure) {
    return error(failure == asio::error::address_in_use ? ErrorCode::kExists : ErrorCode::kIo,
                 "Cannot listen on " + name + ": " + failure.message() + ".");
  }
  const auto bound = acceptor.local_endpoint(failure);
  asio::ip::tcp::endpoint actual;
  if (!failure && bound.size() <= actual.capacity()) {
    std::memcpy(actual.data(), bound.data(), bound.size());
    actual.resize(bound.size());
  }
  state->listeners.push_back(listener);
  state->start_tick();
  asio::co_spawn(state->io, accept_loop(state, listener), asio::detached);
  return actual.port();
}

Result<std::shared_ptr<asio::ssl::context>> make_tls(const TlsFiles& files) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  ErrorValue failure;
  context->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                           asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                           asio::ssl::context::no_tlsv1_1 | asio::ssl::context::no_compression,
                       failure);
  SSL_CTX_set_options(context->native_handle(), SSL_OP_NO_RENEGOTIATION);
  // Many connections, of runners above all, are idle for most of the time.
  SSL_CTX_set_mode(context->native_handle(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                                 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                                 SSL_MODE_RELEASE_BUFFERS);
  context->use_certificate_chain_file(files.certificate_chain, failure);
  if (failure) {
    return error(ErrorCode::kInvalid,
                 "Cannot use the TLS certificate " + files.certificate_chain + ": " +
                     failure.message() + ".",
                 files.certificate_chain);
  }
  context->use_private_key_file(files.private_key, asio::ssl::context::pem, failure);
  if (failure) {
    return error(ErrorCode::kInvalid,
                 "Cannot use the TLS private key " + files.private_key +
                     " (it must be the certificate's own): " + failure.message() + ".",
                 files.private_key);
  }
  return context;
}

}  // namespace

ServerState::ServerState(asio::io_context& context, Router routes, ServerOptions settings)
    : io(context),
      router(std::move(routes)),
      options(std::move(settings)),
      tick_timer(io),
      tcp_room(options.max_connections),
      local_room(options.max_local_connections) {
  ticker->tick = options.tick.count();
}

void ServerState::start_tick() {
  if (!ticking) {
    ticking = true;
    on_tick();
  }
}

void ServerState::on_tick() {
  if (stopping && connections.empty()) {
    ticking = false;
    return;
  }
  ticker->now =
      std::chrono::duration_cast<Millis>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
  if (const auto second = std::time(nullptr); second != date_second) {
    date_second = second;
    std::tm parts{};
    gmtime_r(&second, &parts);
    std::array<char, 40> text{};
    // Never in the user's language: the program sets no locale.
    const auto length =
        std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    date.assign(text.data(), length);
  }
  for (auto* connection : connections) {
    if (ticker->now >= cut_at) {
      connection->cut();
    } else {
      connection->sweep();
    }
  }
  tick_timer.expires_after(options.tick);
  tick_timer.async_wait([self = shared_from_this()](const ErrorValue& failure) {
    if (failure) {
      self->ticking = false;
    } else {
      self->on_tick();
    }
  });
}

void ServerState::stop(Millis grace) {
  const bool at_once = grace <= Millis(0);
  const auto now =
      std::chrono::duration_cast<Millis>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
  cut_at = std::min(cut_at, now + grace.count());
  if (!stopping) {
    stopping = true;
    close_listeners();
    for (auto* connection : connections) {
      connection->tell_stop();
    }
  }
  if (at_once) {
    for (auto* connection : connections) {
      connection->cut();
    }
  }
  if (connections.empty()) {
    tick_timer.cancel();
  }
}

void ServerState::close_listeners() {
  for (const auto& listener : listeners) {
    ErrorValue ignored;
    listener->acceptor.close(ignored);
    listener->pause.cancel();
    if (!listener->socket_file.empty()) {
      ::unlink(listener->socket_file.c_str());
    }
  }
  listeners.clear();
}

void ServerState::fault(std::string_view what) {
  ++counters.faults;
  if (options.on_fault) {
    options.on_fault(what);
  }
}

void ServerState::connection_ended() {
  if (stopping && connections.empty()) {
    tick_timer.cancel();
  }
}

bool ServerState::make_room(Room& room) {
  auto place = room.stranger_to_go();
  place = place ? place : room.idle_to_go();
  if (!place) {
    return false;
  }
  ++counters.rejected;
  (*place)->connection->send_away();
  return true;
}

Status ServerState::hold(const std::string& owner, std::uint64_t bytes) {
  auto& own = held_of[owner];
  if (own + bytes > options.buffer_limit / 2) {
    return error(ErrorCode::kExhausted, "The requests of " + owner +
                                            " that are under way are as large as one caller's may "
                                            "be; wait for one of them");
  }
  if (held + bytes > options.buffer_limit) {
    return error(ErrorCode::kUnavailable,
                 "The requests that are under way are as large as the server can hold; try again "
                 "in a moment");
  }
  own += bytes;
  held += bytes;
  return {};
}

void ServerState::release(const std::string& owner, std::uint64_t bytes) {
  held -= bytes;
  const auto own = held_of.find(owner);
  if (own != held_of.end() && (own->second -= bytes) == 0) {
    held_of.erase(own);
  }
}

asio::awaitable<void> accept_loop(std::shared_ptr<ServerState> state,
                                  std::shared_ptr<Listener> listener) {
  while (listener->acceptor.is_open()) {
    auto [failure, socket] = co_await listener->acceptor.async_accept(kToken);
    if (!listener->acceptor.is_open()) {
      break;
    }
    if (!failure) {
      begin_connection(state, *listener, std::move(socket));
      continue;
    }
    if (failure == asio::error::connection_aborted || failure == asio::error::interrupted) {
      continue;
    }
    // No descriptors or no memory left: the client waits in the kernel's queue meanwhile. Without
    // the pause this loop would spin, since the client stays acceptable.
    listener->pause.expires_after(kAcceptPause);
    co_await listener->pause.async_wait(kToken);
  }
}

HttpServer::HttpServer(boost::asio::io_context& io, Router router, ServerOptions options)
    : state_(std::make_shared<ServerState>(io, std::move(router), std::move(options))) {}

HttpServer::~HttpServer() {
  state_->stop(Millis(0));
}

Result<std::uint16_t> HttpServer::listen_tcp(std::string_view address, std::uint16_t port) {
  return listen_on(state_, address, port, nullptr);
}

Result<std::uint16_t> HttpServer::listen_tls(std::string_view address, std::uint16_t port,
                                             const TlsFiles& files) {
  QUAD_ASSIGN(auto tls, make_tls(files));
  return listen_on(state_, address, port, std::move(tls));
}

Status HttpServer::use_certificate(const TlsFiles& files) {
  QUAD_ASSIGN(const auto tls, make_tls(files));
  for (const auto& listener : state_->listeners) {
    if (listener->tls != nullptr) {
      listener->tls = tls;
    }
  }
  return {};
}

Status HttpServer::listen_unix(const std::string& path, unsigned mode) {
  QUAD_TRY(check_socket_path(path));
  if (state_->stopping) {
    return error(ErrorCode::kUnavailable, "The server is stopping.");
  }
  if (answers(asio::local::stream_protocol::endpoint(path))) {
    return error(ErrorCode::kExists, "Another server is listening on '" + path + "'.", path);
  }
  // Bound under another name, given its mode, and only then moved to its place, so that nobody can
  // connect before the mode holds, and a dead server's file is replaced in one step.
  const auto made = path + ".new";
  const asio::local::stream_protocol::endpoint endpoint(made);
  ::unlink(made.c_str());
  auto listener = std::make_shared<Listener>(state_->io);
  auto& acceptor = listener->acceptor;
  ErrorValue failure;
  acceptor.open(asio::generic::stream_protocol(endpoint.protocol()), failure);
  if (!failure) {
    acceptor.bind(endpoint, failure);
  }
  if (failure) {
    return error(ErrorCode::kIo, "Cannot listen on '" + path + "': " + failure.message() + ".",
                 path);
  }
  if (::chmod(made.c_str(), static_cast<mode_t>(mode)) != 0) {
    const int cause = errno;
    ::unlink(made.c_str());
    return errno_error("Cannot set the mode of '" + path + "'", cause);
  }
  acceptor.listen(kBacklog, failure);
  if (failure || ::rename(made.c_str(), path.c_str()) != 0) {
    const int cause = failure ? failure.value() : errno;
    ::unlink(made.c_str());
    return errno_error("Cannot listen on '" + path + "'", cause);
  }
  // One whose file was removed is reached by nobody any more.
  std::erase_if(state_->listeners, [&](const std::shared_ptr<Listener>& other) {
    const bool replaced = other->socket_file == path;
    if (replaced) {
      ErrorValue ignored;
      other->acceptor.close(ignored);
      other->pause.cancel();
    }
    return replaced;
  });
  listener->socket_file = path;
  state_->listeners.push_back(listener);
  state_->start_tick();
  asio::co_spawn(state_->io, accept_loop(state_, listener), asio::detached);
  return {};
}

void HttpServer::stop(Millis grace) {
  state_->stop(grace);
}

bool HttpServer::stopped() const {
  return state_->stopping && state_->connections.empty();
}

ServerCounters HttpServer::counters() const {
  auto counters = state_->counters;
  counters.connections = state_->connections.size();
  return counters;
}

}  // namespace quad::net
