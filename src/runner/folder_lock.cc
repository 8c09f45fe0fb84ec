#include "runner/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>

#include "base/text.h"

namespace quad::runner {
namespace {

// Field 22 of stat, which tells this process from a later one of the same number.
std::string own_start_time() {
  const auto stat = read_file("/proc/self/stat", 65536);
  if (!stat.ok()) {
    return "0";
  }
  const std::string_view text(stat.value());
  const auto fields = split(text.substr(text.rfind(')') + 2), ' ');
  return fields.size() > 19 ? std::string(fields[19]) : "0";
}

}  // namespace

Result<UniqueFd> hold_folder(const std::filesystem::path& folder) {
  UniqueFd fd(
      ::open((folder / "runner.pid").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd) {
    return errno_error("Cannot open runner.pid", errno);
  }
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) {
      return error(ErrorCode::kExists, "Another runner is at work in this folder");
    }
    return errno_error("Cannot lock runner.pid", errno);
  }
  if (::ftruncate(fd.get(), 0) != 0) {
    return errno_error("Cannot write runner.pid", errno);
  }
  QUAD_TRY(write_all(fd.get(), fmt::format("{} {}\n", ::getpid(), own_start_time())));
  return fd;
}

}  // namespace quad::runner
