// config/file.h
//
// The configuration's file: which one it is, and the reading of it. Blocks on the file system; any
// thread.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "config/config.h"

namespace quad::config {

struct Source {
  std::filesystem::path path;
  bool required = false;  ///< somebody named it; else it may be absent
};

/// `named` (--config) if that is not empty, else QUAD_CONFIG, else config.yaml in the data
/// directory.
Source find_source(const std::string& named, const std::filesystem::path& data_dir);

/// Whether there is such a file.
bool exists(const Source& source);

/// Reads and checks it. What keeps it from being read is an error like any other: it is absent, no
/// plain file, or everybody may write to it, and with it decide what the server does.
Loaded load(const Source& source, const std::vector<Override>& overrides = {});

}  // namespace quad::config
