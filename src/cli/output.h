// cli/output.h
//
// How results look: tables that fit the terminal, colours on one, plain text in a pipe, JSON on
// request; and the exit codes.
//
// Whatever the command line says goes through print(), complain(), Table, print_json() or fail(),
// and what it says may come from anybody: a job's name, a server's sentence, a file's path. So a
// text put into these loses its control characters there; only SafeText is shown as it is. A job's
// own output is the exception, and goes through Screen::output() untouched.

#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/text.h"
#include "cli/terminal.h"

namespace quad::cli {

// Exit codes that scripts can rely on (docs/cli.md).
inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;       ///< the thing asked for failed, or a job did
inline constexpr int kUsage = 2;        ///< the command line or the input is wrong
inline constexpr int kUnreachable = 3;  ///< no server
inline constexpr int kNoSuch = 4;       ///< no such job, node, …
inline constexpr int kExists = 5;  ///< it is there already: a server on this data directory, a file

/// How an argument of print() reaches it: any text as a printable() one.
template <typename T>
using Shown = std::conditional_t<std::is_same_v<T, SafeText> ||
                                     std::is_convertible_v<const T&, std::string_view>,
                                 std::string, T>;

template <typename T>
decltype(auto) shown_argument(const T& value) {
  if constexpr (std::is_same_v<T, SafeText>) {
    return (value.text);
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return printable(value);
  } else {
    return (value);
  }
}

/// As fmt::format(), with whatever text is put into the format made safe.
template <typename... Args>
SafeText safe_text(fmt::format_string<Shown<Args>...> format, const Args&... args) {
  return {fmt::vformat(format, fmt::make_format_args(shown_argument(args)...))};
}

/// The same to standard output.
template <typename... Args>
void print(fmt::format_string<Shown<Args>...> format, const Args&... args) {
  std::fputs(safe_text<Args...>(format, args...).text.c_str(), stdout);
}

/// The same to standard error.
template <typename... Args>
void complain(fmt::format_string<Shown<Args>...> format, const Args&... args) {
  std::fputs(safe_text<Args...>(format, args...).text.c_str(), stderr);
}

/// The text in a status's colour, if the terminal `fd` has colours.
SafeText coloured(std::string_view status, int fd = 1);

/// Columns padded to their widest cell. On a terminal that is too narrow the spare columns are left
/// out, the first of them first, then the elastic ones are cut, the widest first, and then the
/// lines.
class Table {
 public:
  struct Column {
    std::string head;
    bool elastic = false;  ///< may be cut
    bool spare = false;    ///< may be left out
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// A cell: a text of anybody's, or one with colours.
  struct Cell {
    template <typename T, typename = std::enable_if_t<std::is_convertible_v<T, std::string_view>>>
    Cell(const T& anybodys) : text(printable(anybodys)) {}  // NOLINT(google-explicit-constructor)
    Cell(SafeText safe) : text(std::move(safe.text)) {}     // NOLINT(google-explicit-constructor)
    std::string text;
  };
  void add(const std::vector<Cell>& cells) {
    std::vector<std::string> row;
    for (const Cell& cell : cells) {
      row.push_back(cell.text);
    }
    rows_.push_back(std::move(row));
  }
  [[nodiscard]] bool empty() const { return rows_.empty(); }
  /// For a width; 0: as wide as it is.
  [[nodiscard]] std::string text(std::size_t width) const;
  /// To standard output.
  void print() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// "2 min ago", in the largest unit; "-" for an empty time.
std::string ago(std::string_view rfc3339);
/// Between two times, the second now if it is empty; "-" if the first is.
std::string between(std::string_view from, std::string_view to);
/// "14:05:09.123" of the local day; with the date if that is not `day`, which is updated.
std::string local_time(std::string_view rfc3339, std::string& day);
/// "SUCCEEDED" or "FAILED: rank 0 on gpu-1 exited with code 1." of a job's row, without saying
/// anything twice.
SafeText outcome_text(const json::object& row, int fd);
/// "1 node", "3 nodes"; "1 recovery", "2 recoveries".
std::string counted(std::int64_t count, std::string_view one, std::string_view many = {});
/// On standard output, indented or on one line. Control characters are escaped, as JSON lets them
/// be.
void print_json(const json::value& value);
void print_json_line(const json::value& value);
/// Prints the error and gives its exit code.
int fail(const Error& failure);

}  // namespace quad::cli
