// store/lock.h
//
// The lock by which one server owns a data directory: a file that is locked, and that says by whom.
// The kernel drops the lock with the process, however that dies; the file stays and means nothing
// by itself.

#pragma once

#include <filesystem>
#include <string_view>

#include "base/file.h"

namespace quad::store {

/// Holds `<folder>/<name>` until the descriptor is closed. kExists, naming the holder, when another
/// process still has it after two seconds: a server that has just been killed may have it for a
/// moment longer, through a child that was about to become another program.
Result<UniqueFd> take_lock(const std::filesystem::path& folder, std::string_view name = "lock");

}  // namespace quad::store
