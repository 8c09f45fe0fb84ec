// runner/poll_set.h
//
// What one round of the runner's loop waits for: descriptors, each with what is to be done when it
// is ready, and the moment at which to go on in any case. Built anew for each round, so that each
// part of the runner says itself what it waits for now. Owned by the runner's one thread.

#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/time.h"

namespace quad::runner {

class PollSet {
 public:
  /// A descriptor; -1 is left out.
  void add(int fd, short events, std::function<void(MonoTime)> on_ready);
  void wake_at(MonoTime at);

  /// Waits with every signal unblocked, a minute at the longest. False if a signal came first: then
  /// nothing counts as ready.
  bool wait(MonoTime now);
  /// Calls what is ready, in the order in which it was added. What it calls must bear that the ones
  /// before have closed its descriptor.
  void dispatch(MonoTime now);

 private:
  std::vector<pollfd> polled_;
  std::vector<std::function<void(MonoTime)>> on_ready_;
  MonoTime wake_at_{INT64_MAX};
};

}  // namespace quad::runner
