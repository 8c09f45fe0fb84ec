// engine/kubernetes/writers.h
//
// A few threads with a connection each, which do the engine's writes: blocking, side by side, in
// no order but that of their giving. What is to happen one after the other is given one after the
// other, by whoever hears of the first's end. Bounded by what the engine has under way: a few
// writes for each rank. Ends at once: what waits is dropped, what is being written is broken off
// (and is known again at the next start from what exists).

#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/kubernetes/client/client.h"

namespace quad::kubernetes {

class Writers {
 public:
  using Write = std::function<void(ApiClient&)>;

  Writers(const std::shared_ptr<ApiServer>& server, std::shared_ptr<net::Cancel> cancel,
          int threads);
  ~Writers() { end(); }
  Writers(const Writers&) = delete;
  Writers& operator=(const Writers&) = delete;

  /// Any thread. Nothing happens after end().
  void give(Write write);
  void end();

 private:
  void run(ApiClient client);

  std::shared_ptr<net::Cancel> cancel_;
  std::mutex mutex_;  ///< of the queue
  std::condition_variable given_;
  std::deque<Write> queue_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quad::kubernetes
