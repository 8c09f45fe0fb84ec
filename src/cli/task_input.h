// cli/task_input.h
//
// What `launch` and `validate` read: a task file, NAME=VALUE pairs and env files. Files are read
// with a bound and only if they are plain files, so that nothing a user names can hang the command.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "spec/parse.h"

namespace quad::cli {

/// The text of a task file; "-" is standard input. kInvalid with what is wrong: too large, a
/// folder, a device, …
Result<std::string> read_task_text(const std::string& path);

/// The file beside it whose name is nearest to that of `path`, which is not there: "./train.py" for
/// "./trian.py". Looks at 5,000 names at most.
std::optional<std::string> near_file(const std::string& path);

/// Pairs from env files, then from "NAME=VALUE" or "NAME" (this shell's value). kInvalid names the
/// flag and the pair.
Result<std::vector<spec::NamedValue>> read_pairs(const std::vector<std::string>& files,
                                                 std::string_view file_flag,
                                                 const std::vector<std::string>& given,
                                                 std::string_view flag);

/// "train.yaml:3:7: error: resources.cpus: …  (hint)"
std::string line_of(const spec::Diagnostic& problem, std::string_view word,
                    const std::string& file);
/// The line of each, to standard error.
void print_problems(const std::vector<spec::Diagnostic>& problems, std::string_view word,
                    const std::string& file);

}  // namespace quad::cli
