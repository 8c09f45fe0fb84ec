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

/// JSON text with what printable() would not let through escaped; it has C0 escaped already, and is
/// else left as it is, also where it is no UTF-8.
std::string escape_controls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t size = std::min<std::size_t>(text.size() - i, first < 0xC0   ? 1
                                                                    : first < 0xE0 ? 2
                                                                    : first < 0xF0 ? 3
                                                                                   : 4);
    const std::string_view character = text.substr(i, size);
    if ((first < 0x80 && first != 0x7F) || printable(character) != " ") {
      out += text[i++];
      continue;
    }
    std::uint32_t code = size == 1 ? first : first & (0xFFU >> (size + 1));
    for (std::size_t at = 1; at < size; ++at) {
      code = (code << 6U) | (static_cast<unsigned char>(character[at]) & 0x3FU);
    }
    if (code < 0x10000) {
      out += fmt::format("\\u{:04x}", code);
    } else {  // as two of UTF-16
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD7C0U + (code >> 10U), 0xDC00U + (code & 0x3FFU));
    }
    i += size;
  }
  return out;
}

}  // namespace

SafeText coloured(std::string_view status, int fd) {
  if (!has_colour(fd)) {
    return {printable(status)};
  }
  const int colour = status == "RUNNING" || status == "ready"        ? 32
                     : status == "SUCCEEDED"                         ? 2
                     : status == "FAILED" || status == "lost"        ? 31
                     : status == "RECOVERING" || status == "suspect" ? 33
                     : status == "STARTING"                          ? 34
                                                                     : 0;
  return colour == 0 ? safe_text("{}", status) : safe_text("\x1b[{}m{}\x1b[0m", colour, status);
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
  std::string clock = fmt::format("{:%H:%M:%S}.{:03}", parts, time->millis % 1000);
  const std::string its_day = fmt::format("{:%Y-%m-%d}", parts);
  if (its_day == day) {
    return clock;
  }
  day = its_day;
  return its_day + " " + clock;
}

SafeText outcome_text(const json::object& row, int fd) {
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
  const SafeText name = coloured(status, fd);
  return message.empty() ? safe_text("{}.", name) : safe_text("{}: {}", name, message);
}

std::string counted(std::int64_t count, std::string_view one, std::string_view many) {
  return count == 1     ? fmt::format("1 {}", one)
         : many.empty() ? fmt::format("{} {}s", count, one)
                        : fmt::format("{} {}", count, many);
}

void print_json(const json::value& value) {
  std::fputs(escape_controls(to_pretty_text(value)).c_str(), stdout);
}

void print_json_line(const json::value& value) {
  std::fputs((escape_controls(to_text(value)) + "\n").c_str(), stdout);
}

int fail(const Error& failure) {
  std::fflush(stdout);
  const SafeText word{has_colour(STDERR_FILENO) ? "\x1b[31merror\x1b[0m" : "error"};
  complain("{}: {}\n", word, failure.message);
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
