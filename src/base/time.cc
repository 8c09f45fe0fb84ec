#include "base/time.h"

#include <fmt/format.h>
#include <time.h>

#include <cstdlib>

#include "base/ids.h"

namespace quad {

std::string to_string(const RankKey& key) {
  return fmt::format("{}-{}-{}", key.job.value(), key.epoch.value(), key.rank.value());
}

namespace {

std::int64_t read_clock(clockid_t clock) {
  timespec value{};
  clock_gettime(clock, &value);
  return static_cast<std::int64_t>(value.tv_sec) * 1000 + value.tv_nsec / 1'000'000;
}

/// Reads exactly `count` digits at `at` and moves it past them; -1 if there are none.
int digits(std::string_view text, std::size_t& at, std::size_t count) {
  if (at + count > text.size()) {
    return -1;
  }
  int value = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const char c = text[at + i];
    if (c < '0' || c > '9') {
      return -1;
    }
    value = value * 10 + (c - '0');
  }
  at += count;
  return value;
}

}  // namespace

Now SystemClock::now() const {
  // CLOCK_BOOTTIME goes on while the machine sleeps, so a lease does not outlive a suspended
  // laptop.
  return Now{WallTime{read_clock(CLOCK_REALTIME)}, MonoTime{read_clock(CLOCK_BOOTTIME)}};
}

std::string format_rfc3339(WallTime time) {
  std::int64_t seconds = time.millis / 1000;
  std::int64_t millis = time.millis % 1000;
  if (millis < 0) {
    millis += 1000;
    --seconds;
  }
  const time_t whole = seconds;
  tm parts{};
  gmtime_r(&whole, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     millis);
}

Result<WallTime> parse_rfc3339(std::string_view text) {
  const Error bad =
      error(ErrorCode::kInvalid,
            fmt::format("'{}' is not a time; write it as 2026-11-23T17:16:40Z", text));
  std::size_t at = 0;
  tm parts{};
  const auto expect = [&](std::string_view any) {
    if (at < text.size() && any.find(text[at]) != std::string_view::npos) {
      ++at;
      return true;
    }
    return false;
  };
  parts.tm_year = digits(text, at, 4) - 1900;
  const bool date = expect("-") && (parts.tm_mon = digits(text, at, 2) - 1) >= 0 && expect("-") &&
                    (parts.tm_mday = digits(text, at, 2)) > 0;
  const bool hour = date && expect("Tt ") && (parts.tm_hour = digits(text, at, 2)) >= 0 &&
                    expect(":") && (parts.tm_min = digits(text, at, 2)) >= 0 && expect(":") &&
                    (parts.tm_sec = digits(text, at, 2)) >= 0;
  if (!hour || parts.tm_year < 0 || parts.tm_mon > 11 || parts.tm_mday > 31 || parts.tm_hour > 23 ||
      parts.tm_min > 59 || parts.tm_sec > 60) {
    return bad;
  }
  std::int64_t millis = 0;
  if (expect(".")) {
    std::int64_t scale = 100;
    const std::size_t start = at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
      millis += (text[at++] - '0') * scale;
      scale /= 10;
    }
    if (at == start) {
      return bad;
    }
  }
  std::int64_t offset_minutes = 0;
  if (!expect("Zz")) {
    const int sign = expect("+") ? 1 : expect("-") ? -1 : 0;
    const int hours = sign == 0 ? -1 : digits(text, at, 2);
    const int minutes = hours < 0 || !expect(":") ? -1 : digits(text, at, 2);
    if (minutes < 0) {
      return bad;
    }
    offset_minutes = sign * (hours * 60 + minutes);
  }
  if (at != text.size()) {
    return bad;
  }
  return WallTime{(static_cast<std::int64_t>(timegm(&parts)) - offset_minutes * 60) * 1000 +
                  millis};
}

std::string format_duration(Millis duration) {
  const std::int64_t millis = duration.count();
  if (millis < 0) {
    return "-" + format_duration(Millis(-millis));
  }
  if (millis < 1000) {
    return fmt::format("{} ms", millis);
  }
  const std::int64_t seconds = millis / 1000;
  if (seconds < 10 && millis % 1000 >= 50) {
    return fmt::format("{}.{} s", seconds, millis % 1000 / 100);
  }
  if (seconds < 60) {
    return fmt::format("{} s", seconds);
  }
  const std::int64_t minutes = seconds / 60;
  if (minutes < 60) {
    return seconds % 60 == 0 ? fmt::format("{} min", minutes)
                             : fmt::format("{} min {} s", minutes, seconds % 60);
  }
  const std::int64_t hours = minutes / 60;
  if (hours < 24) {
    return minutes % 60 == 0 ? fmt::format("{} h", hours)
                             : fmt::format("{} h {} min", hours, minutes % 60);
  }
  return hours % 24 == 0 ? fmt::format("{} d", hours / 24)
                         : fmt::format("{} d {} h", hours / 24, hours % 24);
}

}  // namespace quad
