#include "runner/poll_set.h"

#include <signal.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace quad::runner {
namespace {

constexpr Millis kLongest{60'000};

}  // namespace

void PollSet::add(int fd, short events, std::function<void(MonoTime)> on_ready) {
  if (fd >= 0) {
    polled_.push_back({fd, events, 0});
    on_ready_.push_back(std::move(on_ready));
  }
}

void PollSet::wake_at(MonoTime at) {
  wake_at_ = std::min(wake_at_, at);
}

bool PollSet::wait(MonoTime now) {
  const MonoTime until = std::min(wake_at_, now + kLongest);
  const std::int64_t millis = std::max<std::int64_t>((until - now).count(), 0);
  const timespec time{millis / 1000, (millis % 1000) * 1'000'000L};
  sigset_t unblocked;
  sigemptyset(&unblocked);
  return ::ppoll(polled_.data(), polled_.size(), &time, &unblocked) >= 0;
}

void PollSet::dispatch(MonoTime now) {
  for (std::size_t i = 0; i < polled_.size(); ++i) {
    if (polled_[i].revents != 0) {
      on_ready_[i](now);
    }
  }
}

}  // namespace quad::runner
