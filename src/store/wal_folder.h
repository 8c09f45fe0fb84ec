// store/wal_folder.h
//
// Folds SQLite's write-ahead log into the database on a thread of its own, so that no commit waits
// for it: the writer goes on appending meanwhile. What the thread cannot do is to begin the log
// anew, as the writer never stands still; so at a bound the writer folds the little that is left,
// after which its next commit begins at the log's start.
//
// Threads: after_commit() is called by the writer's connection, on the writer's thread. Errors are
// left for the next attempt, or for the commit that meets the same one.

#pragma once

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "store/connection.h"

namespace quad::store {

class WalFolder {
 public:
  /// Watches the commits of `writer`, which must not outlive this.
  static Result<std::unique_ptr<WalFolder>> start(Connection& writer,
                                                  const std::filesystem::path& path);
  ~WalFolder();
  WalFolder(const WalFolder&) = delete;
  WalFolder& operator=(const WalFolder&) = delete;

 private:
  WalFolder() = default;
  static int after_commit(void* self, sqlite3* writer, const char* name, int pages);
  void work();

  sqlite3* writer_ = nullptr;
  int asked_at_ = 0;  ///< the writer's thread only: pages in the log when the thread was last woken
  Connection db_;     ///< the thread's own
  std::mutex mutex_;  ///< guards the two below, by which the writer's thread and this one meet
  bool due_ = false;
  bool stopping_ = false;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace quad::store
