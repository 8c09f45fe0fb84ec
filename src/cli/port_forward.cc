#include "cli/port_forward.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "cli/clusters.h"
#include "cli/output.h"
#include "cli/session.h"
#include "session/pump.h"

namespace quad::cli {

namespace {

constexpr Millis kTick{60'000};
constexpr int kBacklog = 128;

volatile sig_atomic_t end_signal = 0;

void on_end(int number) {
  end_signal = number;
}

/// Ctrl-C and SIGTERM end the forwarding; they are let through only while it waits.
sigset_t prepare_signals() {
  end_signal = 0;
  sigset_t held;
  sigset_t unblocked;
  sigemptyset(&held);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = on_end;
    ::sigaction(number, &action, &before);
    if (before.sa_handler == SIG_IGN) {
      ::signal(number, SIG_IGN);
    }
    sigaddset(&held, number);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::sigprocmask(SIG_BLOCK, &held, &unblocked);
  return unblocked;
}

struct Listener {
  UniqueFd fd;
  PortPair ports;
};

Result<Listener> listen_at(const std::string& address, PortPair ports) {
  sockaddr_storage storage{};
  socklen_t size = 0;
  auto* four = reinterpret_cast<sockaddr_in*>(&storage);
  auto* six = reinterpret_cast<sockaddr_in6*>(&storage);
  const std::string number = address == "localhost" ? "127.0.0.1" : address;
  if (::inet_pton(AF_INET, number.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(static_cast<in_port_t>(ports.local));
    size = sizeof *four;
  } else if (::inet_pton(AF_INET6, number.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(static_cast<in_port_t>(ports.local));
    size = sizeof *six;
  } else {
    return error(ErrorCode::kInvalid,
                 fmt::format("--address '{}' is no address of this machine in numbers, such as "
                             "127.0.0.1 or 0.0.0.0",
                             address));
  }
  Listener listener{
      UniqueFd(::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), ports};
  const int on = 1;
  ::setsockopt(listener.fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!listener.fd || ::bind(listener.fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0 ||
      ::listen(listener.fd.get(), kBacklog) != 0 ||
      ::getsockname(listener.fd.get(), reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return errno_error(fmt::format("Cannot listen at {} port {}", address, ports.local), errno);
  }
  listener.ports.local = ntohs(storage.ss_family == AF_INET ? four->sin_port : six->sin6_port);
  return listener;
}

class Forwarder {
 public:
  Forwarder(ClientCarrier& carrier, std::vector<Listener> listeners)
      : pump_(carrier, session::kForwardWindow), listeners_(std::move(listeners)) {
    pump_.watch_over(clock_);
    pump_.on_message = [this](const json::object& message) { take(message); };
    pump_.say({{"type", "begin"}, {"kind", "forward"}});
  }

  /// Until a signal, or the session ends, which is an error.
  Status run(const sigset_t& unblocked) {
    while (end_signal == 0) {
      std::vector<pollfd> polled;
      const bool full = pump_.streams() >= session::kMostStreams;
      for (const Listener& listener : listeners_) {
        // Who finds no room waits in the backlog.
        polled.push_back({full ? -1 : listener.fd.get(), POLLIN, 0});
      }
      QUAD_TRY(pump_.step(polled, kTick, &unblocked));
      for (std::size_t i = 0; i < polled.size(); ++i) {
        if ((polled[i].revents & POLLIN) != 0) {
          accept_from(listeners_[i]);
        }
      }
      if (!failure_.empty()) {
        return error(ErrorCode::kIo, failure_);
      }
    }
    return {};
  }

 private:
  void accept_from(const Listener& listener) {
    while (pump_.streams() < session::kMostStreams) {
      UniqueFd fd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) {
        return;
      }
      const int on = 1;
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      UniqueFd other(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
      if (!other) {
        return;
      }
      const session::StreamId id = next_++;
      pump_.say({{"type", "connect"}, {"stream", id}, {"port", listener.ports.remote}});
      pump_.attach(id, {std::move(fd), std::move(other), session::LocalEnd::Kind::kSocket});
    }
  }

  void take(const json::object& message) {
    const std::string_view type = get_string(message, "type");
    if (type == "refused") {
      complain("{}\n", get_string(message, "message"));
      pump_.cut(static_cast<session::StreamId>(get_int(message, "stream")));
    } else if (type == "failed" || type == "exit") {
      failure_ = get_string(message, "message", "the rank ended the session");
    }
  }

  const SystemClock clock_;
  session::Pump pump_;
  std::vector<Listener> listeners_;
  session::StreamId next_ = 1;
  std::string failure_;
};

}  // namespace

std::optional<PortPair> parse_port_pair(std::string_view text) {
  const std::size_t colon = text.find(':');
  const auto number = [](std::string_view digits, int least) -> int {
    const int value = parse_number<int>(digits).value_or(-1);
    return value >= least && value <= 65535 ? value : -1;
  };
  PortPair ports;
  ports.remote = number(colon == std::string_view::npos ? text : text.substr(colon + 1), 1);
  ports.local = colon == std::string_view::npos ? ports.remote : number(text.substr(0, colon), 0);
  if (ports.local < 0 || ports.remote < 0) {
    return std::nullopt;
  }
  return ports;
}

int forward_ports(const Globals& globals, const ForwardOptions& options) {
  std::vector<Listener> listeners;
  for (const std::string& text : options.ports) {
    const auto ports = parse_port_pair(text);
    if (!ports) {
      return fail(error(ErrorCode::kInvalid,
                        fmt::format("'{}' is no port: write 8888, or 8080:80 for port 8080 here "
                                    "and 80 there",
                                    text)));
    }
    auto listener = listen_at(options.address, *ports);
    if (!listener.ok()) {
      return fail(listener.error());
    }
    listeners.push_back(std::move(listener).value());
  }
  auto client = Client::connect(globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto job = job_named(*client, options.job);
  if (!job.ok()) {
    return fail(job.error());
  }
  auto carrier = open_session(*client, *job, options.rank, "forward");
  if (!carrier.ok()) {
    return tell_refused(carrier.error());
  }
  for (const Listener& listener : listeners) {
    print("{}:{} leads to port {} of rank {} of job {}\n", options.address, listener.ports.local,
          listener.ports.remote, options.rank, *job);
  }
  std::fflush(stdout);
  const sigset_t unblocked = prepare_signals();
  const Status ended = Forwarder(**carrier, std::move(listeners)).run(unblocked);
  return ended.ok() ? 128 + end_signal : tell_broken_off(globals, *job, ended.error());
}

}  // namespace quad::cli
