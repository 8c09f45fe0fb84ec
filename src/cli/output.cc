#include "cli/output.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "base/time.h"
#include "cli/terminal.h"

namespace quad::cli {

namespace {

constexpr std::size_t kLeastColumn = 6;  ///< an elastic column keeps so much
constexpr std::size_t kGap = 2;

/// Bytes of the UTF-8 character that `text` begins with; 0 if it begins with none.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t size = first < 0x80                    ? 1
                           : first >= 0xC2 && first < 0xE0 ? 2
                           : first >= 0xE0 && first < 0xF0 ? 3
                           : first >= 0xF0 && first < 0xF5 ? 4
                                                           : 0;
  if (size == 0 || size > text.size()) {
    return 0;
  }
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) {
      return 0;
    }
  }
  const bool overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
  const bool beyond = (first == 0xED && byte(1) >= 0xA0) || (first == 0xF4 && byte(1) >= 0x90);
  return overlong || beyond ? 0 : size;
}

}  // namespace

std::string coloured(std::string_view status, int fd) {
  if (!has_colour(fd)) {
    return std::string(status);
  }
  const int colour = status == "RUNNING" || status == "ready"        ? 32
                     : status == "SUCCEEDED"                         ? 2
                     : status == "FAILED" || status == "lost"        ? 31
                     : status == "RECOVERING" || status == "suspect" ? 33
                     : status == "STARTING"                          ? 34
                                                                     : 0;
  return colour == 0 ? std::string(status) : fmt::format("\x1b[{}m{}\x1b[0m", colour, status);
}

std::string Table::text(std::size_t width) const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) {
    widths.push_back(cells(column.head));
  }
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      widths[i] = std::max(widths[i], cells(row[i]));
    }
  }
  std::vector<bool> shown(columns_.size(), true);
  std::size_t total = 0;
  for (const std::size_t one : widths) {
    total += one + kGap;
  }
  total -= kGap;
  for (std::size_t i = 0; i < columns_.size() && width > 0 && total > width; ++i) {
    if (columns_[i].spare) {
      shown[i] = false;
      total -= widths[i] + kGap;
    }
  }
  while (width > 0 && total > width) {
    std::size_t widest = columns_.size();
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::size_t least = std::max(kLeastColumn, cells(columns_[i].head));
      if (shown[i] && columns_[i].elastic && widths[i] > least &&
          (widest == columns_.size() || widths[i] > widths[widest])) {
        widest = i;
      }
    }
    if (widest == columns_.size()) {
      break;
    }
    --widths[widest];
    --total;
  }
  std::string out;
  const auto add_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      if (shown[i]) {
        const std::string cell = fitted(row[i], widths[i]);
        line += cell;
        line.append(widths[i] - cells(cell) + kGap, ' ');
      }
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += (width > 0 ? fitted(line, width) : line) + '\n';
  };
  std::vector<std::string> head;
  for (const Column& column : columns_) {
    head.push_back(column.head);
  }
  add_row(head);
  for (const auto& row : rows_) {
    add_row(row);
  }
  return out;
}

void Table::print() const {
  std::fputs(text(columns_of(STDOUT_FILENO)).c_str(), stdout);
}

std::string ago(std::string_view rfc3339) {
  const auto time = parse_rfc3339(rfc3339);
  if (!time.ok()) {
    return "-";
  }
  const std::int64_t seconds =
      std::max<std::int64_t>(0, (SystemClock().now().wall - *time).count() / 1000);
  constexpr std::int64_t kMinute = 60;
  constexpr std::int64_t kHour = 60 * kMinute;
  constexpr std::int64_t kDay = 24 * kHour;
  return seconds < kMinute    ? fmt::format("{} s ago", seconds)
         : seconds < kHour    ? fmt::format("{} min ago", seconds / kMinute)
         : seconds < kDay * 2 ? fmt::format("{} h ago", seconds / kHour)
                              : fmt::format("{} d ago", seconds / kDay);
}

std::string between(std::string_view from, std::string_view to) {
  const auto begin = parse_rfc3339(from);
  if (!begin.ok()) {
    return "-";
  }
  const auto end = parse_rfc3339(to);
  return format_duration(
      std::max(Millis(0), (end.ok() ? *end : SystemClock().now().wall) - *begin));
}

std::string local_time(std::string_view rfc3339, std::string& day) {
  const auto time = parse_rfc3339(rfc3339);
  if (!time.ok()) {
    return std::string(rfc3339);
  }
  const std::time_t seconds = time->millis / 1000;
  std::tm parts{};
  localtime_r(&seconds, &parts);
  const std::string clock = fmt::format("{:%H:%M:%S}.{:03}", parts, time->millis % 1000);
  const std::string its_day = fmt::format("{:%Y-%m-%d}", parts);
  if (its_day == day) {
    return clock;
  }
  day = its_day;
  return its_day + " " + clock;
}

std::string outcome_text(const json::object& row, int fd) {
  const std::string_view status = get_string(row, "status");
  std::string_view message = get_string(row, "message");
  // "SUCCEEDED", and not "SUCCEEDED: Succeeded."; "FAILED: rank 0 …", and not "FAILED: Failed: rank
  // 0 …".
  if (message == "Succeeded.") {
    message = {};
  } else if (message.starts_with("Failed: ")) {
    message.remove_prefix(8);
  } else if (message.starts_with("Recovering: ")) {
    message.remove_prefix(12);
  }
  const std::string name = coloured(status, fd);
  return message.empty() ? name + "." : fmt::format("{}: {}", name, printable(message));
}

std::string counted(std::int64_t count, std::string_view one, std::string_view many) {
  return count == 1     ? fmt::format("1 {}", one)
         : many.empty() ? fmt::format("{} {}s", count, one)
                        : fmt::format("{} {}", count, many);
}

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t size = character_size(text);
    if (size == 0) {
      out += "\xEF\xBF\xBD";
    } else {
      out += text.substr(0, size);
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

void print_json(const json::value& value) {
  std::fputs(to_pretty_text(value).c_str(), stdout);
}

int fail(const Error& failure) {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", has_colour(STDERR_FILENO) ? "\x1b[31merror\x1b[0m" : "error",
             failure.message);
  switch (failure.code) {
    case ErrorCode::kInvalid:
    case ErrorCode::kUnsupported:
      return kUsage;
    case ErrorCode::kUnavailable:
    case ErrorCode::kTimeout:
      return kUnreachable;
    case ErrorCode::kNotFound:
      return kNoSuch;
    case ErrorCode::kExists:
      return kExists;
    default:
      return kFailed;
  }
}

}  // namespace quad::cli
