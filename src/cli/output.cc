#include "cli/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/time.h"

namespace quad::cli {

namespace {

/// Cells on the screen: bytes that begin a character, without colour sequences.
std::size_t width(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      i = std::min(text.find('m', i), text.size() - 1);
    } else if ((static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U) {
      ++count;
    }
  }
  return count;
}

}  // namespace

bool is_terminal() {
  static const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  return terminal;
}

std::string coloured(std::string_view status) {
  if (!is_terminal()) {
    return std::string(status);
  }
  const int colour = status == "RUNNING" || status == "ready"   ? 32
                     : status == "SUCCEEDED"                    ? 2
                     : status == "FAILED" || status == "lost"   ? 31
                     : status == "RECOVERING" || status == "suspect" ? 33
                     : status == "STARTING"                     ? 34
                                                                : 0;
  return colour == 0 ? std::string(status) : fmt::format("\x1b[{}m{}\x1b[0m", colour, status);
}

void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], width(row[i]));
    }
  }
  std::string out;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) {
        out.append(widths[i] - width(row[i]) + 2, ' ');
      }
    }
    out += '\n';
  }
  std::fputs(out.c_str(), stdout);
}

std::string ago(std::string_view rfc3339) {
  const auto time = parse_rfc3339(rfc3339);
  return time.ok() ? format_duration(SystemClock().now().wall - *time) + " ago" : "-";
}

std::string between(std::string_view from, std::string_view to) {
  const auto begin = parse_rfc3339(from);
  if (!begin.ok()) {
    return "-";
  }
  const auto end = parse_rfc3339(to);
  return format_duration((end.ok() ? *end : SystemClock().now().wall) - *begin);
}

void print_json(const json::value& value) { std::fputs(to_pretty_text(value).c_str(), stdout); }

int fail(const Error& failure) {
  fmt::print(stderr, "{}: {}\n", ::isatty(STDERR_FILENO) == 1 ? "\x1b[31merror\x1b[0m" : "error", failure.message);
  switch (failure.code) {
    case ErrorCode::kInvalid:
    case ErrorCode::kUnsupported:
      return kUsage;
    case ErrorCode::kUnavailable:
    case ErrorCode::kTimeout:
      return kUnreachable;
    case ErrorCode::kNotFound:
      return kNoSuch;
    default:
      return kFailed;
  }
}

}  // namespace quad::cli
