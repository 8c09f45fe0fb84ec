// checkpoint/copy.h
//
// Copies of files and folders as bringing forward and keeping need them: reflink where the file
// system can, bytes otherwise; times and modes kept; durable when the call returns. Blocks for the
// bytes. POSIX only; any thread.
//
// Always holds: on an error nothing of the target is left, and the target never existed under its
// final name.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "base/result.h"

namespace quad::checkpoint {

/// How content came to its place.
enum class How {
  kHardLink,  ///< only in records of earlier versions, as is a symbolic link
  kReflink,
  kCopy,
  kSymlink,
  kInPlace,  ///< nothing was brought: it is used where it is
};

/// "hard_link", "reflink", "copy", "symlink", "in_place".
std::string_view to_string(How how);
std::optional<How> how_from(std::string_view name);

struct CopyOptions {
  std::uint64_t max_copy_bytes = 0;  ///< more than this is not copied by bytes: kUnsupported
};

/// What a copy of `source` into `target` took: the dearest way that any file needed.
struct Copied {
  How how = How::kReflink;
  std::uint64_t bytes = 0;  ///< copied by bytes
};

/// Copies `source` (a file or folder) as `target`. kExhausted when the disk is full, or would be:
/// it is asked first.
Result<Copied> copy_tree(const std::filesystem::path& source, const std::filesystem::path& target,
                         const CopyOptions& options);

/// Removes a file or a whole folder; absent is fine. Links are removed, never followed.
Status remove_tree(const std::filesystem::path& path);

}  // namespace quad::checkpoint
