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
#include <thread>
#include <vector>

#include "net/proxy.h"

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
  return error(ErrorCode::kUnavailable, "Cannot reach the " + options.peer + " at " + options.url +
                                            ": " + std::string(why) + ".");
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

/// One question to the resolver. It owns all that getaddrinfo touches.
struct Lookup {
  std::string host;
  std::string port;
  int failure = 0;
  std::vector<SocketAddress> found;
  std::shared_ptr<Cancel> done;

  void run() {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_ADDRCONFIG;
    addrinfo* list = nullptr;
    failure = getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
    for (const addrinfo* entry = list; failure == 0 && entry != nullptr; entry = entry->ai_next) {
      SocketAddress& copy = found.emplace_back();
      std::memcpy(&copy.storage, entry->ai_addr, entry->ai_addrlen);
      copy.size = entry->ai_addrlen;
    }
    if (failure == 0) {
      freeaddrinfo(list);
    }
  }
};

/// Asks the resolver. It can hang for as long as its own configuration lets it, and nothing
/// interrupts it: who has a Cancel gets it on a thread of its own, left behind when the time is up.
Result<std::shared_ptr<const Lookup>> look_up(const ServerAddress& address,
                                              const ClientOptions& options) {
  const auto lookup = std::make_shared<Lookup>();
  lookup->host = address.host;
  lookup->port = std::to_string(address.port);
  if (options.cancel == nullptr) {
    lookup->run();
    return std::shared_ptr<const Lookup>(lookup);
  }
  QUAD_ASSIGN(lookup->done, Cancel::create());
  std::thread([lookup] {
    lookup->run();
    lookup->done->cancel();
  }).detach();
  switch (wait_for_fd(lookup->done->fd(), POLLIN, options.connect_timeout, options.cancel.get())) {
    case Waited::kCancelled:
      return cancelled_error(options.peer);
    case Waited::kTimeout:
      return cannot_reach(options, "the name '" + address.host + "' did not resolve within " +
                                       format_duration(options.connect_timeout));
    case Waited::kReady:
      break;
  }
  return std::shared_ptr<const Lookup>(lookup);
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
  QUAD_ASSIGN(const auto lookup, look_up(address, options));
  if (lookup->failure != 0) {
    return cannot_reach(options, "the name '" + address.host + "' does not resolve (" +
                                     lower_first(gai_strerror(lookup->failure)) + ")");
  }
  return lookup->found;
}

/// 0, or the errno of the failure.
int connect_fd(int fd, const SocketAddress& address, const ClientOptions& options) {
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) == 0) {
    return 0;
  }
  if (errno != EINPROGRESS && errno != EINTR) {
    return errno;
  }
  switch (wait_for_fd(fd, POLLOUT, options.connect_timeout, options.cancel.get())) {
    case Waited::kCancelled:
      return ECANCELED;
    case Waited::kTimeout:
      return ETIMEDOUT;
    case Waited::kReady:
      break;
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

Error cancelled_error(std::string_view peer) {
  return error(ErrorCode::kUnavailable,
               "The request to the " + std::string(peer) + " was given up, as asked.");
}

Status Wire::check_cancel() const {
  if (cancel_ != nullptr && cancel_->cancelled()) {
    return cancelled_error(peer_);
  }
  return {};
}

Error Wire::broken(std::string_view why) const {
  return error(ErrorCode::kUnavailable,
               "The connection to the " + peer_ + " broke: " + std::string(why) + ".");
}

Status Wire::wait_to_read(short events, Millis timeout) const {
  switch (wait_for_fd(fd_.get(), events, timeout, cancel_.get())) {
    case Waited::kReady:
      return {};
    case Waited::kTimeout:
      return error(ErrorCode::kTimeout,
                   "The " + peer_ + " sent nothing for " + format_duration(timeout) + ".");
    case Waited::kCancelled:
      break;
  }
  return cancelled_error(peer_);
}

Status Wire::wait_to_write(short events, Millis timeout) const {
  switch (wait_for_fd(fd_.get(), events, timeout, cancel_.get())) {
    case Waited::kReady:
      return {};
    case Waited::kTimeout:
      return error(ErrorCode::kTimeout,
                   "The " + peer_ + " took nothing for " + format_duration(timeout) + ".");
    case Waited::kCancelled:
      break;
  }
  return cancelled_error(peer_);
}

Result<std::size_t> Wire::read_some(std::span<char> into, Millis timeout) {
  while (true) {
    QUAD_TRY(check_cancel());
    const auto got = ::recv(fd_.get(), into.data(), into.size(), 0);
    if (got >= 0) {
      return static_cast<std::size_t>(got);
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      QUAD_TRY(wait_to_read(POLLIN, timeout));
    } else if (errno != EINTR) {
      return broken(lower_first(std::generic_category().message(errno)));
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
      QUAD_TRY(
          wait_to_write(static_cast<short>(heed_answer ? POLLOUT | POLLIN : POLLOUT), timeout));
    } else if (errno != EINTR) {
      return broken(lower_first(std::generic_category().message(errno)));
    }
  }
  return true;
}

Result<std::size_t> Wire::write_some(std::string_view bytes) {
  while (true) {
    const auto sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      return static_cast<std::size_t>(sent);
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return std::size_t{0};
    }
    if (errno != EINTR) {
      return broken(lower_first(std::generic_category().message(errno)));
    }
  }
}

