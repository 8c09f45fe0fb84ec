#include "runner/own_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

namespace quad::runner {

Result<UniqueFd> create_own_file(const std::filesystem::path& path, unsigned mode) {
  ::unlink(path.c_str());
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) {
    return errno_error(fmt::format("Cannot create {}", path.string()), errno);
  }
  return fd;
}

}  // namespace quad::runner
