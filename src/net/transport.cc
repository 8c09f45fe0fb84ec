#include "net/transport.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <climits>
#include <tuple>
#include <utility>
#include <vector>

namespace quad::net {

namespace {

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

/// Marks an operation as under way for as long as it lives, and its deadline with it.
class Busy {
 public:
  explicit Busy(bool& flag) : flag_(flag) { flag_ = true; }
  ~Busy() { flag_ = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  bool& flag_;
};

/// What OpenSSL's code for a call's failure means.
ErrorValue why_it_ended(int why) {
  const int number = errno;
  const auto code = ERR_peek_error();
  ERR_clear_error();
  if (why == SSL_ERROR_ZERO_RETURN ||
      (why == SSL_ERROR_SSL && ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) ||
      (why == SSL_ERROR_SYSCALL && number == 0)) {
    return asio::error::eof;
  }
  return why == SSL_ERROR_SYSCALL
             ? ErrorValue(number, boost::system::system_category())
             : ErrorValue(static_cast<int>(code), asio::error::get_ssl_category());
}

}  // namespace

Transport::Transport(StreamSocket socket, std::shared_ptr<const Ticker> ticker,
                     Millis write_timeout)
    : socket_(std::move(socket)), ticker_(std::move(ticker)), write_timeout_(write_timeout) {
  ErrorValue ignored;
  socket_.non_blocking(true, ignored);
}

Transport::~Transport() = default;

template <typename Call>
asio::awaitable<IoResult> Transport::repeat(Call call) {
  bool waited = false;
  // The session knows its socket by number, which may be another's once this one is closed.
  while (socket_.is_open()) {
    ERR_clear_error();
    errno = 0;
    const int done = call();
    if (done > 0) {
      if (!waited) {  // others have their turn, however fast this connection is
        co_await asio::post(socket_.get_executor(), asio::use_awaitable);
      }
      co_return IoResult{{}, static_cast<std::size_t>(done)};
    }
    const int why = SSL_get_error(tls_.get(), done);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
      co_return IoResult{why_it_ended(why), 0};
    }
    waited = true;
    auto [failure] = co_await socket_.async_wait(
        why == SSL_ERROR_WANT_READ ? StreamSocket::wait_read : StreamSocket::wait_write, kToken);
    if (failure) {
      co_return IoResult{failure, 0};
    }
  }
  co_return IoResult{asio::error::operation_aborted, 0};
}

asio::awaitable<ErrorValue> Transport::handshake(asio::ssl::context& context) {
  tls_ = tls_session(context.native_handle(), socket_.native_handle());
  if (tls_ == nullptr) {
    co_return asio::error::no_memory;
  }
  const IoResult done = co_await repeat([this] { return SSL_accept(tls_.get()); });
  co_return done.failure;
}

asio::awaitable<IoResult> Transport::read_some(std::span<char> into) {
  if (reading_ || into.empty()) {
    co_return IoResult{asio::error::already_started, 0};
  }
  const Busy busy(reading_);
  IoResult result;
  if (tls_ != nullptr) {
    const int size = static_cast<int>(std::min<std::size_t>(into.size(), INT_MAX));
    result = co_await repeat([&] { return SSL_read(tls_.get(), into.data(), size); });
  } else {
    auto [failure, bytes] =
        co_await socket_.async_read_some(asio::buffer(into.data(), into.size()), kToken);
    result = {failure, bytes};
  }
  co_return result;
}

asio::awaitable<IoResult> Transport::write(std::string_view first, std::string_view second) {
  if (writing_) {
    co_return IoResult{asio::error::already_started, 0};
  }
  const Busy busy(writing_);
  IoResult result;
  while (!first.empty() || !second.empty()) {
    if (first.empty()) {
      std::swap(first, second);
    }
    if (ticker_ != nullptr) {
      write_deadline_ = ticker_->after(write_timeout_);
    }
    std::size_t went = 0;
    if (tls_ != nullptr) {
      const int size = static_cast<int>(std::min<std::size_t>(first.size(), INT_MAX));
      const IoResult sent =
          co_await repeat([&] { return SSL_write(tls_.get(), first.data(), size); });
      result.failure = sent.failure;
      went = sent.bytes;
    } else {
      const std::array<asio::const_buffer, 2> buffers{asio::buffer(first.data(), first.size()),
                                                      asio::buffer(second.data(), second.size())};
      auto [failure, bytes] = co_await socket_.async_write_some(buffers, kToken);
      result.failure = failure;
      went = bytes;
    }
    write_deadline_ = kNever;
    result.bytes += went;
    if (result.failure) {
      break;
    }
    const auto of_first = std::min(went, first.size());
    first.remove_prefix(of_first);
    second.remove_prefix(went - of_first);
  }
  co_return result;
}

asio::awaitable<ErrorValue> Transport::end_writing() {
  ErrorValue failure;
  if (tls_ != nullptr) {
    // Sends our close_notify and then reads until the other side's, which a pending read would get
    // in the way of. Few clients answer with theirs at once, so the wait is short.
    if (reading_) {
      cancel_reading();
    }
    if (ticker_ != nullptr) {
      write_deadline_ = ticker_->after(Millis(1000));
    }
    const IoResult ended = co_await repeat([this] {
      const int done = SSL_shutdown(tls_.get());
      return done == 0 ? SSL_shutdown(tls_.get()) : done;
    });
    failure = ended.failure;
    write_deadline_ = kNever;
  } else {
    socket_.shutdown(asio::socket_base::shutdown_send, failure);
  }
  co_return failure;
}

asio::awaitable<void> Transport::discard() {
  std::vector<char> scratch(32U << 10U);
  while (true) {
    auto [failure, bytes] = co_await socket_.async_read_some(asio::buffer(scratch), kToken);
    if (failure) {
      co_return;
    }
  }
}

bool Transport::overdue(std::int64_t now) {
  if (now >= write_deadline_ && patient_ && peer_answers(socket_)) {
    write_deadline_ = ticker_->after(write_timeout_);
  }
  return now >= read_deadline_ || now >= write_deadline_;
}

void Transport::cancel_reading() {
  ErrorValue ignored;
  socket_.cancel(ignored);
}

void Transport::close() {
  ErrorValue ignored;
  socket_.close(ignored);
  read_deadline_ = kNever;
  write_deadline_ = kNever;
}

bool peer_answers(StreamSocket& socket) {
  // Each is sent again after twice the time, and every answer sets the counts to 0.
  constexpr int kUnanswered = 3;
  tcp_info info{};
  socklen_t length = sizeof info;
  if (getsockopt(socket.native_handle(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
    return true;  // a unix socket, whose other end is a process of this machine
  }
  return info.tcpi_retransmits < kUnanswered && info.tcpi_probes < kUnanswered;
}

std::string peer_name(const StreamSocket& socket) {
  ErrorValue failure;
  const auto endpoint = socket.remote_endpoint(failure);
  if (failure || endpoint.size() == 0) {
    return failure ? "unknown" : "unix";
  }
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto* address = endpoint.data();
  if (address->sa_family == AF_INET) {
    const auto* four = reinterpret_cast<const sockaddr_in*>(address);
    inet_ntop(AF_INET, &four->sin_addr, text.data(), text.size());
    return std::string(text.data()) + ":" + std::to_string(ntohs(four->sin_port));
  }
  if (address->sa_family == AF_INET6) {
    const auto* six = reinterpret_cast<const sockaddr_in6*>(address);
    const auto port = std::to_string(ntohs(six->sin6_port));
    if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
      inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], text.data(), text.size());
      return std::string(text.data()) + ":" + port;
    }
    inet_ntop(AF_INET6, &six->sin6_addr, text.data(), text.size());
    return "[" + std::string(text.data()) + "]:" + port;
  }
  return "unix";
}

std::optional<std::uint32_t> peer_user(const StreamSocket& socket) {
  // Asio's native_handle is not const, but asking the kernel changes nothing.
  const int fd = const_cast<StreamSocket&>(socket).native_handle();  // NOLINT
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) != 0 ||
      own.ss_family != AF_UNIX) {
    return std::nullopt;
  }
  ucred credentials{};
  length = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return std::nullopt;
  }
  return credentials.uid;
}

void tune_tcp(StreamSocket& socket) {
  const int fd = socket.native_handle();
  const auto set = [fd](int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof value);
  };
  int domain = 0;
  socklen_t length = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain == AF_UNIX) {
    return;
  }
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

}  // namespace quad::net
