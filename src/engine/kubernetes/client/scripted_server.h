// engine/kubernetes/client/scripted_server.h  (for tests only)
//
// An HTTP server that says, byte for byte, what a test tells it to: for the faults that no real API
// server makes on order. One thread for each connection; the script is called on it for each
// request, and may be called from several at once. Nothing here waits longer than kPatience.

#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/file.h"

namespace quad::kubernetes {

inline constexpr std::chrono::seconds kPatience{20};

/// Polls until `holds()` or patience ends.
inline bool eventually(const std::function<bool()>& holds) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > until) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

struct Asked {
  std::string method;
  std::string target;
  std::string head;
  std::string body;

  [[nodiscard]] bool has(std::string_view text) const {
    return target.find(text) != std::string::npos;
  }
};

/// The server's side of one request.
class Conversation {
 public:
  explicit Conversation(int fd) : fd_(fd) {}

  void raw(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) {
        ended_ = true;
        return;
      }
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  void answer(int status, std::string_view body, std::string_view headers = {}) {
    raw(fmt::format("HTTP/1.1 {} X\r\nContent-Length: {}\r\n{}\r\n{}", status, body.size(), headers,
                    body));
  }
  void begin_stream() { raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"); }
  void chunk(std::string_view text) { raw(fmt::format("{:x}\r\n{}\r\n", text.size(), text)); }
  void end_stream() { raw("0\r\n\r\n"); }
  /// The connection is closed when the script returns.
  void hang_up() { ended_ = true; }
  /// Waits until the client, or the server, closes.
  void wait_closed() {
    char one = 0;
    while (::recv(fd_, &one, 1, 0) > 0) {
    }
    ended_ = true;
  }
  [[nodiscard]] bool ended() const { return ended_; }

 private:
  int fd_;
  bool ended_ = false;
};

class ScriptedServer {
 public:
  using Script = std::function<void(const Asked& asked, Conversation& with)>;

  explicit ScriptedServer(Script script, std::uint16_t port = 0) : script_(std::move(script)) {
    listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_.get(), 64) != 0) {
      std::abort();
    }
    ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~ScriptedServer() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    for (const auto& fd : connections_) {
      ::shutdown(fd.get(), SHUT_RDWR);
    }
    for (auto& thread : threads_) {
      thread.join();
    }
  }
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] std::string url() const { return fmt::format("http://127.0.0.1:{}", port_); }
  /// All requests so far.
  [[nodiscard]] std::vector<Asked> asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  void accept_all() {
    while (true) {
      const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) {
        return;
      }
      const int on = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      connections_.emplace_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    std::string held;
    const auto more = [&] {
      std::array<char, 4096> buffer{};
      const auto got = ::recv(fd, buffer.data(), buffer.size(), 0);
      held.append(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
      return got > 0;
    };
    while (true) {
      while (held.find("\r\n\r\n") == std::string::npos) {
        if (!more()) {
          return;
        }
      }
      Asked asked;
      asked.head = held.substr(0, held.find("\r\n\r\n") + 4);
      held.erase(0, asked.head.size());
      asked.method = asked.head.substr(0, asked.head.find(' '));
      const auto start = asked.method.size() + 1;
      asked.target = asked.head.substr(start, asked.head.find(' ', start) - start);
      std::size_t length = 0;
      if (const auto at = asked.head.find("Content-Length: "); at != std::string::npos) {
        std::from_chars(asked.head.data() + at + 16, asked.head.data() + asked.head.size(), length);
      }
      while (held.size() < length) {
        if (!more()) {
          return;
        }
      }
      asked.body = held.substr(0, length);
      held.erase(0, length);
      {
        const std::lock_guard lock(mutex_);
        asked_.push_back(asked);
      }
      Conversation with(fd);
      script_(asked, with);
      if (with.ended()) {
        ::shutdown(fd, SHUT_RDWR);
        return;
      }
    }
  }

  Script script_;
  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::thread acceptor_;
  std::vector<UniqueFd> connections_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::vector<Asked> asked_;
};

}  // namespace quad::kubernetes
