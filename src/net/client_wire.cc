#include "net/client_wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <vector>

namespace quad::net {

namespace {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

std::string lower_first(std::string text) {
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z') {
    text[0] = static_cast<char>(text[0] - 'A' + 'a');
  }
  return text;
}

Error cannot_reach(const ClientOptions& options, std::string_view why) {
  return error(ErrorCode::kUnavailable,
               "Cannot reach the Quad server at " + options.url + ": " + std::string(why) + ".");
}

SocketAddress ipv4(in_addr number, std::uint16_t port) {
  SocketAddress address;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = htons(port);
  four.sin_addr = number;
  std::memcpy(&address.storage, &four, sizeof four);
  address.size = sizeof four;
  return address;
}

SocketAddress ipv6(const in6_addr& number, std::uint16_t port) {
  SocketAddress address;
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(port);
  six.sin6_addr = number;
  std::memcpy(&address.storage, &six, sizeof six);
  address.size = sizeof six;
  return address;
}

Result<std::vector<SocketAddress>> resolve(const ServerAddress& address,
                                           const ClientOptions& options) {
  std::vector<SocketAddress> found;
  if (address.scheme == ServerAddress::Scheme::kUnix) {
    sockaddr_un local{};
    local.sun_family = AF_UNIX;
    std::memcpy(local.sun_path, address.host.data(), address.host.size());
    SocketAddress& entry = found.emplace_back();
    std::memcpy(&entry.storage, &local, sizeof local);
    entry.size = sizeof local;
    return found;
  }
  // Numbers and localhost without the resolver, which would load and read its configuration first.
  in_addr four{};
  in6_addr six{};
  if (address.host == "localhost") {
    four.s_addr = htonl(INADDR_LOOPBACK);
    found.push_back(ipv4(four, address.port));
    found.push_back(ipv6(in6addr_loopback, address.port));
    return found;
  }
  if (inet_pton(AF_INET, address.host.c_str(), &four) == 1) {
    found.push_back(ipv4(four, address.port));
    return found;
  }
  if (inet_pton(AF_INET6, address.host.c_str(), &six) == 1) {
    found.push_back(ipv6(six, address.port));
    return found;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* list = nullptr;
  const int failure =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &list);
  if (failure != 0) {
    return cannot_reach(options, "the name '" + address.host + "' does not resolve (" +
                                     lower_first(gai_strerror(failure)) + ")");
  }
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    SocketAddress& copy = found.emplace_back();
    std::memcpy(&copy.storage, entry->ai_addr, entry->ai_addrlen);
    copy.size = entry->ai_addrlen;
  }
  freeaddrinfo(list);
  return found;
}

/// 0, or the errno of the failure.
int connect_fd(int fd, const SocketAddress& address, Millis timeout) {
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) == 0) {
    return 0;
  }
  if (errno != EINPROGRESS && errno != EINTR) {
    return errno;
  }
  if (!wait_for_fd(fd, POLLOUT, timeout)) {
    return ETIMEDOUT;
  }
  int failure = 0;
  socklen_t length = sizeof failure;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &length) != 0) {
    return errno;
  }
  return failure;
}

Error bad_address(std::string_view url, std::string_view why) {
  return error(ErrorCode::kInvalid,
               "'" + std::string(url) + "' is not a server's address (" + std::string(why) +
                   "): write http://host:port, https://host:port or unix:/path/of/socket.");
}

}  // namespace

Result<ServerAddress> parse_address(std::string_view url) {
  using Scheme = ServerAddress::Scheme;
  ServerAddress address;
  auto rest = url;
  const auto starts = [&](std::string_view scheme) {
    return rest.size() >= scheme.size() &&
           equal_ignoring_case(rest.substr(0, scheme.size()), scheme);
  };
  if (starts("unix:")) {
    rest.remove_prefix(5);
    if (rest.starts_with("///")) {
      rest.remove_prefix(2);
    }
    if (!rest.starts_with('/')) {
      return bad_address(url, "the socket's path is not absolute");
    }
    if (rest.size() >= sizeof(sockaddr_un{}.sun_path)) {
      return bad_address(url, "the socket's path is too long");
    }
    address.scheme = Scheme::kUnix;
    address.host = rest;
    address.host_header = "localhost";
    return address;
  }
  if (starts("http://")) {
    rest.remove_prefix(7);
    address.port = 80;
  } else if (starts("https://")) {
    rest.remove_prefix(8);
    address.scheme = Scheme::kHttps;
    address.port = 443;
  } else {
    return bad_address(url, "it does not begin with http://, https:// or unix:");
  }
  if (rest.find_first_of("?#@ \t\r\n") != std::string_view::npos) {
    return bad_address(url, "it may have no spaces, no '@', '?' or '#'");
  }
  const auto slash = rest.find('/');
  auto authority = rest.substr(0, slash);
  if (slash != std::string_view::npos) {
    address.prefix = rest.substr(slash);
    while (address.prefix.ends_with('/')) {
      address.prefix.pop_back();
    }
  }
  address.host_header = authority;
  std::string_view port;
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) {
      return bad_address(url, "the bracket is not closed");
    }
    address.host = authority.substr(1, end - 1);
    port = authority.substr(end + 1);
  } else {
    const auto colon = authority.find(':');
    address.host = authority.substr(0, colon);
    port = colon == std::string_view::npos ? std::string_view{} : authority.substr(colon);
  }
  if (address.host.empty()) {
    return bad_address(url, "the host is missing");
  }
  if (!port.empty()) {
    const auto* end = port.data() + port.size();
    const auto [stop, failure] = std::from_chars(port.data() + 1, end, address.port);
    if (port.front() != ':' || failure != std::errc() || stop != end || address.port == 0) {
      return bad_address(url, "the port must be a number from 1 to 65535");
    }
  }
  return address;
}

