// runner/folder_lock.h
//
// One runner a folder: runner.pid, which says who is at work there and is locked for as long as it
// lives. Blocks for one small file.

#pragma once

#include <filesystem>

#include "base/file.h"
#include "base/result.h"

namespace quad::runner {

/// Holds the folder for this process. The file is to be kept open; kExists if another runner has
/// the folder.
Result<UniqueFd> hold_folder(const std::filesystem::path& folder);

}  // namespace quad::runner
