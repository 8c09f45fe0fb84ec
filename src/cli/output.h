// cli/output.h
//
// How results look: tables, colours on a terminal, plain text in a pipe, JSON on request.

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

bool is_terminal();
/// The text in a status's colour, on a terminal.
std::string coloured(std::string_view status);
/// Columns padded to their widest cell; the first row is the head.
void print_table(const std::vector<std::vector<std::string>>& rows);
/// "2 min ago"; "-" for an empty time.
std::string ago(std::string_view rfc3339);
/// Between two times, the second now if it is empty.
std::string between(std::string_view from, std::string_view to);
void print_json(const json::value& value);
/// Prints the error and gives its exit code.
int fail(const Error& failure);

}  // namespace quad::cli
