// server/ask.h
//
// How a handler waits for other threads: for control, for the pool of workers, for one that may
// wait for the disk. What they give is carried over to the io thread. Included by app.h.

#pragma once

#include <boost/asio/post.hpp>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
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

/// How long a piece of work may take before it gives the others a turn.
inline constexpr std::chrono::milliseconds kPiece{8};

/// Has `work` done on the pool, when it is the caller's turn, and waits for its result. `work`
/// gives nothing for as long as there is more to do, about each kPiece; it may be on any thread and
/// owns what it uses, as it may run on when this was broken off. An error, for respond_busy(), if
/// there is too much to do already or the client has gone.
template <typename T>
boost::asio::awaitable<Result<T>> in_turn(App& app, net::Exchange& exchange, Length length,
                                          std::function<std::optional<T>()> work) {
  const std::string caller = caller_of(exchange).user;
  if (const MonoTime now = app.clock->now().mono;
      length == Length::kShort && app.allowance.has(caller, now)) {
    const std::int64_t before = thread_micros();
    std::optional<T> result = work();
    app.allowance.charge(caller, thread_micros() - before, now);
    if (result) {
      co_return std::move(*result);
    }
  }
  struct Slot {
    explicit Slot(const boost::asio::any_io_executor& executor) : arrived(executor) {}
    net::Wakeup arrived;
    bool over = false;
    std::exception_ptr failure;
  };
  auto slot = std::make_shared<Slot>(exchange.executor());
  const auto result = std::make_shared<std::optional<T>>();
  struct Unwanted {
    std::stop_source source;
    ~Unwanted() { source.request_stop(); }
  } unwanted;
  const Status added = app.work->add(
      caller,
      [result, work = std::move(work)] {
        *result = work();
        return !result->has_value();
      },
      [&io = app.io, slot](std::exception_ptr failure) mutable {
        boost::asio::post(io, [slot = std::move(slot), failure = std::move(failure)]() mutable {
          slot->over = true;
          slot->failure = std::move(failure);
          slot->arrived.notify();
        });
      },
      unwanted.source.get_token());
  if (!added.ok()) {
    co_return added.error();
  }
  if (length != Length::kPart) {
    exchange.on_closed([source = unwanted.source]() mutable { source.request_stop(); });
  }
  while (!slot->over) {
    co_await slot->arrived.wait();
  }
  if (slot->failure != nullptr) {
    std::rethrow_exception(slot->failure);
  }
  if (!result->has_value()) {
    co_return error(ErrorCode::kUnavailable, "The client has gone away");
  }
  co_return std::move(**result);
}

}  // namespace quad::server
