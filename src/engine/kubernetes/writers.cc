#include "engine/kubernetes/writers.h"

#include <algorithm>
#include <utility>

namespace quad::kubernetes {

Writers::Writers(const std::shared_ptr<ApiServer>& server, std::shared_ptr<net::Cancel> cancel,
                 int threads)
    : cancel_(std::move(cancel)) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, server] { run(ApiClient(server, cancel_)); });
  }
}

void Writers::give(Urgency urgency, Write write) {
  const std::lock_guard lock(mutex_);
  queues_.at(static_cast<std::size_t>(urgency)).push_back(std::move(write));
  given_.notify_one();
}

void Writers::drop() {
  const std::lock_guard lock(mutex_);
  queues_ = {};
}

void Writers::end() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    queues_ = {};
  }
  cancel_->cancel();
  given_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
  threads_.clear();
}

void Writers::run(ApiClient client) {
  for (;;) {
    Write write;
    {
      std::unique_lock lock(mutex_);
      auto queue = queues_.end();
      given_.wait(lock, [&] {
        queue = std::find_if(queues_.begin(), queues_.end(),
                             [](const auto& one) { return !one.empty(); });
        return ending_ || queue != queues_.end();
      });
      if (ending_) {
        return;
      }
      write = std::move(queue->front());
      queue->pop_front();
    }
    write(client);
  }
}

}  // namespace quad::kubernetes
