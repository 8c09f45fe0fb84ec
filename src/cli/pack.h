// cli/pack.h
//
// Packs a work directory or a mount's source into one blob: a zstd-compressed tar, named by the
// SHA-256 of its bytes. The same files (names, modes, times, bytes) give the same blob, so that an
// unchanged directory is uploaded once. What of a folder goes along: tree.h. Nothing is kept in
// memory but a buffer. Blocks for as long as the disk does.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/file.h"
#include "base/result.h"
#include "cli/tree.h"

namespace quad::cli {

/// What would be packed, without reading more than the beginning of scripts.
struct Survey {
  bool is_file = false;  ///< the source is one file, which lies in the tar under its own name
  Contents contents;
  Sample windows_scripts;  ///< their first line, #!…, ends as on Windows, so they cannot be started
};

/// kNotFound if the source does not exist; kInvalid if it is Quad's own data; kIo otherwise.
Result<Survey> survey(const std::filesystem::path& source);

struct Blob {
  std::string hash;  ///< SHA-256 of the file, lower-case hexadecimal
  UniqueFd file;     ///< temporary and without a name, at its beginning
  std::uint64_t bytes = 0;
  bool is_file = false;
  Contents contents;
  Sample shrunk;  ///< files that became shorter while they were read: they end in zeros
};

/// Called now and then with how many bytes of files have been read.
using Progress = std::function<void(std::uint64_t bytes)>;

/// Errors as those of survey().
Result<Blob> pack(const std::filesystem::path& source, const Progress& progress = {});

}  // namespace quad::cli
