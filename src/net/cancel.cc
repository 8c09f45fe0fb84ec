#include "net/cancel.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>

namespace quad::net {

Result<std::shared_ptr<Cancel>> Cancel::create() {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) {
    return errno_error("Cannot make an event descriptor", errno);
  }
  return std::shared_ptr<Cancel>(new Cancel(std::move(event)));
}

void Cancel::cancel() {
  cancelled_.store(true, std::memory_order_release);
  const std::uint64_t one = 1;
  // Fails only when the counter is full, so it is readable in any case.
  (void)!::write(event_.get(), &one, sizeof one);
}

bool Cancel::sleep(Millis duration) const {
  if (duration <= Millis(0)) {
    return !cancelled();
  }
  return wait_for_fd(-1, 0, duration, this) != Waited::kCancelled;
}

Waited wait_for_fd(int fd, short events, Millis timeout, const Cancel* cancel) {
  using Clock = std::chrono::steady_clock;
  const bool endless = timeout <= Millis(0);
  const auto until = Clock::now() + timeout;
  std::array<pollfd, 2> entries{pollfd{fd, events, 0},
                                pollfd{cancel == nullptr ? -1 : cancel->fd(), POLLIN, 0}};
  while (true) {
    int left = -1;
    if (!endless) {
      const auto millis = std::chrono::ceil<Millis>(until - Clock::now()).count();
      left = static_cast<int>(std::clamp<std::int64_t>(millis, 0, INT32_MAX));
    }
    const int ready = ::poll(entries.data(), entries.size(), left);
    if (ready < 0 && errno == EINTR) {
      continue;
    }
    if (cancel != nullptr && cancel->cancelled()) {
      return Waited::kCancelled;
    }
    if (ready == 0) {
      return Waited::kTimeout;
    }
    return Waited::kReady;  // also when poll itself failed: the operation will say what is wrong
  }
}

}  // namespace quad::net
