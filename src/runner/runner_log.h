// runner/runner_log.h
//
// runner.log in the rank's folder: the runner's own messages, a line each with its time, which go
// to stderr too. A line costs an open and two writes; a disk that takes none loses it.

#pragma once

#include <filesystem>
#include <string_view>

#include "base/time.h"

namespace quad::runner {

class RunnerLog {
 public:
  RunnerLog(const std::filesystem::path& folder, const Clock& clock)
      : path_(folder / "runner.log"), clock_(clock) {}

  void write(std::string_view text) const;

 private:
  std::filesystem::path path_;
  const Clock& clock_;
};

}  // namespace quad::runner
