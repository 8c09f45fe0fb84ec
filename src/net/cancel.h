// net/cancel.h
//
// How one thread ends at once whatever another thread waits for: connecting, sending, reading,
// sleeping. Any number of threads may wait on one Cancel. Cancelled once, it stays cancelled: it is
// the end of somebody's work, not of one request. Costs a file descriptor (an eventfd).

#pragma once

#include <atomic>
#include <memory>

#include "base/file.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::net {

class Cancel {
 public:
  /// kIo or kExhausted where no descriptor can be had.
  static Result<std::shared_ptr<Cancel>> create();
  Cancel(const Cancel&) = delete;
  Cancel& operator=(const Cancel&) = delete;

  void cancel();
  [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  /// Sleeps. False at once when cancelled, before or meanwhile.
  [[nodiscard]] bool sleep(Millis duration) const;
  /// Readable once cancelled, for poll().
  [[nodiscard]] int fd() const { return event_.get(); }

 private:
  explicit Cancel(UniqueFd event) : event_(std::move(event)) {}

  UniqueFd event_;
  std::atomic<bool> cancelled_{false};
};

/// What a wait on a descriptor ended with.
enum class Waited { kReady, kTimeout, kCancelled };

/// Waits for one of poll()'s `events` on `fd` (-1: for none, only for the time or the Cancel). A
/// timeout of 0 waits without end. `cancel` may be null.
Waited wait_for_fd(int fd, short events, Millis timeout, const Cancel* cancel);

}  // namespace quad::net
