// engine/local/trash.h
//
// Removes folders when there is time: a rank's home may hold a million files. throw_away() is one
// rename; the work is done by a thread of its own, and what is left of it at the end by the next
// Trash on the same folder. Users' files may forbid their own removal, or lie deeper than any path
// reaches; that is overcome where possible (base/remove_tree.h). What cannot be removed stays in
// the trash, and is told in the log once by each server that meets it.
//
// Removing takes the disk from the jobs that start meanwhile, and some file systems look for a new
// file's place among all that was freed lately (ext4 without a journal for a minute and more). So
// what was thrown away waits for a second without more of it, but no longer than a minute, and not
// at all while the disk is nearly full.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"

namespace quad::engine {

class Trash {
 public:
  /// `folder` must exist, on the same file system as what is thrown away. Begins with what an
  /// earlier one left there.
  explicit Trash(std::filesystem::path folder);
  ~Trash();
  Trash(const Trash&) = delete;
  Trash& operator=(const Trash&) = delete;

  /// Takes `path` out of the way. kNotFound if it is not there.
  Status throw_away(const std::filesystem::path& path);

 private:
  void work();
  /// Takes what is to be removed next; empty when it is time to stop.
  std::vector<std::filesystem::path> wait_for_work();
  [[nodiscard]] bool is_nearly_full() const;
  void remove(const std::filesystem::path& path) const;

  std::filesystem::path folder_;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;  ///< guards `waiting_`, which one thread fills and the other empties
  std::condition_variable changed_;
  std::vector<std::filesystem::path> waiting_;
  std::chrono::steady_clock::time_point first_at_{},
      last_at_{};  ///< when the first and last of those came
  std::thread thread_;
};

}  // namespace quad::engine
