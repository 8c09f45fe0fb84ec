// cli/output.h
//
// How results look: tables that fit the terminal, colours on one, plain text in a pipe, JSON on
// request; and the exit codes.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace quad::cli {

// Exit codes that scripts can rely on (docs/cli.md).
inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;       ///< the thing asked for failed, or a job did
inline constexpr int kUsage = 2;        ///< the command line or the input is wrong
inline constexpr int kUnreachable = 3;  ///< no server
inline constexpr int kNoSuch = 4;       ///< no such job, node, …
inline constexpr int kExists = 5;  ///< it is there already: a server on this data directory, a file

/// The text in a status's colour, if the terminal `fd` has colours.
std::string coloured(std::string_view status, int fd = 1);

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
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
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
std::string outcome_text(const json::object& row, int fd);
/// "1 node", "3 nodes"; "1 recovery", "2 recoveries".
std::string counted(std::int64_t count, std::string_view one, std::string_view many = {});
/// The text with what is no UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

void print_json(const json::value& value);
/// Prints the error and gives its exit code.
int fail(const Error& failure);

}  // namespace quad::cli
