// base/data_dir.h
//
// Tells a Quad server's data directory from other folders, so that keys, records and uploads never
// become part of what a job brings. Asks the file system (a few calls a folder); any thread.

#pragma once

#include <filesystem>
#include <optional>

namespace quad {

/// Whether a server keeps its data in `folder`: by what stands in it, whatever its name, and
/// whether or not a server runs there.
bool is_data_directory(const std::filesystem::path& folder);

/// The data directory that `path` is, or lies in. What jobs themselves wrote there, their homes and
/// checkpoints, is theirs and not meant. `path` is absolute and free of links.
std::optional<std::filesystem::path> data_directory_around(const std::filesystem::path& path);

}  // namespace quad
