// runner/room.h
//
// Keeps some of a disk free while it is written to, whatever is brought there: the server's
// records, the output and the checkpoints of other jobs lie on the same one. What an archive grows
// to cannot be known beforehand, and a large data set is as legitimate as a small one, so the disk
// itself is asked, each so many bytes and entries: more often when it is nearly full. What is
// smaller than a MiB is written as long as the disk takes it. Costs a system call for each 16 MiB.

#pragma once

#include <cstdint>

#include "base/result.h"

namespace quad::runner {

class Room {
 public:
  /// What is written goes to the file system of `fd`, which stays open. Before it, no room is kept.
  void watch(int fd) { fd_ = fd; }
  /// So many bytes are about to be written. kExhausted, with a sentence, once there is no room.
  Status take(std::uint64_t bytes);
  Status take_entry();

 private:
  static constexpr std::uint64_t kFirstBytes = 1ULL << 20U;
  static constexpr std::uint64_t kFirstEntries = 1024;

  [[nodiscard]] Status look();

  int fd_ = -1;
  std::uint64_t bytes_ = 0;
  std::uint64_t bytes_at_ = kFirstBytes;
  std::uint64_t entries_ = 0;
  std::uint64_t entries_at_ = kFirstEntries;
};

}  // namespace quad::runner
