// store/schema.h
//
// The tables, as the list of steps that led to them. A released step is never changed, only
// followed by another, so that a database of any older version is brought to this one. Run once,
// when the store is opened.

#pragma once

#include <filesystem>
#include <span>

#include "store/connection.h"

namespace quad::store {

/// Step i brings the schema from version i to i + 1.
std::span<const char* const> schema_steps();

/// Applies the steps that `db` (at `path`, for messages) lacks, each in a transaction of its own.
/// kUnsupported when it has more of them than this program knows.
Status migrate(Connection& db, const std::filesystem::path& path,
               std::span<const char* const> steps = schema_steps());

}  // namespace quad::store
