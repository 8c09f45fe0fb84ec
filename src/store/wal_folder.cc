#include "store/wal_folder.h"

#include <algorithm>
#include <utility>

namespace quad::store {

namespace {

/// So many new pages of the log (4 KiB each) are folded at once, and from so many in all on the
/// writer does the rest.
constexpr int kFoldPages = 500;
constexpr int kRestartPages = 8000;

}  // namespace

Result<std::unique_ptr<WalFolder>> WalFolder::start(Connection& writer,
                                                    const std::filesystem::path& path) {
  auto folder = std::unique_ptr<WalFolder>(new WalFolder());
  QUAD_ASSIGN(folder->db_, Connection::open(path, Connection::Mode::kWrite));
  QUAD_TRY(folder->db_.run("PRAGMA synchronous=FULL"));
  folder->writer_ = writer.get();
  sqlite3_wal_hook(writer.get(), &WalFolder::after_commit, folder.get());
  folder->thread_ = std::thread([self = folder.get()] { self->work(); });
  return folder;
}

WalFolder::~WalFolder() {
  if (!thread_.joinable()) {
    return;
  }
  sqlite3_wal_hook(writer_, nullptr, nullptr);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

int WalFolder::after_commit(void* self, sqlite3* writer, const char* name, int pages) {
  auto& folder = *static_cast<WalFolder*>(self);
  folder.asked_at_ = std::min(folder.asked_at_, pages);  // the log may have begun anew
  if (pages >= kRestartPages) {
    // Busy, and so left for the next commit, if the thread is at it.
    (void)sqlite3_wal_checkpoint_v2(writer, name, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  } else if (pages - folder.asked_at_ >= kFoldPages) {
    folder.asked_at_ = pages;
    {
      const std::lock_guard lock(folder.mutex_);
      folder.due_ = true;
    }
    folder.changed_.notify_one();
  }
  return SQLITE_OK;
}

void WalFolder::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return due_ || stopping_; });
    if (stopping_) {
      return;
    }
    due_ = false;
    lock.unlock();
    (void)sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr,
                                    nullptr);
    lock.lock();
  }
}

}  // namespace quad::store
