// engine/kubernetes/writers.h
//
// A few threads with a connection each, which do the engine's writes: blocking, side by side, the
// most urgent first, and among equals in the order of their giving. What is to happen one after the
// other is given one after the other, by whoever hears of the first's end. Bounded by what the
// engine has under way: a few writes for each rank. Ends at once: what waits is dropped, what is
// being written is broken off (and is known again at the next start from what exists).

#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/kubernetes/client/client.h"

namespace quad::kubernetes {

/// What goes first when many writes wait for the API server.
enum class Urgency : std::uint8_t {
  kStop,     ///< a rank that should not run any more
  kStart,    ///< a pod: with it a start is done, and the cluster has something to do meanwhile
  kPrepare,  ///< what pods need
  kClear,    ///< what is over
};

class Writers {
 public:
  using Write = std::function<void(ApiClient&)>;

  Writers(const std::shared_ptr<ApiServer>& server, std::shared_ptr<net::Cancel> cancel,
          int threads);
  ~Writers() { end(); }
  Writers(const Writers&) = delete;
  Writers& operator=(const Writers&) = delete;

  /// Any thread. Nothing happens after end().
  void give(Urgency urgency, Write write);
  /// What nobody has begun to write is not written.
  void drop();
  void end();

 private:
  void run(ApiClient client);

  std::shared_ptr<net::Cancel> cancel_;
  std::mutex mutex_;  ///< of the queues
  std::condition_variable given_;
  std::array<std::deque<Write>, 4> queues_;  ///< by urgency
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quad::kubernetes
