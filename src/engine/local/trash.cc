#include "engine/local/trash.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/remove_tree.h"
#include "base/text.h"

namespace quad::engine {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

constexpr auto kQuiet = 1s;
constexpr auto kLongestWait = 60s;

}  // namespace

Trash::Trash(fs::path folder) : folder_(std::move(folder)) {
  thread_ = std::thread([this] { work(); });
}

Trash::~Trash() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Status Trash::throw_away(const fs::path& path) {
  const fs::path aside = folder_ / random_hex(8);
  int failure = ::rename(path.c_str(), aside.c_str()) == 0 ? 0 : errno;
  if (failure == ENOENT && ::mkdir(folder_.c_str(), 0700) == 0) {  // somebody had removed it
    failure = ::rename(path.c_str(), aside.c_str()) == 0 ? 0 : errno;
  }
  if (failure != 0) {
    Error refused = errno_error(fmt::format("Cannot move {} away", path.string()), failure);
    refused.code = failure == ENOENT ? ErrorCode::kNotFound : refused.code;
    return refused;
  }
  {
    const std::lock_guard lock(mutex_);
    last_at_ = std::chrono::steady_clock::now();
    first_at_ = waiting_.empty() ? last_at_ : first_at_;
    waiting_.push_back(aside);
  }
  changed_.notify_one();
  return {};
}

void Trash::work() {
  std::vector<fs::path> now;
  std::error_code failure;
  for (fs::directory_iterator it(folder_, failure), end; !failure && it != end;
       it.increment(failure)) {
    now.push_back(it->path());
  }
  for (;;) {
    for (const fs::path& path : now) {
      remove(path);
    }
    now = wait_for_work();
    if (now.empty()) {
      return;
    }
  }
}

std::vector<fs::path> Trash::wait_for_work() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
  for (;;) {
    const auto due = std::min(last_at_ + kQuiet, first_at_ + kLongestWait);
    if (stopping_ || std::chrono::steady_clock::now() >= due || is_nearly_full()) {
      break;
    }
    // Not until `due`, so that a disk that fills up is seen; more that comes meanwhile need not
    // wake this thread.
    changed_.wait_for(lock, kQuiet, [this] { return stopping_.load(); });
  }
  return stopping_ ? std::vector<fs::path>() : std::exchange(waiting_, {});
}

bool Trash::is_nearly_full() const {
  struct statvfs info {};
  return ::statvfs(folder_.c_str(), &info) == 0 &&
         (info.f_bavail < info.f_blocks / 10 ||
          (info.f_files > 0 && info.f_favail < info.f_files / 10));
}

void Trash::remove(const fs::path& path) const {
  const Status removed = remove_tree(path, &stopping_);
  if (!removed.ok() && !stopping_) {
    spdlog::warn("{} cannot be removed and keeps its room on the disk: {}; remove it by hand",
                 path.string(), removed.error().message);
  }
}

}  // namespace quad::engine
