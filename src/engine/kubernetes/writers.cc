#include "engine/kubernetes/writers.h"

#include <utility>

namespace quad::kubernetes {

Writers::Writers(const std::shared_ptr<ApiServer>& server, std::shared_ptr<net::Cancel> cancel,
                 int threads)
    : cancel_(std::move(cancel)) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this, server] { run(ApiClient(server, cancel_)); });
  }
}

void Writers::give(Write write) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(write));
  given_.notify_one();
}

void Writers::end() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    queue_.clear();
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
      given_.wait(lock, [this] { return ending_ || !queue_.empty(); });
      if (ending_) {
        return;
      }
      write = std::move(queue_.front());
      queue_.pop_front();
    }
    write(client);
  }
}

}  // namespace quad::kubernetes
