#include "runner/room.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>

namespace quad::runner {
namespace {

constexpr std::uint64_t kMebi = 1ULL << 20U;
constexpr std::uint64_t kMostBytes = 16 * kMebi;  // from one look to the next
constexpr std::uint64_t kLeastBytes = 64ULL << 10U;
constexpr std::uint64_t kMostEntries = 4096;
constexpr std::uint64_t kKeptBytes = 256 * kMebi;
constexpr std::uint64_t kKeptInodes = 10'000;
constexpr std::uint64_t kKeptPart = 20;  // of a disk so small that the above would be much of it

}  // namespace

Status Room::take(std::uint64_t bytes) {
  bytes_ += bytes;
  return bytes_ < bytes_at_ ? Status() : look();
}

Status Room::take_entry() {
  return ++entries_ < entries_at_ ? Status() : look();
}

Status Room::look() {
  bytes_at_ = bytes_ + kMostBytes;
  entries_at_ = entries_ + kMostEntries;
  struct statvfs disk {};
  // Some network file systems say 0 of everything, which means that they do not know.
  if (::fstatvfs(fd_, &disk) != 0 || disk.f_blocks == 0) {
    return {};
  }
  const std::uint64_t block = disk.f_frsize;
  const std::uint64_t kept = std::min<std::uint64_t>(kKeptBytes, disk.f_blocks * block / kKeptPart);
  const std::uint64_t free = disk.f_bavail * block;
  if (free < kept) {
    return error(
        ErrorCode::kExhausted,
        fmt::format("the disk has no room for it: {} MiB were unpacked when less than {} MiB were "
                    "free, which are kept for the records and for other jobs",
                    bytes_ / kMebi, std::max<std::uint64_t>(kept / kMebi, 1)));
  }
  bytes_at_ = bytes_ + std::clamp((free - kept) / 2, kLeastBytes, kMostBytes);
  if (disk.f_files == 0) {
    return {};
  }
  const std::uint64_t kept_inodes = std::min<std::uint64_t>(kKeptInodes, disk.f_files / kKeptPart);
  if (disk.f_favail < kept_inodes) {
    return error(ErrorCode::kExhausted,
                 fmt::format("the disk has no room for it: it can hold few files more, which are "
                             "kept for the records and for other jobs, and {} were brought",
                             entries_));
  }
  entries_at_ =
      entries_ + std::clamp<std::uint64_t>((disk.f_favail - kept_inodes) / 2, 1, kMostEntries);
  return {};
}

}  // namespace quad::runner
