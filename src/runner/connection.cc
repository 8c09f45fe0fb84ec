#include "runner/connection.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace quad::runner {
namespace {

constexpr Millis kFirstDelay{50};
constexpr Millis kLongestDelay{1000};
constexpr Millis kConnectTimeout{10'000};
constexpr std::size_t kLongestResponse = 64U << 10U;
constexpr std::size_t kReceive = 64U << 10U;

// Half to the whole of the delay, so that a thousand ranks do not come back at once.
Millis with_jitter(Millis delay) {
  std::uint32_t random = 0;
  (void)getrandom(&random, sizeof random, GRND_NONBLOCK);
  const auto half = static_cast<std::uint64_t>(delay.count()) / 2;
  return Millis(static_cast<std::int64_t>(half + random % (half + 1)));
}

}  // namespace

void Connection::tick(MonoTime now) {
  if (state_ == State::kWaiting && now >= retry_at_) {
    begin(now);
  } else if (state_ != State::kWaiting && state_ != State::kOpen && state_ != State::kRefused &&
             now >= deadline_) {
    fail("the server did not answer within 10 s", now);
  }
}

int Connection::fd() const {
  return state_ == State::kResolving ? resolver_.fd() : fd_.get();
}

short Connection::events(bool want_write) const {
  switch (state_) {
    case State::kConnecting:
      return POLLOUT;
    case State::kHandshake:
    case State::kUpgrading:
      return static_cast<short>(POLLIN | (want_write_ ? POLLOUT : 0));
    case State::kOpen:
      return static_cast<short>(POLLIN | (want_write && writing_blocked_ ? POLLOUT : 0));
    default:
      return POLLIN;
  }
}

void Connection::begin(MonoTime now) {
  deadline_ = now + kConnectTimeout;
  frames_.reset();
  addresses_ = numeric_addresses(options_.endpoint);
  if (!addresses_.empty()) {
    connect_next(now);
    return;
  }
  auto worker = Worker::start([host = options_.endpoint.host](const WorkerOutput& output) {
    json::array hosts;
    auto resolved = resolve(host);
    if (resolved.ok()) {
      for (const std::string& address : resolved.value()) {
        hosts.emplace_back(address);
      }
    }
    output.send({{"hosts", std::move(hosts)},
                 {"error", resolved.ok() ? std::string() : resolved.error().message}});
  });
  if (!worker.ok()) {
    fail(worker.error().message, now);
    return;
  }
  resolver_ = std::move(worker).value();
  state_ = State::kResolving;
}

void Connection::connect_next(MonoTime now) {
  while (!addresses_.empty()) {
    const Address address = addresses_.front();
    addresses_.erase(addresses_.begin());
    auto socket = begin_connect(address);
    if (!socket.ok()) {
      trouble_ = socket.error().message;
      continue;
    }
    fd_ = std::move(socket).value();
    state_ = State::kConnecting;
    if (address.storage.ss_family == AF_UNIX) {
      on_connected(now);  // a unix socket connects at once or not at all
    }
    return;
  }
  fail(trouble_, now);
}

void Connection::on_connected(MonoTime now) {
  int failure = 0;
  socklen_t size = sizeof failure;
  ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &failure, &size);
  if (failure != 0) {
    trouble_ = errno_error("Cannot connect", failure).message;
    connect_next(now);
    return;
  }
  if (!options_.endpoint.tls) {
    begin_upgrade(now);
    return;
  }
  if (auto begun = tls_.begin(fd_.get(), options_.ca, options_.endpoint.host); !begun.ok()) {
    fail(begun.error().message, now);
    return;
  }
  state_ = State::kHandshake;
  want_write_ = true;
}

void Connection::begin_upgrade(MonoTime now) {
  state_ = State::kUpgrading;
  response_.clear();
  request_ = fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\n"
      "Upgrade: {}\r\n\r\n",
      options_.target, options_.endpoint.authority(), options_.token, options_.protocol);
  want_write_ = true;
  send_request(now);
}

void Connection::send_request(MonoTime now) {
  // The state is set for the time of the call so that send() works as on an open connection.
  const iovec piece{request_.data(), request_.size()};
  const State before = state_;
  const std::size_t put = send(&piece, 1, now);
  if (state_ != before) {
    return;
  }
  request_.erase(0, put);
  want_write_ = !request_.empty();
}

void Connection::on_ready(MonoTime now) {
  switch (state_) {
    case State::kResolving: {
      for (const json::object& message : resolver_.receive()) {
        if (const json::array* hosts = get_array(message, "hosts")) {
          for (const json::value& host : *hosts) {
            for (const Address& address :
                 numeric_address(std::string_view(host.as_string()), options_.endpoint.port)) {
              addresses_.push_back(address);
            }
          }
        }
        trouble_ = get_string(message, "error");
      }
      if (!resolver_.running() || !addresses_.empty()) {
        resolver_.kill();
        connect_next(now);
      }
      return;
    }
    case State::kConnecting:
      on_connected(now);
      return;
    case State::kHandshake:
      switch (tls_.handshake()) {
        case Io::kDone:
          begin_upgrade(now);
          return;
        case Io::kWantRead:
          want_write_ = false;
          return;
        case Io::kWantWrite:
          want_write_ = true;
          return;
        default:
          fail(tls_.trouble(), now);
          return;
      }
    case State::kUpgrading:
      if (!request_.empty()) {
        send_request(now);
      }
      if (state_ == State::kUpgrading) {
        read_response(now);
      }
      return;
    case State::kOpen:
      receive(now);
      return;
    default:
      return;
  }
}

