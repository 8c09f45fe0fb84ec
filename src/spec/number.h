// spec/number.h
//
// Numbers as Python reads and writes them, and the sizes and times of a task file. SkyPilot's
// answers depend on what float("1_0") or str(1e16) give in Python, so those rules are kept here in
// one place. Pure, any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/time.h"

namespace quad::spec {

/// A double that is an integer and small enough to be exactly one: safe to cast to 64 bits.
bool is_whole(double value);
/// The shortest text that reads back as the same double, as Python's repr() lays it out: "1.0",
/// "1e+16", "1e-05".
std::string python_float_text(double value);

/// What Python's float() makes of a text, if it accepts it: blanks around, "_" between digits, inf
/// and nan.
std::optional<double> python_float(std::string_view text);
/// What Python's int() makes of a text, if it accepts it and it fits.
std::optional<std::int64_t> python_int(std::string_view text);

/// The decimal digits of a number written in `base` (2, 8, 10, 16), of any length.
std::string to_decimal(std::string_view digits, unsigned base);
/// The decimal digits of `decimal` × `factor` + `addend`.
std::string multiply_add(std::string_view decimal, unsigned factor, unsigned addend);

/// "[0-9]+" with an optional kb, ki, mb, … pi in lower, upper or capitalised case: how sizes are
/// written.
bool is_size_text(std::string_view text);
/// "[0-9]+" with an optional m, h, d or w: how SkyPilot writes idle times.
bool is_minutes_text(std::string_view text);
/// "[0-9]+" with an optional s, m, h, d or w.
bool is_seconds_text(std::string_view text);

/// A size in GB (2^30 bytes) as SkyPilot normalises it: a plain number stays as it was written, a
/// unit is worked out.
struct Size {
  std::string text;  ///< "32", "64+", "0.5"
  double gigabytes = 0;
  bool at_least = false;  ///< written with "+"
  bool per_cpu = false;   ///< written with "x": a multiple of the CPU count
};
/// A fractional size, "+" allowed: `memory`. Empty if it is none.
std::optional<Size> parse_memory(std::string_view text);
/// A whole size, no "+": `disk_size`. Empty if it is none, or not a whole number of GB.
std::optional<std::int64_t> parse_disk_gigabytes(std::string_view text);

/// Minutes of "10", "10m", "2h", "1d", "1w". Empty if it is none or does not fit.
std::optional<std::int64_t> parse_minutes(std::string_view text);
/// A time with its unit: "90s", "30m", "12h", "2d", "1w". Empty if it is none or longer than a
/// century.
std::optional<Millis> parse_duration(std::string_view text);

}  // namespace quad::spec
