// server/upload_room.h
//
// Room for uploads: what they will take of the disk is taken before they write, also by those that
// do not say how long they are and by several at once, so that the last of the disk stays free for
// the records whatever is uploaded. Also bounds how many there are. Io thread only; one statvfs for
// each claim.

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"

namespace quad::server {

class UploadRoom {
 public:
  /// Left free on the disk whatever is uploaded, so that the store and the logs go on.
  static constexpr std::uint64_t kKeptFree = 256ULL << 20U;
  static constexpr std::size_t kMostOfUser = 16;
  static constexpr std::size_t kMost = 128;

  /// Bytes that are free on the disk; nothing where that cannot be told, and all is then allowed.
  std::function<std::optional<std::uint64_t>()> free = [] { return std::nullopt; };

 private:
  friend class Upload;
  std::uint64_t claimed_ = 0;  ///< and not written yet
  std::size_t uploads_ = 0;
  std::map<std::string, std::size_t> uploads_of_;  ///< by user
};

/// One upload's place, for as long as it lives.
class Upload {
 public:
  Upload(UploadRoom& room, std::string user);
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// kExhausted or kUnavailable if there are too many.
  [[nodiscard]] Status begin();
  /// Makes sure that there is room for `bytes` more than are written: kExhausted if not.
  [[nodiscard]] Status claim(std::uint64_t bytes);
  /// So many bytes of what was claimed are on the disk now.
  void wrote(std::uint64_t bytes);

 private:
  UploadRoom& room_;
  const std::string user_;
  bool counted_ = false;
  std::uint64_t claimed_ = 0;
};

/// What is free for this user on the disk of `folder`.
std::optional<std::uint64_t> free_bytes(const std::filesystem::path& folder);

/// Removes what uploads left in the folder when their server was killed; how many files that were.
/// Before the first upload.
std::size_t sweep_uploads(const std::filesystem::path& folder);
/// Where an upload is written until it is whole.
std::string temporary_of(const std::filesystem::path& blob);

}  // namespace quad::server
