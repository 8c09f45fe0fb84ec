#include "store/background_check.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/faults.h"

namespace quad::store {

namespace {

/// Of this thread alone: the processor and the disk are for everybody else first.
void step_back() {
  constexpr int kLeastNice = 19;
  constexpr int kOfThread = 1;
  constexpr int kIdleClass = 3 << 13;
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kLeastNice);
  (void)::syscall(SYS_ioprio_set, kOfThread, 0, kIdleClass);
}

int is_stopping(void* flag) {
  return static_cast<std::atomic<bool>*>(flag)->load() ? 1 : 0;
}

bool is_damage(sqlite3* db) {
  const int code = sqlite3_errcode(db) & 0xFF;
  return code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
}

/// The first fault, or nothing. An older copy of the database under a log of later records can have
/// whole pages, and indexes that do not fit, or no events in between.
Result<std::string> first_fault(const Connection& db) {
  const auto pages = db.text("PRAGMA integrity_check(1)");
  if (!pages.ok()) {
    return is_damage(db.get()) ? Result<std::string>("it cannot be read to its end")
                               : Result<std::string>(pages.error());
  }
  if (*pages != "ok") {
    return std::string(pages->substr(pages->rfind('\n') + 1));  // without SQLite's heading
  }
  const auto gaps = find_gaps(db);
  if (!gaps.ok()) {
    return gaps.error();
  }
  return gaps->empty() ? std::string() : gaps->front();
}

}  // namespace

BackgroundCheck::BackgroundCheck(const std::filesystem::path& path)
    : thread_([this, path] { work(path); }) {}

BackgroundCheck::~BackgroundCheck() {
  stopping_ = true;
  thread_.join();
}

void BackgroundCheck::work(const std::filesystem::path& path) {
  step_back();
  const auto db = Connection::open(path, Connection::Mode::kRead);
  if (!db.ok()) {
    return;
  }
  constexpr int kInstructions = 10'000;  // of SQLite's, between two looks at the flag
  sqlite3_progress_handler(db->get(), kInstructions, &is_stopping, &stopping_);
  const auto fault = first_fault(*db);
  if (fault.ok() && !fault->empty()) {
    const std::lock_guard lock(mutex_);
    damage_ = error(ErrorCode::kIo,
                    fmt::format("The database file {} is damaged ({}), so nothing new begins: stop "
                                "the server and restore the last backup, without the quad.db-wal "
                                "that lies beside it",
                                path.string(), *fault));
  }
}

Status BackgroundCheck::damage() const {
  const std::lock_guard lock(mutex_);
  return damage_ ? Status(*damage_) : Status();
}

}  // namespace quad::store
