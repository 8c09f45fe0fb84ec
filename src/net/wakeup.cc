#include "net/wakeup.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace quad::net {

namespace asio = boost::asio;

struct Wakeup::State {
  explicit State(const asio::any_io_executor& executor) : timer(executor) {}
  asio::steady_timer timer;
  bool notified = false;
};

namespace {

/// Keeps the state alive through the wait, even if the Wakeup is destroyed meanwhile.
template <typename State>
asio::awaitable<bool> wait_until(std::shared_ptr<State> state,
                                 asio::steady_timer::time_point deadline) {
  if (!state->notified) {
    state->timer.expires_at(deadline);
    co_await state->timer.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  co_return std::exchange(state->notified, false);
}

}  // namespace

Wakeup::Wakeup(const asio::any_io_executor& executor) : state_(std::make_shared<State>(executor)) {}
Wakeup::~Wakeup() {
  state_->timer.cancel();
}

void Wakeup::notify() {
  state_->notified = true;
  state_->timer.cancel();
}

asio::awaitable<void> Wakeup::wait() {
  co_await wait_until(state_, asio::steady_timer::time_point::max());
}

asio::awaitable<bool> Wakeup::wait_for(Millis timeout) {
  return wait_until(state_, asio::steady_timer::clock_type::now() + timeout);
}

}  // namespace quad::net
