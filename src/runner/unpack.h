// runner/unpack.h
//
// Unpacks a tar stream (zstd, gzip or plain) into a folder, safely: names that are absolute or
// climb by "..", and entries that would be written through a symbolic link, are errors; set-user-id
// bits are dropped; devices, sockets and FIFOs are errors. Permissions, times, symbolic links and
// hard links inside are kept. What is there is replaced. Blocks; for workers.

#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string_view>

#include "base/result.h"

namespace quad::runner {

/// Gives the next bytes of the archive, empty at its end.
using ByteSource = std::function<Result<std::string_view>()>;

struct Unpacked {
  std::size_t entries = 0;
  std::uint64_t bytes = 0;
};

/// Unpacks everything below `folder`, which must exist.
Result<Unpacked> unpack_tree(const ByteSource& source, const std::filesystem::path& folder);

/// The archive holds one file, which becomes `file`; `durable`: once it is on disk.
Result<Unpacked> unpack_file(const ByteSource& source, const std::filesystem::path& file,
                             bool durable = false);

}  // namespace quad::runner
