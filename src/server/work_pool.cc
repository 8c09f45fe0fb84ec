#include "server/work_pool.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace quad::server {

WorkBounds usual_work_bounds() {
  WorkBounds bounds;
  bounds.threads = std::clamp<std::size_t>(std::thread::hardware_concurrency() / 2, 2, 8);
  return bounds;
}

WorkPool::WorkPool(WorkBounds bounds) : bounds_(bounds) {
  for (std::size_t i = 0; i < bounds_.threads; ++i) {
    threads_.emplace_back([this] { loop(); });
  }
}

WorkPool::~WorkPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  more_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

Status WorkPool::add(const std::string& caller, Piece piece, Done done, std::stop_token unwanted) {
  {
    const std::lock_guard lock(mutex_);
    if (size_ >= bounds_.most) {
      return error(ErrorCode::kUnavailable,
                   "The server has as many requests to work on as it takes; try again in a moment");
    }
    const auto place = callers_.try_emplace(caller).first;
    Caller& own = place->second;
    if (own.waiting.size() + own.running >= bounds_.most_of_caller) {
      return error(ErrorCode::kExhausted,
                   fmt::format("{} has {} requests under way already; wait for one of them", caller,
                               bounds_.most_of_caller));
    }
    own.waiting.push_back({std::move(piece), std::move(done), std::move(unwanted)});
    ++size_;
    settle(place);
  }
  more_.notify_one();
  return {};
}

void WorkPool::settle(Callers::iterator caller) {
  Caller& own = caller->second;
  const std::size_t most = std::max<std::size_t>(bounds_.threads - 1, 1);
  if (!own.in_turn && !own.waiting.empty() && own.running < most) {
    own.in_turn = true;
    turns_.push_back(caller);
  } else if (!own.in_turn && own.waiting.empty() && own.running == 0) {
    callers_.erase(caller);
  }
}

void WorkPool::loop() {
  constexpr int kNice = 10;
  // Of this thread alone, on Linux.
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
  (void)::pthread_setname_np(::pthread_self(), "quad-work");
  std::unique_lock lock(mutex_);
  for (;;) {
    more_.wait(lock, [this] { return stopping_ || !turns_.empty(); });
    if (stopping_) {
      return;
    }
    const auto caller = turns_.front();
    turns_.pop_front();
    Caller& own = caller->second;
    own.in_turn = false;
    Work work = std::move(own.waiting.front());
    own.waiting.pop_front();
    ++own.running;
    settle(caller);
    if (!turns_.empty()) {
      more_.notify_one();
    }
    lock.unlock();
    std::exception_ptr failure;
    bool more = false;
    try {
      more = !work.unwanted.stop_requested() && work.piece() && !work.unwanted.stop_requested();
    } catch (...) {
      failure = std::current_exception();
    }
    if (!more) {
      work.done(failure);
      work = {};  // what it holds is freed here, and not under the lock
    }
    lock.lock();
    --own.running;
    if (more) {
      own.waiting.push_back(std::move(work));
    } else {
      --size_;
    }
    settle(caller);
  }
}

}  // namespace quad::server
