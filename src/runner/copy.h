// runner/copy.h
//
// The two ends of a copy (`quad cp`): a file or folder as a plain tar stream, and back. The sender
// is the one that knows what it is; the receiver decides where it goes, as cp does, and never
// writes outside of that: names that climb or lead through a link are errors (unpack.h). A file is
// there as a whole and on disk, or not at all; modes and times are kept. Blocks; for processes and
// threads of their own.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "runner/unpack.h"

namespace quad::runner {

struct CopySource {
  bool is_file = true;
  unsigned mode = 0755;  ///< of a folder
  std::string name;      ///< for a place inside of a folder; empty: a folder's contents only
};

json::object to_json(const CopySource& source);
CopySource copy_source(const json::object& message);

/// What a copy of `path`, which may be a link, would be of; its name is left empty. kInvalid for
/// what is, or is in, a Quad server's data directory: its keys and records are copied nowhere.
Result<CopySource> look_at_source(const std::filesystem::path& path);

/// The last part of a path as a person writes it; empty for "", ".", "..", "~", "/" and what ends
/// like that. Pure.
std::string name_of_path(std::string_view path);

/// Writes the archive of `path` to `fd`; kUnavailable once nobody reads there. What is no file,
/// folder or link is left out, and so are data directories of Quad servers, which `left_out` gets.
Status send_copy(const std::filesystem::path& path, int fd,
                 std::vector<std::string>* left_out = nullptr);

/// Takes it from `bytes` to `place`: into it under the source's name if it is a folder, else as it.
/// `as_folder`: it was written as a folder ("dir/"), so it must be one.
Status receive_copy(const ByteSource& bytes, const std::filesystem::path& place, bool as_folder,
                    const CopySource& source);

/// What is read from `fd`, to its end.
ByteSource read_pieces(int fd);

}  // namespace quad::runner
