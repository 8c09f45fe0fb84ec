// store/backup.h
//
// A copy of the database as it stood at one moment, made while the writer goes on.

#pragma once

#include <filesystem>

#include "base/result.h"

namespace quad::store {

/// Copies the database at `from` to `to`, which appears whole (mode 0600, synced) or not at all; an
/// older copy there is replaced. Blocks for as long as the disk takes, but holds up nobody.
/// kInvalid when `to` is the database itself.
Status copy_database(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace quad::store
