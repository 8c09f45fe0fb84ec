// runner/unpack.h
//
// Unpacks a tar stream (zstd, gzip or plain) into a folder, safely: names that are absolute or
// climb by "..", and entries that would be written through a symbolic link, are errors; set-user-id
// bits are dropped; devices, sockets and FIFOs are errors. Permissions, times, symbolic links and
// hard links inside are kept. What is there is replaced: by one of another type only where a memory
// of what was brought (brought.h) says what becomes of the old one. However much an archive grows
// to, room can be kept on the disk (room.h); holes take none. Blocks; for workers.

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

#include "base/result.h"

namespace quad::runner {

class Brought;

/// Gives the next bytes of the archive, empty at its end.
using ByteSource = std::function<Result<std::string_view>()>;

struct Unpacked {
  std::size_t entries = 0;
  std::uint64_t bytes = 0;
};

struct UnpackOptions {
  Brought* memory = nullptr;  ///< of the place that is unpacked to; null: there is none
  bool durable = false;       ///< a file is on disk once it is there
  bool keeps_room = false;    ///< on the disk, for others (room.h)
};

/// Unpacks everything below `folder`, which must exist.
Result<Unpacked> unpack_tree(const ByteSource& source, const std::filesystem::path& folder,
                             const UnpackOptions& options = {});

/// The archive holds one file, which becomes `file`.
Result<Unpacked> unpack_file(const ByteSource& source, const std::filesystem::path& file,
                             const UnpackOptions& options = {});

}  // namespace quad::runner
