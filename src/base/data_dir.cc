#include "base/data_dir.h"

#include <algorithm>
#include <system_error>
#include <vector>

namespace quad {

namespace fs = std::filesystem;

namespace {

bool has_file(const fs::path& folder, const char* name) {
  std::error_code failure;
  return fs::is_regular_file(fs::symlink_status(folder / name, failure));
}

/// Whether a path below a data directory is in a rank's home or in the hot tier.
bool is_of_a_job(const fs::path& below) {
  const std::vector<fs::path> parts(below.begin(), below.end());
  if (parts.size() < 2) {
    return false;
  }
  return parts[0] == "hot" ||
         (parts[0] == "nodes" && std::find(parts.begin() + 2, parts.end(), "home") != parts.end());
}

}  // namespace

bool is_data_directory(const fs::path& folder) {
  // Two of them, as a folder of somebody's own may well have one; of them one that holds a secret
  // or the records.
  int found = 0;
  for (const char* name : {"attempt.key", "quad.db", "secret.key", "admin.token"}) {
    found += has_file(folder, name) ? 1 : 0;
  }
  return found > 1 || (found == 1 && (has_file(folder, "lock") || has_file(folder, "server.json")));
}

std::optional<fs::path> data_directory_around(const fs::path& path) {
  for (fs::path above = path;; above = above.parent_path()) {
    if (is_data_directory(above)) {
      return above != path && is_of_a_job(path.lexically_relative(above)) ? std::nullopt
                                                                          : std::optional(above);
    }
    if (above == above.parent_path()) {
      return std::nullopt;
    }
  }
}

}  // namespace quad
