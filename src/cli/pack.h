// cli/pack.h
//
// Packs a work directory or a mount's source into one blob: a zstd-compressed tar, named by the
// SHA-256 of its bytes. The same files give the same blob, so that an unchanged directory is
// uploaded once. Blocks for as long as the disk does.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace quad::cli {

struct Blob {
  std::string hash;            ///< SHA-256 of the file, lower-case hexadecimal
  std::filesystem::path file;  ///< a temporary file; the caller removes it
  std::uint64_t bytes = 0;
  std::uint64_t files = 0;
  std::vector<std::string> left_out;  ///< sockets, pipes and devices: their paths below the source
  bool is_file = false;  ///< the source is one file, which lies in the tar under its own name
};

/// Packs `source`, a folder or a file. In a folder, .skyignore decides what stays behind, or, where
/// there is none, .gitignore files do. kNotFound if the source does not exist, kIo otherwise.
Result<Blob> pack(const std::filesystem::path& source);

}  // namespace quad::cli
