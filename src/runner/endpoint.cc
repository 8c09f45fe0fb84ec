#include "runner/endpoint.h"

#include <ares.h>
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/text.h"

namespace quad::runner {

std::string Endpoint::authority() const {
  if (!unix_path.empty()) {
    return "localhost";
  }
  const std::string name = host.find(':') != std::string::npos ? "[" + host + "]" : host;
  return port == (tls ? "443" : "80") ? name : name + ":" + port;
}

Result<Endpoint> parse_endpoint(std::string_view url) {
  Endpoint endpoint;
  if (url.starts_with("unix:")) {
    endpoint.unix_path = url.substr(5);
    if (endpoint.unix_path.empty() || endpoint.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return error(ErrorCode::kInvalid,
                   fmt::format("The unix socket path in {} must have 1 to 107 bytes", url));
    }
    return endpoint;
  }
  std::string_view rest;
  if (url.starts_with("http://")) {
    rest = url.substr(7);
  } else if (url.starts_with("https://")) {
    endpoint.tls = true;
    rest = url.substr(8);
  } else {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} is no address: unix:/path, http://host:port or https://host:port "
                             "is expected",
                             url));
  }
  rest = rest.substr(0, rest.find_first_of("/?#"));
  if (const std::size_t at = rest.rfind('@'); at != std::string_view::npos) {
    rest.remove_prefix(at + 1);
  }
  std::string_view host = rest;
  std::string_view port;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    host = rest.substr(1, end == std::string_view::npos ? end : end - 1);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    port = rest.starts_with(':') ? rest.substr(1) : std::string_view();
  } else if (const std::size_t colon = rest.rfind(':'); colon != std::string_view::npos) {
    host = rest.substr(0, colon);
    port = rest.substr(colon + 1);
  }
  endpoint.host = host;
  endpoint.port = port.empty() ? (endpoint.tls ? "443" : "80") : std::string(port);
  int number = 0;
  const auto parsed =
      std::from_chars(endpoint.port.data(), endpoint.port.data() + endpoint.port.size(), number);
  if (endpoint.host.empty() || parsed.ec != std::errc() ||
      parsed.ptr != endpoint.port.data() + endpoint.port.size() || number < 1 || number > 65535) {
    return error(ErrorCode::kInvalid, fmt::format("{} names no host and port", url));
  }
  return endpoint;
}

std::vector<Address> numeric_address(std::string_view ip, std::string_view port) {
  Address address;
  const std::string text(ip);
  const auto number = static_cast<in_port_t>(std::atoi(std::string(port).c_str()));
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(number);
    address.size = sizeof *v4;
    return {address};
  }
  if (::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(number);
    address.size = sizeof *v6;
    return {address};
  }
  return {};
}

std::vector<Address> numeric_addresses(const Endpoint& endpoint) {
  if (endpoint.unix_path.empty()) {
    return numeric_address(endpoint.host, endpoint.port);
  }
  Address address;
  auto* local = reinterpret_cast<sockaddr_un*>(&address.storage);
  local->sun_family = AF_UNIX;
  std::memcpy(local->sun_path, endpoint.unix_path.data(), endpoint.unix_path.size());
  address.size =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + endpoint.unix_path.size() + 1);
  return {address};
}

namespace {

struct Lookup {
  bool done = false;
  int status = ARES_SUCCESS;
  std::vector<std::string> hosts;
};

void on_resolved(void* argument, int status, int /*timeouts*/, ares_addrinfo* result) {
  auto* lookup = static_cast<Lookup*>(argument);
  lookup->done = true;
  lookup->status = status;
  if (result == nullptr) {
    return;
  }
  for (const ares_addrinfo_node* node = result->nodes; node != nullptr; node = node->ai_next) {
    char text[INET6_ADDRSTRLEN] = "";
    const void* address = node->ai_family == AF_INET
                              ? static_cast<const void*>(
                                    &reinterpret_cast<const sockaddr_in*>(node->ai_addr)->sin_addr)
                              : &reinterpret_cast<const sockaddr_in6*>(node->ai_addr)->sin6_addr;
    if (::inet_ntop(node->ai_family, address, text, sizeof text) != nullptr) {
      lookup->hosts.emplace_back(text);
    }
  }
  ares_freeaddrinfo(result);
}

}  // namespace

Result<std::vector<std::string>> resolve(const std::string& host) {
  if (!numeric_address(host, "1").empty()) {
    return std::vector<std::string>{host};
  }
  if (host == "localhost") {
    return std::vector<std::string>{"127.0.0.1",
                                    "::1"};  // RFC 6761; an image may have no hosts file
  }
  Lookup lookup;
  ares_channel channel = nullptr;
  int status = ares_library_init(ARES_LIB_INIT_ALL);
  if (status == ARES_SUCCESS) {
    status = ares_init(&channel);
  }
  if (status != ARES_SUCCESS) {
    return error(ErrorCode::kIo,
                 fmt::format("Names cannot be resolved: {}", ares_strerror(status)));
  }
  ares_addrinfo_hints hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  ares_getaddrinfo(channel, host.c_str(), nullptr, &hints, on_resolved, &lookup);
  while (!lookup.done) {
    ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
    const int mask = ares_getsock(channel, sockets, ARES_GETSOCK_MAXNUM);
    pollfd polled[ARES_GETSOCK_MAXNUM];
    nfds_t count = 0;
    for (int i = 0; i < ARES_GETSOCK_MAXNUM; ++i) {
      const bool readable = ARES_GETSOCK_READABLE(static_cast<unsigned>(mask), i) != 0;
      const bool writable = ARES_GETSOCK_WRITABLE(static_cast<unsigned>(mask), i) != 0;
      if (readable || writable) {
        polled[count++] = {
            sockets[i], static_cast<short>((readable ? POLLIN : 0) | (writable ? POLLOUT : 0)), 0};
      }
    }
    timeval longest{1, 0};
    timeval next{};
    const timeval* wait = ares_timeout(channel, &longest, &next);
    ::poll(polled, count, static_cast<int>(wait->tv_sec * 1000 + wait->tv_usec / 1000 + 1));
    ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);  // time-outs
    for (nfds_t i = 0; i < count; ++i) {
      if (polled[i].revents != 0) {
        ares_process_fd(channel,
                        (polled[i].revents & ~POLLOUT) != 0 ? polled[i].fd : ARES_SOCKET_BAD,
                        (polled[i].revents & POLLOUT) != 0 ? polled[i].fd : ARES_SOCKET_BAD);
      }
    }
  }
  ares_destroy(channel);
  if (lookup.hosts.empty()) {
    return error(
        ErrorCode::kUnavailable,
        fmt::format("The name {} cannot be resolved: {}", host,
                    ares_strerror(lookup.status == ARES_SUCCESS ? ARES_ENODATA : lookup.status)));
  }
  return std::move(lookup.hosts);
}

Result<UniqueFd> begin_connect(const Address& address) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) {
    return errno_error("Cannot make a socket", errno);
  }
  if (address.storage.ss_family != AF_UNIX) {
    const auto set = [&](int level, int name, int value) {
      ::setsockopt(fd.get(), level, name, &value, sizeof value);
    };
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 5);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, 20'000);
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0 &&
      errno != EINPROGRESS) {
    return errno_error("Cannot connect", errno);
  }
  return fd;
}

}  // namespace quad::runner
