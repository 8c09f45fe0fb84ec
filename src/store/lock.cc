#include "store/lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "base/machine.h"
#include "base/text.h"
#include "base/time.h"

namespace quad::store {

namespace {

constexpr std::chrono::seconds kPatience{2};

/// flock, again until kPatience is over.
bool lock_in_time(int fd) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() > end) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

/// "process 4711 on head1 since 2026-…", as far as the file tells.
std::string holder_of(int fd, const std::filesystem::path& path) {
  const std::string content = read_file(path, 1024).value_or("");
  const std::string_view who = trim(content);
  struct stat info {};
  if (who.empty() || ::fstat(fd, &info) != 0) {
    return "a process that has not said its name yet";
  }
  const WallTime since{static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1000};
  return fmt::format("{} since {}", who, format_rfc3339(since));
}

}  // namespace

Result<UniqueFd> take_lock(const std::filesystem::path& folder, std::string_view name) {
  const std::filesystem::path path = folder / name;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) {
    return errno_error(fmt::format("Cannot open {}", path.string()), errno);
  }
  if (!lock_in_time(fd.get())) {
    if (errno != EWOULDBLOCK) {
      return errno_error(fmt::format("Cannot lock {}", path.string()), errno);
    }
    return error(
        ErrorCode::kExists,
        fmt::format(
            "Another Quad server ({}) already works on {}; stop it, or give this one another "
            "--data-dir",
            holder_of(fd.get(), path), folder.string()));
  }
  const std::string host = host_name();
  const std::string content =
      fmt::format("process {} on {}\n", ::getpid(), host.empty() ? "this host" : host);
  // The name is a courtesy to whom it keeps out: a full disk must not keep this server from its
  // work. Overwritten in place, so that it needs no new block.
  if (::pwrite(fd.get(), content.data(), content.size(), 0) ==
      static_cast<ssize_t>(content.size())) {
    (void)!::ftruncate(fd.get(), static_cast<off_t>(content.size()));
  }
  return fd;
}

}  // namespace quad::store
