// server/ask.h
//
// How a handler waits for the control thread: the answer comes on that thread and is carried over to the io thread.
// Included by app.h.

#pragma once

#include <boost/asio/post.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "net/wakeup.h"

namespace quad::server {

template <typename T>
boost::asio::awaitable<T> ask(App& app, net::Exchange& exchange, std::function<void(std::function<void(T)>)> start) {
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

}  // namespace quad::server
