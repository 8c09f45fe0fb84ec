// cli/copy.h
//
// `quad cp`: a file or folder to a rank of a running job, or from it. Blocks until it is there.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cli/client.h"

namespace quad::cli {

/// "17:/path", "17/1:~/x", "17:", "dev:x", where dev is a cluster: a path on a rank. Anything else
/// is a path of this machine; one that looks like the former is written "./17:x". Pure.
struct RankPath {
  std::string job;  ///< a number, or a cluster's name
  std::int64_t rank = 0;
  std::string path;
};
std::optional<RankPath> parse_rank_path(std::string_view text);

/// The exit code.
int copy_files(const Globals& globals, const std::string& from, const std::string& to);

}  // namespace quad::cli
