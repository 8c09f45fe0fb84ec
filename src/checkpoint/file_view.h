// checkpoint/file_view.h
//
// What the checkpoint logic needs of a file system, as a small interface: list a folder, look at
// one name, read some bytes. Everything that decides (validate, find, select, watch) goes through
// it, so tests can let a file vanish in mid-scan. PosixFileView is the real one; it keeps no state
// and may be used by any thread. Each call blocks for as long as the file system does.
//
// Errors: kNotFound for a name that is not there (or no longer), kIo for the rest. A name that is
// not a plain file is never opened for reading, so a FIFO or a device cannot hang a scan.

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace quad::checkpoint {

enum class FileKind { kFile, kFolder, kOther };

/// One name, with symbolic links followed; `link` says that the name itself is one.
struct FileInfo {
  FileKind kind = FileKind::kOther;
  bool link = false;
  std::uint64_t size = 0;
  std::int64_t mtime_nanos = 0;  ///< since 1970 UTC
  std::uint64_t inode = 0;
  std::uint64_t device = 0;
  bool operator==(const FileInfo&) const = default;
};

struct Listing {
  std::vector<std::string> names;  ///< sorted, without "." and ".."
  bool cut = false;                ///< there are more than was asked for
};

class FileView {
 public:
  virtual ~FileView() = default;
  [[nodiscard]] virtual Result<FileInfo> stat(const std::filesystem::path& path) const = 0;
  [[nodiscard]] virtual Result<Listing> list(const std::filesystem::path& folder,
                                             std::size_t max_entries) const = 0;
  /// Up to `length` bytes from `offset`; fewer only at the end of the file.
  [[nodiscard]] virtual Result<std::string> read(const std::filesystem::path& path,
                                                 std::uint64_t offset,
                                                 std::size_t length) const = 0;
};

class PosixFileView final : public FileView {
 public:
  [[nodiscard]] Result<FileInfo> stat(const std::filesystem::path& path) const override;
  [[nodiscard]] Result<Listing> list(const std::filesystem::path& folder,
                                     std::size_t max_entries) const override;
  [[nodiscard]] Result<std::string> read(const std::filesystem::path& path, std::uint64_t offset,
                                         std::size_t length) const override;
};

/// Bounds on what one scan may cost, whatever it meets.
struct Limits {
  std::size_t max_entries = 20000;            ///< names looked at in one root, or in one checkpoint
  std::size_t max_depth = 5;                  ///< folders below the root or the checkpoint
  std::size_t max_json = 32U << 20U;          ///< bytes of a JSON text that are read
  std::size_t max_pickle = 32U << 20U;        ///< bytes of a pickle that are read
  std::size_t max_zip_directory = 4U << 20U;  ///< bytes of a zip directory that are walked
};

struct Entry {
  std::string name;
  FileInfo info;
};

/// The entries of a folder, at most `budget`, which is lowered by their number. What vanishes
/// meanwhile is left out.
Result<std::vector<Entry>> entries_of(const FileView& view, const std::filesystem::path& folder,
                                      std::size_t& budget);

struct TreeFile {
  std::string relative;  ///< "a/b.pt"
  FileInfo info;
};

/// Every plain file below a folder. Links to folders are not entered below the top, so a loop
/// cannot hold it.
struct Tree {
  std::vector<TreeFile> files;       ///< sorted by relative
  std::vector<std::string> folders;  ///< relative, without the top
  std::uint64_t size = 0;
  std::int64_t newest_nanos = 0;
  std::int64_t oldest_nanos = 0;
  bool cut = false;  ///< a bound was reached: there is more
};
Result<Tree> read_tree(const FileView& view, const std::filesystem::path& folder,
                       const Limits& limits, bool recurse = true);

}  // namespace quad::checkpoint
