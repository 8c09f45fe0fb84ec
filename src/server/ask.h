// server/ask.h
//
// How a handler waits for the control thread: the answer comes on that thread and is carried over
// to the io thread. Included by app.h.

#pragma once

#include <boost/asio/post.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "net/wakeup.h"

namespace quad::server {

template <typename T>
boost::asio::awaitable<T> ask(App& app, net::Exchange& exchange,
                              std::function<void(std::function<void(T)>)> start) {
  struct Slot {
    explicit Slot(const boost::asio::any_io_executor& executor) : arrived(executor) {}
    net::Wakeup arrived;
    std::optional<T> value;
  };
  auto slot = std::make_shared<Slot>(exchange.executor());
  start([&io = app.io, slot](T value) {
    boost::asio::post(io, [slot, value = std::move(value)]() mutable {
      slot->value.emplace(std::move(value));
      slot->arrived.notify();
    });
  });
  while (!slot->value) {
    co_await slot->arrived.wait();
  }
  co_return std::move(*slot->value);
}

/// Runs `work` on a thread of its own and waits for its result: for what may take the disk's time,
/// so that runners and readers are served meanwhile. `work` may use only what any thread may.
template <typename T>
boost::asio::awaitable<T> away(App& app, net::Exchange& exchange, std::function<T()> work) {
  // Joined also when a server that stops breaks off the waiting.
  struct Worker {
    std::thread thread;
    ~Worker() {
      if (thread.joinable()) {
        thread.join();
      }
    }
  } worker;
  const std::function<void(std::function<void(T)>)> start = [&](std::function<void(T)> done) {
    worker.thread = std::thread([work = std::move(work), done = std::move(done)] { done(work()); });
  };
  co_return co_await ask<T>(app, exchange, start);
}

}  // namespace quad::server
