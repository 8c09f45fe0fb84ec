// server/splice.h
//
// Two connections joined into one: what the one sends the other gets, both ways, through a buffer
// of a fixed size for each direction. Nothing is read that cannot be passed on, so the slower side
// sets the pace and memory does not grow; it may also take nothing for hours, as long as its
// machine is there. Io thread only.

#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "net/stream.h"
#include "net/wakeup.h"

namespace quad::server {

inline constexpr std::size_t kSpliceBuffer = 64U << 10U;

struct SpliceOptions {
  /// Asked at least every `look`, and when news() is notified: why it must end now; empty: it may
  /// go on.
  std::function<std::string()> must_end;
  Millis look{5'000};
  Millis idle{24 * 3'600'000};  ///< without a byte either way
  /// Once one side has ended: how long the other one has to take what is left and end too. A copy's
  /// last bytes may wait for a busy disk.
  Millis farewell{60'000};
};

class Splice {
 public:
  Splice(net::RawStream a, net::RawStream b, const boost::asio::any_io_executor& executor);
  Splice(const Splice&) = delete;
  Splice& operator=(const Splice&) = delete;
  ~Splice();

  /// Joins them until both have ended or one breaks; both are closed then. Gives why it was ended
  /// from here; empty if the two did.
  boost::asio::awaitable<std::string> run(SpliceOptions options);
  /// Notified, it has `must_end` asked now.
  [[nodiscard]] net::Wakeup& news();
  [[nodiscard]] std::uint64_t bytes() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace quad::server
