#include "runner/install.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "base/file.h"

namespace quad::runner {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMostBytes = 64U << 20U;

Status bring(const fs::path& from, const fs::path& to, mode_t mode) {
  QUAD_ASSIGN(const std::string content, read_file(from, kMostBytes));
  QUAD_TRY(write_file_atomically(to, content, mode));
  // Whatever the umask was.
  if (::chmod(to.c_str(), mode) != 0) {
    return errno_error(fmt::format("Cannot set the mode of {}", to.string()), errno);
  }
  return {};
}

}  // namespace

Status install(const fs::path& folder, const fs::path& from) {
  const fs::path rank_folder = folder / "rank";
  QUAD_TRY(make_folders(rank_folder, 0777));
  if (::chmod(rank_folder.c_str(), 0777) != 0) {
    return errno_error(fmt::format("Cannot set the mode of {}", rank_folder.string()), errno);
  }
  QUAD_TRY(bring("/proc/self/exe", folder / "quad-runner", 0755));
  std::error_code missing;
  if (fs::exists(from / "ca.pem", missing)) {
    QUAD_TRY(bring(from / "ca.pem", rank_folder / "ca.pem", 0644));
  }
  return bring(from / "start.json", rank_folder / "start.json", 0644);
}

}  // namespace quad::runner
