#include <sys/socket.h>
#include <sys/un.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <vector>

#include "net/connection.h"

namespace quad::net {

namespace {

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr Millis kNoTimeout{0};
constexpr std::size_t kRelayBuffer = 32U << 10U;

Error gone(const ErrorValue& failure) {
  if (failure == asio::error::already_started) {
    return error(ErrorCode::kInternal, "A stream takes one read and one write at a time.");
  }
  return error(ErrorCode::kUnavailable, "The connection is closed (" + failure.message() + ").");
}

/// One socket and one timer: whichever ends first cancels the other.
asio::awaitable<Result<RawStream>> connect_to(
    std::vector<asio::generic::stream_protocol::endpoint> ends, std::string name, Millis timeout) {
  const auto executor = co_await asio::this_coro::executor;
  ErrorValue failure = asio::error::host_unreachable;
  // Shared with the timer's callback, which may still run when this coroutine has ended.
  const auto late = std::make_shared<bool>(false);
  for (const auto& end : ends) {
    auto state = std::make_shared<RawStream::State>();
    auto socket = std::make_shared<StreamSocket>(executor);
    asio::steady_timer timer(executor);
    if (timeout > kNoTimeout) {
      timer.expires_after(timeout);
      timer.async_wait([socket, late](const ErrorValue& cancelled) {
        if (!cancelled) {
          *late = true;
          ErrorValue ignored;
          socket->close(ignored);
        }
      });
    }
    socket->open(end.protocol(), failure);
    if (!failure) {
      auto [result] = co_await socket->async_connect(end, kToken);
      failure = result;
    }
    timer.cancel();
    if (!failure && !*late) {
      tune_tcp(*socket);
      state->transport = std::make_shared<Transport>(std::move(*socket), nullptr, kNoTimeout);
      co_return RawStream(std::move(state));
    }
    if (*late) {
      co_return error(ErrorCode::kTimeout, "Cannot connect to " + name + ": no answer within " +
                                               format_duration(timeout) + ".");
    }
  }
  co_return error(ErrorCode::kUnavailable,
                  "Cannot connect to " + name + ": " + failure.message() + ".");
}

asio::awaitable<void> relay_one_way(RawStream from, RawStream to) {
  std::vector<char> buffer(kRelayBuffer);
  while (true) {
    const auto got = co_await from.read_some(buffer);
    if (!got.ok() || *got == 0) {
      if (got.ok()) {
        const auto ended = co_await to.end_writing();
        if (ended.ok()) {
          co_return;
        }
      }
      break;
    }
    const auto sent = co_await to.write(std::string_view(buffer.data(), *got));
    if (!sent.ok()) {
      break;
    }
  }
  from.close();
  to.close();
}

}  // namespace

RawStream::RawStream(std::shared_ptr<State> state) : state_(std::move(state)) {}

// The coroutines below are free functions that hold the state themselves: the handle may be
// destroyed while they wait.
namespace {

template <typename State>
asio::awaitable<Result<std::size_t>> read_from(std::shared_ptr<State> state, std::span<char> into) {
  if (!state->read_ahead.empty()) {
    const auto count = std::min(into.size(), state->read_ahead.size());
    std::memcpy(into.data(), state->read_ahead.data(), count);
    state->read_ahead.erase(0, count);
    co_return count;
  }
  const auto got = co_await state->transport->read_some(into);
  if (got.failure == asio::error::eof) {
    co_return std::size_t{0};
  }
  if (got.failure) {
    co_return gone(got.failure);
  }
  co_return got.bytes;
}

template <typename State>
asio::awaitable<Status> write_to(std::shared_ptr<State> state, std::string_view bytes) {
  const auto sent = co_await state->transport->write(bytes);
  if (sent.failure) {
    co_return gone(sent.failure);
  }
  co_return Status();
}

template <typename State>
asio::awaitable<Status> end_half(std::shared_ptr<State> state) {
  const bool whole = state->transport->secure();
  const auto failure = co_await state->transport->end_writing();
  if (whole) {
    state->transport->close();
    co_return Status();
  }
  if (failure) {
    co_return gone(failure);
  }
  co_return Status();
}

}  // namespace

asio::awaitable<Result<std::size_t>> RawStream::read_some(std::span<char> into) {
  return read_from(state_, into);
}

asio::awaitable<Status> RawStream::write(std::string_view bytes) {
  return write_to(state_, bytes);
}

asio::awaitable<Status> RawStream::end_writing() {
  return end_half(state_);
}

void RawStream::wait_for_slow_reader() {
  state_->transport->wait_for_slow_peer();
}

void RawStream::close() {
  state_->transport->close();
}

bool RawStream::closed() const {
  return !state_->transport->open();
}

asio::awaitable<Result<RawStream>> connect_tcp(std::string address, std::uint16_t port,
                                               Millis timeout) {
  std::vector<asio::generic::stream_protocol::endpoint> ends;
  const auto name = address + ":" + std::to_string(port);
  if (address == "localhost") {
    ends.emplace_back(asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), port));
    ends.emplace_back(asio::ip::tcp::endpoint(asio::ip::address_v6::loopback(), port));
  } else {
    ErrorValue failure;
    const auto number = asio::ip::make_address(address, failure);
    if (failure) {
      co_return error(ErrorCode::kInvalid, "'" + address + "' is not a numeric address.");
    }
    ends.emplace_back(asio::ip::tcp::endpoint(number, port));
  }
  auto stream = co_await connect_to(std::move(ends), name, timeout);
  co_return stream;
}

asio::awaitable<Result<RawStream>> connect_unix(std::string path) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un{}.sun_path)) {
    co_return error(ErrorCode::kInvalid, "The socket path '" + path + "' is empty or too long.");
  }
  std::vector<asio::generic::stream_protocol::endpoint> ends;
  ends.emplace_back(asio::local::stream_protocol::endpoint(path));
  auto stream = co_await connect_to(std::move(ends), path, kNoTimeout);
  co_return stream;
}

asio::awaitable<void> relay(RawStream a, RawStream b) {
  using asio::experimental::awaitable_operators::operator&&;
  co_await (relay_one_way(a, b) && relay_one_way(b, a));
  a.close();
  b.close();
}

}  // namespace quad::net
