// store/reserve.h
//
// Room on the data directory's disk that is kept for the moment when it is full. A job that fills
// the disk gives it back when its end is recorded, and that takes room itself: without a reserve
// the two would wait for each other for ever. A file of a fixed size is that room; spending it
// means cutting it to nothing. Owned by whoever writes to the disk.

#pragma once

#include <cstdint>
#include <filesystem>

#include "base/file.h"
#include "base/result.h"

namespace quad::store {

class Reserve {
 public:
  static constexpr std::int64_t kBytes = 8 << 20;
  /// With less than this left, nothing new may begin.
  static constexpr std::int64_t kNeeded = 16 << 20;

  Reserve() = default;
  explicit Reserve(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Makes it if it is not there and the disk has room for it twice. One system call if it is not,
  /// none if it is.
  void refill();
  /// Gives its room to whoever writes next. False if there was none.
  bool spend();
  /// kExhausted when nothing new may begin: too little is left, or the folder has become read-only,
  /// as a file system does that found an error on its disk. One system call.
  [[nodiscard]] Status room() const;

 private:
  [[nodiscard]] std::int64_t left() const;

  std::filesystem::path folder_;
  UniqueFd file_;  ///< open while the reserve is there
};

}  // namespace quad::store
