// store/background_check.h
//
// Reads through a database once, on a thread of its own and at the lowest priority, and tells
// whether its pages and indexes are sound and nothing is missing in between: for a large one that
// takes seconds, for which no start waits.
//
// Threads: damage() from any.

#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/result.h"
#include "store/connection.h"

namespace quad::store {

class BackgroundCheck {
 public:
  explicit BackgroundCheck(const std::filesystem::path& path);
  /// Breaks it off if it has not ended.
  ~BackgroundCheck();
  BackgroundCheck(const BackgroundCheck&) = delete;
  BackgroundCheck& operator=(const BackgroundCheck&) = delete;

  /// kIo, with what to do, once damage was found. What cannot be read for another reason is none.
  [[nodiscard]] Status damage() const;

 private:
  void work(const std::filesystem::path& path);

  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;  ///< guards the error, which is written once and read by many
  std::optional<Error> damage_;
  std::thread thread_;
};

}  // namespace quad::store
