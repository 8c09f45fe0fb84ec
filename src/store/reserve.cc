#include "store/reserve.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <limits>

namespace quad::store {

namespace {

std::int64_t bytes_left(const struct statvfs& disk) {
  return static_cast<std::int64_t>(disk.f_bavail) * static_cast<std::int64_t>(disk.f_frsize);
}

}  // namespace

std::int64_t Reserve::left() const {
  struct statvfs disk {};
  if (::statvfs(folder_.c_str(), &disk) != 0) {
    return std::numeric_limits<std::int64_t>::max();  // not known: then it is no reason to stop
  }
  return bytes_left(disk);
}

void Reserve::refill() {
  if (file_) {
    return;
  }
  UniqueFd file(::open((folder_ / "reserve").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0) {
    return;
  }
  if (info.st_size < kBytes &&
      (left() < 2 * kBytes || ::posix_fallocate(file.get(), 0, kBytes) != 0)) {
    (void)!::ftruncate(file.get(), 0);
    return;
  }
  file_ = std::move(file);
}

bool Reserve::spend() {
  if (!file_) {
    return false;
  }
  const bool spent = ::ftruncate(file_.get(), 0) == 0;
  file_.reset();
  return spent;
}

Status Reserve::room() const {
  struct statvfs disk {};
  if (::statvfs(folder_.c_str(), &disk) != 0) {
    return {};  // not known: then it is no reason to stop
  }
  if ((disk.f_flag & ST_RDONLY) != 0) {
    return error(ErrorCode::kExhausted,
                 fmt::format("The data directory {} has become read-only, and nothing new begins "
                             "until it can be written to again; see what the kernel's log says of "
                             "its disk, and mount it anew",
                             folder_.string()));
  }
  const std::int64_t bytes = bytes_left(disk);
  if (bytes >= kNeeded) {
    return {};
  }
  return error(ErrorCode::kExhausted,
               fmt::format("The disk of the data directory is full: {:.1f} MiB are left, and "
                           "nothing new begins with "
                           "less than {} MiB; free some space there",
                           static_cast<double>(bytes) / (1 << 20), kNeeded >> 20U));
}

}  // namespace quad::store
