// http_load HOST PORT TOKEN TARGET BODY CLIENTS SECONDS
//
// Posts the same body again and again over CLIENTS connections that stay open, each with one
// request under way, and prints what was answered as JSON. One thread and one epoll, so that it
// takes little of the processors that the server under test needs. Exits with 1 at the first answer
// that is not 201.

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace {

using SteadyClock = std::chrono::steady_clock;

struct Client {
  quad::UniqueFd fd;
  std::string answer;
  SteadyClock::time_point sent;
};

[[noreturn]] void fail(std::string_view what) {
  fmt::print(stderr, "http_load: {}\n", what);
  std::exit(1);
}

void send_request(Client& client, const std::string& request) {
  client.answer.clear();
  client.sent = SteadyClock::now();
  if (::send(client.fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    fail("the server does not take a request");
  }
}

/// Whether the whole answer is there.
bool complete(const std::string& answer) {
  constexpr std::string_view kLength = "Content-Length: ";
  const std::size_t end = answer.find("\r\n\r\n");
  if (end == std::string::npos) {
    return false;
  }
  if (!answer.starts_with("HTTP/1.1 201 ")) {
    fail(answer);
  }
  const std::size_t at = answer.find(kLength);
  if (at == std::string::npos || at > end) {
    fail("an answer has no length");
  }
  std::size_t length = 0;
  std::from_chars(answer.data() + at + kLength.size(), answer.data() + end, length);
  return answer.size() >= end + 4 + length;
}

quad::UniqueFd connect_to(const char* host, const char* port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(std::atoi(port)));
  quad::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (!fd || ::inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
    fail("cannot connect");
  }
  return fd;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 8) {
    fail("usage: http_load HOST PORT TOKEN TARGET BODY CLIENTS SECONDS");
  }
  const std::string_view body = arguments[5];
  const std::string request = fmt::format(
      "POST {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n"
      "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      arguments[4], arguments[1], arguments[3], body.size(), body);
  const quad::UniqueFd poll(::epoll_create1(EPOLL_CLOEXEC));
  std::vector<Client> clients(static_cast<std::size_t>(std::atoi(arguments[6])));
  for (std::size_t i = 0; i < clients.size(); ++i) {
    clients[i].fd = connect_to(arguments[1], arguments[2]);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    ::epoll_ctl(poll.get(), EPOLL_CTL_ADD, clients[i].fd.get(), &event);
  }
  std::vector<double> millis;
  const auto began = SteadyClock::now();
  const auto end = began + std::chrono::seconds(std::atoi(arguments[7]));
  for (Client& client : clients) {
    send_request(client, request);
  }
  std::size_t under_way = clients.size();
  std::array<epoll_event, 64> events{};
  std::array<char, 16384> piece{};
  while (under_way > 0) {
    const int ready = ::epoll_wait(poll.get(), events.data(), events.size(), 10'000);
    if (ready <= 0) {
      fail("the server has not answered for 10 s");
    }
    for (int i = 0; i < ready; ++i) {
      Client& client = clients[events[static_cast<std::size_t>(i)].data.u64];
      const ssize_t got = ::recv(client.fd.get(), piece.data(), piece.size(), 0);
      if (got <= 0) {
        fail("the server closed a connection");
      }
      client.answer.append(piece.data(), static_cast<std::size_t>(got));
      if (!complete(client.answer)) {
        continue;
      }
      const auto now = SteadyClock::now();
      millis.push_back(std::chrono::duration<double, std::milli>(now - client.sent).count());
      if (now < end) {
        send_request(client, request);
      } else {
        --under_way;
      }
    }
  }
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - began).count();
  std::sort(millis.begin(), millis.end());
  fmt::print(R"({{"answered": {}, "per_second": {:.1f}, "p50_ms": {:.3f}, "p99_ms": {:.3f}}})"
             "\n",
             millis.size(), static_cast<double>(millis.size()) / seconds, millis[millis.size() / 2],
             millis[millis.size() * 99 / 100]);
  return 0;
}
