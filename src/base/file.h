// base/file.h
//
// Files, safely: whole reads with a bound, writes that are there completely or not at all. Each
// call blocks for as long as the file system does; not for the control thread, except at start.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad {

/// A file descriptor that closes itself. Move only.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};
/// Both ends are closed on exec.
Result<Pipe> make_pipe();

/// The whole file. kNotFound if it is absent, kExhausted if it is larger than `max_bytes`, kIo
/// otherwise.
Result<std::string> read_file(const std::filesystem::path& path,
                              std::uint64_t max_bytes = 64ULL << 20U);

/// The same where somebody else may have put what is there: kInvalid for a link, a pipe, a socket
/// or a device, and it never waits for one to write into a pipe. A folder is kIo, as in
/// read_file().
Result<std::string> read_regular_file(const std::filesystem::path& path,
                                      std::uint64_t max_bytes = 64ULL << 20U);

/// Replaces `path` by `content`: temporary file in the same folder, fsync, rename, fsync of the
/// folder. After a crash the file has the old content or the new.
Status write_file_atomically(const std::filesystem::path& path, std::string_view content,
                             unsigned mode = 0644);

/// Writes all of `bytes`, through short writes and signals.
Status write_all(int fd, std::string_view bytes);

/// Makes a folder and those above it, with `mode` for what it makes.
Status make_folders(const std::filesystem::path& path, unsigned mode = 0755);

/// Makes the folder's entries durable.
Status sync_folder(const std::filesystem::path& path);

}  // namespace quad
