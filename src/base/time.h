// base/time.h
//
// Time as it is handed to the core. Intervals are measured on the monotonic clock; wall time is
// what people read and what events are stamped with. Nothing in the core asks for the time itself:
// it is given a `Now`.

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad {

using Millis = std::chrono::milliseconds;

/// Milliseconds since 1970 UTC. For people and records, never for intervals.
struct WallTime {
  std::int64_t millis = 0;
  auto operator<=>(const WallTime&) const = default;
};

/// Milliseconds on a clock that never jumps; comparable only within one boot of one process.
struct MonoTime {
  std::int64_t millis = 0;
  auto operator<=>(const MonoTime&) const = default;
};

inline Millis operator-(MonoTime a, MonoTime b) {
  return Millis(a.millis - b.millis);
}
inline MonoTime operator+(MonoTime a, Millis b) {
  return MonoTime{a.millis + b.count()};
}
inline Millis operator-(WallTime a, WallTime b) {
  return Millis(a.millis - b.millis);
}
inline WallTime operator+(WallTime a, Millis b) {
  return WallTime{a.millis + b.count()};
}

/// Both readings of one instant.
struct Now {
  WallTime wall;
  MonoTime mono;
};

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual Now now() const = 0;
};

/// The machine's own clocks. Any thread.
class SystemClock final : public Clock {
 public:
  [[nodiscard]] Now now() const override;
};

/// "2026-11-23T17:16:40.123Z" (RFC 3339, UTC).
std::string format_rfc3339(WallTime time);
/// The reverse; also accepts an offset such as +02:00, and no fraction. kInvalid otherwise.
Result<WallTime> parse_rfc3339(std::string_view text);
/// A duration for people: "350 ms", "42 s", "2 min 50 s", "2 h 13 min", "3 d 4 h".
std::string format_duration(Millis duration);

}  // namespace quad
