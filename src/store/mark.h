// store/mark.h
//
// How far the records got, kept beside the database: <folder>/records.mark, one line that a person
// can read. A database that is behind its mark has lost commits, whatever it says of itself.
//
// The mark follows each commit by one small write in place, which is not synced: a commit is
// durable before the mark tells of it, so a mark is never ahead of records that are whole. It
// survives whatever becomes of the server; a power cut may leave it half a minute behind, which
// loses nothing but that half minute's sight.
//
// Written by the thread that commits; about a microsecond.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/result.h"

namespace quad::store {

struct Mark {
  std::string life;             ///< of the records, 32 hexadecimal digits
  std::int64_t generation = 0;  ///< how often they were taken back
  std::int64_t job = 0;         ///< the greatest number given out
  std::int64_t revision = 0;    ///< of the last event
  /// Of the file, as it was when it was made: a copy of the folder has another.
  std::uint64_t inode = 0;
  bool operator==(const Mark&) const = default;
};

/// <folder>/records.mark.
std::filesystem::path mark_path(const std::filesystem::path& folder);

/// nullopt if there is none; kInvalid if it is damaged.
Result<std::optional<Mark>> read_mark(const std::filesystem::path& folder);

/// Whether it is the file that it says, and not a copy of it.
bool is_original(const std::filesystem::path& folder, const Mark& mark);

class MarkFile {
 public:
  MarkFile() = default;
  /// Writes it anew, durably; its inode is filled in.
  static Result<MarkFile> create(const std::filesystem::path& folder, Mark mark);

  /// The one that is there, and says this.
  static Result<MarkFile> open(const std::filesystem::path& folder, Mark mark);

  /// After a commit. A failure leaves the mark behind, which harms nothing.
  void advance(std::int64_t job, std::int64_t revision);
  /// Makes what was written durable. Blocks for the disk.
  void sync() const;
  explicit operator bool() const { return static_cast<bool>(file_); }

 private:
  UniqueFd file_;
  Mark mark_;
};

}  // namespace quad::store
