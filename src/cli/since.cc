#include "cli/since.h"

#include <fmt/format.h>

#include <ctime>
#include <optional>

#include "base/text.h"

namespace quad::cli {

namespace {

constexpr std::size_t kDateSize = 10;

/// All of `text` as a number of `digits` digits, at most `most`.
std::optional<int> field(std::string_view text, std::size_t digits, int most) {
  const bool plain = text.find_first_not_of("0123456789") == std::string_view::npos;
  const auto value = plain ? parse_number<int>(text) : std::nullopt;
  return text.size() == digits && value && *value <= most ? value : std::nullopt;
}

/// "2026-11-23" into `parts`.
bool read_date(std::string_view text, std::tm& parts) {
  const auto fields = split(text, '-');
  if (fields.size() != 3) {
    return false;
  }
  const auto year = field(fields[0], 4, 9999);
  const auto month = field(fields[1], 2, 12);
  const auto day = field(fields[2], 2, 31);
  if (!year || !month || !day || *year < 1970 || *month < 1 || *day < 1) {
    return false;
  }
  parts.tm_year = *year - 1900;
  parts.tm_mon = *month - 1;
  parts.tm_mday = *day;
  return true;
}

/// "14:05", "14:05:09", "14:05:09.123" into `parts` and `millis`.
bool read_clock(std::string_view text, std::tm& parts, int& millis) {
  const std::size_t point = text.find('.');
  const auto fields = split(text.substr(0, point), ':');
  if (fields.size() < 2 || fields.size() > 3 ||
      (point != std::string_view::npos && fields.size() < 3)) {
    return false;
  }
  const auto hour = field(fields[0], fields[0].size() == 1 ? 1 : 2, 23);
  const auto minute = field(fields[1], 2, 59);
  const auto second = fields.size() == 3 ? field(fields[2], 2, 60) : 0;
  std::string fraction(point == std::string_view::npos ? "" : text.substr(point + 1));
  if (!hour || !minute || !second || (point != std::string_view::npos && fraction.empty()) ||
      fraction.find_first_not_of("0123456789") != std::string::npos) {
    return false;
  }
  parts.tm_hour = *hour;
  parts.tm_min = *minute;
  parts.tm_sec = *second;
  fraction.resize(3, '0');
  millis = parse_number<int>(fraction).value_or(0);
  return true;
}

/// The local time that `parts` say; nullopt for a day that the month does not have.
std::optional<WallTime> instant_of(std::tm parts, int millis) {
  const int day = parts.tm_mday;
  parts.tm_isdst = -1;
  const std::time_t seconds = std::mktime(&parts);
  return parts.tm_mday == day
             ? std::optional(WallTime{static_cast<std::int64_t>(seconds) * 1000 + millis})
             : std::nullopt;
}

}  // namespace

Result<std::string> since_text(std::string_view text, WallTime now) {
  if (text.find_first_of(":-") == std::string_view::npos || parse_rfc3339(text).ok()) {
    return std::string(text);
  }
  const std::time_t seconds = now.millis / 1000;
  std::tm parts{};
  localtime_r(&seconds, &parts);
  int millis = 0;
  const bool dated = text.size() >= kDateSize && read_date(text.substr(0, kDateSize), parts);
  std::string_view clock = text.substr(dated ? kDateSize : 0);
  const bool only_day = dated && clock.empty();
  if (dated && (clock.starts_with(' ') || clock.starts_with('T'))) {
    clock.remove_prefix(1);
  }
  if (only_day || read_clock(clock, parts, millis)) {
    if (only_day) {
      parts.tm_hour = parts.tm_min = parts.tm_sec = 0;
    }
    auto instant = instant_of(parts, millis);
    if (instant && !dated && *instant > now) {
      const std::time_t noon_yesterday = [&] {
        std::tm noon = parts;
        noon.tm_hour = 12;
        noon.tm_isdst = -1;
        return std::mktime(&noon) - std::time_t{24} * 60 * 60;
      }();
      std::tm yesterday{};
      localtime_r(&noon_yesterday, &yesterday);
      yesterday.tm_hour = parts.tm_hour;
      yesterday.tm_min = parts.tm_min;
      yesterday.tm_sec = parts.tm_sec;
      instant = instant_of(yesterday, millis);
    }
    if (instant) {
      return format_rfc3339(*instant);
    }
  }
  return error(ErrorCode::kInvalid,
               fmt::format("'{}' is no time: write 10m for how long ago, 14:05:09 or 2026-11-23 "
                           "14:05:09 as quad story shows it, or 2026-11-23T14:05:09Z",
                           text));
}

}  // namespace quad::cli
