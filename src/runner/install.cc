#include "runner/install.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMostBytes = 64U << 20U;
constexpr mode_t kOpenToAll = 0777;

/// The whole file or none. Not synced: when the node goes down, the pod is lost with it, and each
/// start of a pod would wait for the disk.
Status put(const fs::path& to, std::string_view content, mode_t mode) {
  const fs::path temporary = fmt::format("{}.tmp-{}", to.string(), random_hex(6));
  const auto failed = [&](Error why) {
    ::unlink(temporary.c_str());
    return why;
  };
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) {
    return errno_error(fmt::format("Cannot create {}", to.string()), errno);
  }
  if (auto written = write_all(fd.get(), content); !written.ok()) {
    return failed(error(written.error().code,
                        fmt::format("Cannot write {}: {}", to.string(), written.error().message)));
  }
  if (::fchmod(fd.get(), mode) != 0) {  // whatever the umask was
    return failed(errno_error(fmt::format("Cannot set the mode of {}", to.string()), errno));
  }
  fd.reset();  // a program that somebody writes to cannot be run
  if (::rename(temporary.c_str(), to.c_str()) != 0) {
    return failed(errno_error(fmt::format("Cannot create {}", to.string()), errno));
  }
  return {};
}

Status bring(const fs::path& from, const fs::path& to, mode_t mode) {
  QUAD_ASSIGN(const std::string content, read_file(from, kMostBytes));
  return put(to, content, mode);
}

/// A folder that everybody may write to. One that somebody else has made so is as good.
Status open_to_all(const fs::path& folder) {
  QUAD_TRY(make_folders(folder, kOpenToAll));
  struct stat facts {};
  if (::stat(folder.c_str(), &facts) == 0 && (facts.st_mode & kOpenToAll) == kOpenToAll) {
    return {};
  }
  if (::chmod(folder.c_str(), kOpenToAll) != 0) {
    return errno_error(fmt::format("Cannot set the mode of {}", folder.string()), errno);
  }
  return {};
}

}  // namespace

Status install(const fs::path& folder, const fs::path& from) {
  const fs::path rank_folder = folder / "rank";
  QUAD_TRY(open_to_all(rank_folder));
  QUAD_TRY(bring("/proc/self/exe", folder / "quad-runner", 0755));
  std::error_code missing;
  if (fs::exists(from / "ca.pem", missing)) {
    QUAD_TRY(bring(from / "ca.pem", rank_folder / "ca.pem", 0644));
  }
  return bring(from / "start.json", rank_folder / "start.json", 0644);
}

}  // namespace quad::runner
