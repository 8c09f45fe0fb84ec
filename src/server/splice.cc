#include "server/splice.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/this_coro.hpp>
#include <chrono>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace quad::server {

namespace asio = boost::asio;
using std::chrono::steady_clock;

struct Splice::State {
  State(net::RawStream one, net::RawStream other, const asio::any_io_executor& executor)
      : a(std::move(one)), b(std::move(other)), news(executor) {
    // A client that was stopped with its pager has its session when it goes on.
    a.wait_for_slow_reader();
    b.wait_for_slow_reader();
  }
  void close() {
    a.close();
    b.close();
  }

  net::RawStream a;
  net::RawStream b;
  net::Wakeup news;
  int running = 2;     // directions
  bool ended = false;  // one direction has
  std::uint64_t bytes = 0;
};

namespace {

template <typename State>
asio::awaitable<void> carry(std::shared_ptr<State> state, net::RawStream from, net::RawStream to) {
  std::vector<char> buffer(kSpliceBuffer);
  for (;;) {
    const auto got = co_await from.read_some(buffer);
    if (!got.ok() || *got == 0) {
      bool passed_on = false;
      if (got.ok()) {
        const Status ended = co_await to.end_writing();
        passed_on = ended.ok();
      }
      if (!passed_on) {
        state->close();
      }
      break;
    }
    state->bytes += *got;
    const Status sent = co_await to.write(std::string_view(buffer.data(), *got));
    if (!sent.ok()) {
      state->close();
      break;
    }
  }
  --state->running;
  state->ended = true;
  state->news.notify();
}

}  // namespace

Splice::Splice(net::RawStream a, net::RawStream b, const asio::any_io_executor& executor)
    : state_(std::make_shared<State>(std::move(a), std::move(b), executor)) {}

Splice::~Splice() {
  state_->close();
}

net::Wakeup& Splice::news() {
  return state_->news;
}

std::uint64_t Splice::bytes() const {
  return state_->bytes;
}

asio::awaitable<std::string> Splice::run(SpliceOptions options) {
  const auto executor = co_await asio::this_coro::executor;
  const std::shared_ptr<State> state = state_;  // a handle of this coroutine's own
  asio::co_spawn(executor, carry(state, state->a, state->b), asio::detached);
  asio::co_spawn(executor, carry(state, state->b, state->a), asio::detached);
  std::uint64_t seen = 0;
  auto moved_at = steady_clock::now();
  std::optional<steady_clock::time_point> ended_at;
  std::string reason;
  while (state->running > 0) {
    co_await state->news.wait_for(state->ended ? std::min(options.look, options.farewell)
                                               : options.look);
    const auto now = steady_clock::now();
    if (state->bytes != seen) {
      seen = state->bytes;
      moved_at = now;
    }
    if (state->ended && !ended_at) {
      ended_at = now;
    }
    if (state->running == 0 || !reason.empty()) {
      continue;
    }
    reason = options.must_end ? options.must_end() : std::string();
    if (reason.empty() && now - moved_at >= options.idle) {
      reason = "nothing has moved for too long";
    }
    if (!reason.empty() || (ended_at && now - *ended_at >= options.farewell)) {
      state->close();
    }
  }
  state->close();
  co_return reason;
}

}  // namespace quad::server