Io Connection::read_some(char* to, std::size_t size, std::size_t& got) {
  if (tls_.active()) {
    return tls_.read(to, size, got);
  }
  for (;;) {
    const ssize_t count = ::recv(fd_.get(), to, size, 0);
    if (count > 0) {
      got = static_cast<std::size_t>(count);
      return Io::kDone;
    }
    if (count == 0) {
      return Io::kClosed;
    }
    if (errno != EINTR) {
      return errno == EAGAIN ? Io::kWantRead : Io::kFailed;
    }
  }
}

void Connection::read_response(MonoTime now) {
  char buffer[4096];
  bool closed = false;
  for (;;) {
    std::size_t got = 0;
    const Io io = read_some(buffer, sizeof buffer, got);
    if (io == Io::kWantRead || io == Io::kWantWrite) {
      break;
    }
    if (io != Io::kDone) {
      closed = true;
      break;
    }
    response_.append(buffer, got);
    // After a 101 what follows are frames, which receive() reads on.
    if (response_.size() > kLongestResponse || response_.find("\r\n\r\n") != std::string::npos) {
      break;
    }
  }
  const std::size_t end = response_.find("\r\n\r\n");
  if (end == std::string::npos) {
    if (closed || response_.size() > kLongestResponse) {
      fail("the server closed the connection before it was upgraded", now);
    }
    return;
  }
  int status = 0;
  if (response_.size() > 12 && response_.starts_with("HTTP/1.")) {
    status = std::atoi(response_.c_str() + 9);
  }
  if (status == 101) {
    failures_ = 0;
    state_ = State::kOpen;
    want_write_ = false;
    writing_blocked_ = false;
    frames_.feed(std::string_view(response_).substr(end + 4));
    response_.clear();
    if (!closed) {
      receive(now);
    }
    return;
  }
  const std::string body(response_, end + 4, 300);
  if (options_.once || status == 401 || status == 403 || status == 409 || status == 410) {
    trouble_ = fmt::format("the server answered {}: {}", status, body);
    fd_.reset();
    tls_.end();
    state_ = State::kRefused;
    return;
  }
  fail(fmt::format("the server answered {} to the upgrade: {}", status, body), now);
}

void Connection::receive(MonoTime now) {
  for (int round = 0; round < 16; ++round) {
    char* room = frames_.room(round == 0 ? 4096 : kReceive);
    std::size_t got = 0;
    switch (read_some(room, frames_.room_size(), got)) {
      case Io::kDone:
        frames_.commit(got);
        if (!tls_.pending() && frames_.room_size() > 0) {
          return;  // the buffer was not filled, so the socket is empty
        }
        break;
      case Io::kWantRead:
      case Io::kWantWrite:
        return;
      case Io::kClosed:
        fail("the server closed the connection", now);
        return;
      case Io::kFailed:
        fail(tls_.active() ? tls_.trouble() : errno_error("Cannot receive", errno).message, now);
        return;
    }
  }
}

std::size_t Connection::send(const iovec* pieces, int count, MonoTime now) {
  writing_blocked_ = false;
  if (tls_.active()) {
    std::size_t total = 0;
    for (int i = 0; i < count; ++i) {
      std::size_t done = 0;
      while (done < pieces[i].iov_len) {
        std::size_t put = 0;
        const Io io = tls_.write(static_cast<const char*>(pieces[i].iov_base) + done,
                                 pieces[i].iov_len - done, put);
        if (io == Io::kWantRead || io == Io::kWantWrite) {
          writing_blocked_ = true;
          return total;
        }
        if (io != Io::kDone) {
          fail(tls_.trouble().empty() ? "the server closed the connection" : tls_.trouble(), now);
          return 0;
        }
        done += put;
        total += put;
      }
    }
    return total;
  }
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces);
  message.msg_iovlen = static_cast<std::size_t>(count);
  for (;;) {
    const ssize_t put = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put >= 0) {
      return static_cast<std::size_t>(put);
    }
    if (errno == EINTR) {
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      writing_blocked_ = true;
      return 0;
    }
    fail(errno_error("Cannot send", errno).message, now);
    return 0;
  }
}

void Connection::fail(std::string why, MonoTime now) {
  trouble_ = std::move(why);
  tls_.end();
  fd_.reset();
  resolver_.kill();
  addresses_.clear();
  const Millis delay = std::min(kLongestDelay, kFirstDelay * (1 << std::min(failures_, 5)));
  ++failures_;
  retry_at_ = now + with_jitter(delay);
  state_ = State::kWaiting;
}

std::string Connection::local_address() const {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  char text[INET6_ADDRSTRLEN] = "";
  if (!fd_ || ::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return {};
  }
  if (storage.ss_family == AF_INET) {
    ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(&storage)->sin_addr, text, sizeof text);
  } else if (storage.ss_family == AF_INET6) {
    ::inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6*>(&storage)->sin6_addr, text, sizeof text);
  }
  return text;
}

}  // namespace quad::runner