bool Wire::answer_waiting() {
  char one = 0;
  const auto got = ::recv(fd_.get(), &one, 1, MSG_PEEK | MSG_DONTWAIT);
  return got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

namespace {

/// A dead machine or network is noticed within half a minute, also by who only listens. (What is
/// sent and not taken is up to the caller's timeout: a server that stands still is not dead.)
void watch_over(int fd) {
  const auto set = [fd](int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

Result<UniqueFd> connect_socket(const ServerAddress& address, const ClientOptions& options) {
  QUAD_ASSIGN(const auto ends, resolve(address, options));
  int failure = EHOSTUNREACH;
  for (const auto& end : ends) {
    UniqueFd fd(::socket(end.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) {
      failure = errno;
      continue;
    }
    failure = connect_fd(fd.get(), end, options);
    if (failure == 0) {
      if (end.storage.ss_family != AF_UNIX) {
        watch_over(fd.get());
      }
      return fd;
    }
    if (failure == ECANCELED) {
      return cancelled_error(options.peer);
    }
  }
  if (failure == ETIMEDOUT) {
    return cannot_reach(options, "no answer within " + format_duration(options.connect_timeout));
  }
  if (failure == ENOENT) {
    return cannot_reach(options, "there is no such socket, so no server runs there");
  }
  return cannot_reach(options, lower_first(std::generic_category().message(failure)));
}

/// Reads the proxy's answer, byte by byte, so that nothing of what follows it is taken.
Result<std::string> read_head(Wire& wire, Millis timeout) {
  constexpr std::size_t kMostHead = 16U << 10U;
  std::string head;
  while (!head.ends_with("\r\n\r\n")) {
    char one = 0;
    QUAD_ASSIGN(const auto got, wire.read_some(std::span(&one, 1), timeout));
    if (got == 0 || head.size() >= kMostHead) {
      return error(ErrorCode::kUnavailable, "it gave no HTTP answer");
    }
    head += one;
  }
  return head;
}

Result<UniqueFd> connect_through_proxy(const ServerAddress& address, const ClientOptions& options) {
  QUAD_ASSIGN(const auto proxy, parse_proxy(options.proxy));
  QUAD_ASSIGN(const auto proxy_address, parse_address(proxy.url));
  auto proxy_options = options;
  proxy_options.peer = "proxy";
  proxy_options.url = proxy.url;
  QUAD_ASSIGN(auto fd, connect_socket(proxy_address, proxy_options));

  const bool colon = address.host.find(':') != std::string::npos;
  const auto target =
      (colon ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
  std::string request = "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n";
  if (!proxy.authorization.empty()) {
    request += "Proxy-Authorization: " + proxy.authorization + "\r\n";
  }
  request += "\r\n";
  Wire wire(std::move(fd), proxy_options);
  QUAD_TRY(wire.write(request, options.connect_timeout, false));
  const auto head = read_head(wire, options.connect_timeout);
  const auto refuse = [&](std::string_view why) {
    return cannot_reach(options,
                        "the proxy at " + proxy.url + " does not connect: " + std::string(why));
  };
  if (options.cancel != nullptr && options.cancel->cancelled()) {
    return cancelled_error(options.peer);
  }
  if (!head.ok()) {
    return refuse(head.error().message);
  }
  const auto line = std::string_view(*head).substr(0, head->find("\r\n"));
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[9] != '2') {
    return refuse(line.size() > 9 ? line.substr(9) : line);
  }
  return wire.release();
}

}  // namespace

Result<std::unique_ptr<Wire>> connect_wire(const ServerAddress& address,
                                           const ClientOptions& options) {
  const bool local = address.scheme == ServerAddress::Scheme::kUnix;
  QUAD_ASSIGN(auto fd, options.proxy.empty() || local ? connect_socket(address, options)
                                                      : connect_through_proxy(address, options));
  if (address.scheme == ServerAddress::Scheme::kHttps) {
    return connect_tls(std::move(fd), address, options);
  }
  return std::make_unique<Wire>(std::move(fd), options);
}

}  // namespace quad::net
