// net/wakeup.h
//
// How one piece of io-thread code wakes another: a handler waits for news, for the client's leaving
// (through on_closed) or for time to pass, whichever is first. Io thread only; other threads post
// to the executor. One waiter at a time. A notify() that nobody waits for is kept for the next
// wait; two are one.

#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <memory>

#include "base/time.h"

namespace quad::net {

class Wakeup {
 public:
  explicit Wakeup(const boost::asio::any_io_executor& executor);
  ~Wakeup();
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  void notify();
  /// Returns after a notify().
  boost::asio::awaitable<void> wait();
  /// True after a notify(), false if `timeout` passed without one.
  boost::asio::awaitable<bool> wait_for(Millis timeout);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace quad::net
