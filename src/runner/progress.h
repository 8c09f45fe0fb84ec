// runner/progress.h
//
// What a script says about its progress, by appending JSON lines to $QUAD_PROGRESS:
//   {"step": 120, "total": 1000, "loss": 0.31, "metrics": {"accuracy": 0.8}}
// Any line that makes no sense is passed over, NaN and infinities are tolerated (and left out), the
// newest line wins. Owned by one thread; a poll costs one open of a local file.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quad::runner {

struct Metric {
  std::string name;
  double value = 0;
  bool operator==(const Metric&) const = default;
};

struct Progress {
  std::int64_t step = -1;  ///< -1: not said
  std::int64_t total = -1;
  std::vector<Metric> metrics;
  bool operator==(const Progress&) const = default;
};

/// One line; nullopt if it says nothing. Pure.
std::optional<Progress> parse_progress(std::string_view line);

class ProgressTail {
 public:
  explicit ProgressTail(std::filesystem::path path) : path_(std::move(path)) {}

  /// The newest progress since the last call, if there is any. A file that was replaced or cut
  /// short is read anew.
  std::optional<Progress> poll();

 private:
  std::filesystem::path path_;
  std::uint64_t offset_ = 0;
  std::uint64_t inode_ = 0;
  std::string partial_;
  bool skipping_ = false;  // the rest of a line that is too long
};

}  // namespace quad::runner
