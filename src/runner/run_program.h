// runner/run_program.h
//
// Runs a program to its end, without a shell, and takes what it writes. It dies with this process.
// Blocks; for workers.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace quad::runner {

/// Its standard output. kNotFound if there is no such program; a failure is its last words. `input`
/// is its standard input. `environment` is all that it gets.
Result<std::string> run_program(const std::vector<std::string>& arguments,
                                const std::vector<std::string>& environment,
                                std::string_view input = {});

}  // namespace quad::runner