Error read_timeout_error(Millis timeout) {
  return error(ErrorCode::kTimeout,
               "The Quad server sent nothing for " + format_duration(timeout) + ".");
}

bool wait_for_fd(int fd, short events, Millis timeout) {
  using Clock = std::chrono::steady_clock;
  const bool endless = timeout <= Millis(0);
  const auto until = Clock::now() + timeout;
  pollfd entry{fd, events, 0};
  while (true) {
    int left = -1;
    if (!endless) {
      left = static_cast<int>(
          std::max<std::int64_t>(0, std::chrono::ceil<Millis>(until - Clock::now()).count()));
    }
    const int ready = ::poll(&entry, 1, left);
    if (ready > 0) {
      return true;
    }
    if (ready == 0) {
      return false;
    }
    if (errno != EINTR) {
      return true;  // the operation itself will say what is wrong
    }
  }
}

bool Wire::wait(short events, Millis timeout) const {
  return wait_for_fd(fd_.get(), events, timeout);
}

Result<std::size_t> Wire::read_some(std::span<char> into, Millis timeout) {
  while (true) {
    const auto got = ::recv(fd_.get(), into.data(), into.size(), 0);
    if (got >= 0) {
      return static_cast<std::size_t>(got);
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      if (!wait(POLLIN, timeout)) {
        return read_timeout_error(timeout);
      }
    } else if (errno != EINTR) {
      return error(ErrorCode::kUnavailable,
                   "The connection to the Quad server broke: " +
                       lower_first(std::generic_category().message(errno)) + ".");
    }
  }
}

Result<bool> Wire::write(std::string_view bytes, Millis timeout, bool heed_answer) {
  while (!bytes.empty()) {
    if (heed_answer && answer_waiting()) {
      return false;
    }
    const auto sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      const auto events = static_cast<short>(heed_answer ? POLLOUT | POLLIN : POLLOUT);
      if (!wait(events, timeout)) {
        return error(ErrorCode::kTimeout,
                     "The Quad server took nothing for " + format_duration(timeout) + ".");
      }
    } else if (errno != EINTR) {
      return error(ErrorCode::kUnavailable,
                   "The connection to the Quad server broke: " +
                       lower_first(std::generic_category().message(errno)) + ".");
    }
  }
  return true;
}

bool Wire::answer_waiting() {
  char one = 0;
  const auto got = ::recv(fd_.get(), &one, 1, MSG_PEEK | MSG_DONTWAIT);
  return got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

Result<std::unique_ptr<Wire>> connect_wire(const ServerAddress& address,
                                           const ClientOptions& options) {
  QUAD_ASSIGN(const auto ends, resolve(address, options));
  int failure = EHOSTUNREACH;
  for (const auto& end : ends) {
    UniqueFd fd(::socket(end.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) {
      failure = errno;
      continue;
    }
    failure = connect_fd(fd.get(), end, options.connect_timeout);
    if (failure != 0) {
      continue;
    }
    if (end.storage.ss_family != AF_UNIX) {
      const int on = 1;
      setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    }
    if (address.scheme == ServerAddress::Scheme::kHttps) {
      return connect_tls(std::move(fd), address, options);
    }
    return std::make_unique<Wire>(std::move(fd));
  }
  if (failure == ETIMEDOUT) {
    return cannot_reach(options, "no answer within " + format_duration(options.connect_timeout));
  }
  if (failure == ENOENT) {
    return cannot_reach(options, "there is no such socket, so no server runs there");
  }
  return cannot_reach(options, lower_first(std::generic_category().message(failure)));
}

}  // namespace quad::net
