#include "runner/session_carrier.h"

#include <poll.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

namespace quad::runner {

SessionCarrier::SessionCarrier(ConnectionOptions options, const Clock& clock)
    : connection_(std::move(options)), clock_(clock) {}

Status SessionCarrier::open(Millis timeout) {
  constexpr Millis kLook{100};
  const MonoTime until = clock_.now().mono + timeout;
  for (;;) {
    const MonoTime now = clock_.now().mono;
    connection_.tick(now);
    if (connection_.open()) {
      return {};
    }
    if (connection_.state() == Connection::State::kRefused) {
      return error(ErrorCode::kDenied, connection_.trouble());
    }
    if (now >= until) {
      return error(ErrorCode::kUnavailable, connection_.trouble().empty()
                                                ? "the server did not answer in time"
                                                : connection_.trouble());
    }
    pollfd polled{connection_.fd(), connection_.events(false), 0};
    const auto wait = std::min(kLook, until - now);
    if (::poll(&polled, 1, static_cast<int>(wait.count())) > 0) {
      connection_.on_ready(clock_.now().mono);
    }
  }
}

Status SessionCarrier::receive() {
  fresh_ = false;
  connection_.on_ready(clock_.now().mono);
  return connection_.open() ? Status() : error(ErrorCode::kUnavailable, connection_.trouble());
}

Result<std::size_t> SessionCarrier::send(std::string_view bytes) {
  const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  const std::size_t put = connection_.send(&piece, 1, clock_.now().mono);
  if (!connection_.open()) {
    return error(ErrorCode::kUnavailable, connection_.trouble());
  }
  return put;
}

}  // namespace quad::runner
