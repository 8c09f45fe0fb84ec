#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/text.h"

namespace quad {

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset(other.release());
  }
  return *this;
}

int UniqueFd::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) {
    ::close(fd_);
  }
  fd_ = fd;
}

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return errno_error("Cannot make a pipe", errno);
  }
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

namespace {

Error cannot_read(const std::filesystem::path& path, int failure) {
  Error result = errno_error(fmt::format("Cannot read {}", path.string()), failure);
  if (failure == ENOENT || failure == ENOTDIR) {
    result.code = ErrorCode::kNotFound;
  }
  return result;
}

Result<std::string> read_to_end(int fd, const std::filesystem::path& path,
                                std::uint64_t max_bytes) {
  std::string content;
  char buffer[65536];
  for (;;) {
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return errno_error(fmt::format("Cannot read {}", path.string()), errno);
    }
    if (got == 0) {
      return content;
    }
    content.append(buffer, static_cast<std::size_t>(got));
    if (content.size() > max_bytes) {
      return error(ErrorCode::kExhausted,
                   fmt::format("{} is larger than the {} bytes allowed", path.string(), max_bytes));
    }
  }
}

}  // namespace

Result<std::string> read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return cannot_read(path, errno);
  }
  return read_to_end(fd.get(), path, max_bytes);
}

Result<std::string> read_regular_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  const bool is_other = !fd && (errno == ELOOP || errno == ENXIO);  // a link, a socket
  if (!is_other && (!fd || ::fstat(fd.get(), &info) != 0)) {
    return cannot_read(path, errno);
  }
  if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    return error(ErrorCode::kInvalid, fmt::format("{} is not a regular file", path.string()));
  }
  return read_to_end(fd.get(), path, max_bytes);
}

Status write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      return errno_error("Cannot write", errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  return {};
}

Status write_file_atomically(const std::filesystem::path& path, std::string_view content,
                             unsigned mode) {
  const std::string temporary = fmt::format("{}.tmp-{}", path.string(), random_hex(6));
  const auto failed = [&](std::string_view what, int failure) {
    ::unlink(temporary.c_str());
    return errno_error(fmt::format("Cannot {} {}", what, path.string()), failure);
  };
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) {
    return failed("create", errno);
  }
  if (auto written = write_all(fd.get(), content); !written.ok()) {
    ::unlink(temporary.c_str());
    return Error{written.error().code,
                 fmt::format("Cannot write {}: {}", path.string(), written.error().message),
                 {}};
  }
  if (::fsync(fd.get()) != 0) {
    return failed("sync", errno);
  }
  fd.reset();
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return failed("replace", errno);
  }
  return sync_folder(path.parent_path());
}

Status make_folders(const std::filesystem::path& path, unsigned mode) {
  if (path.empty() || ::mkdir(path.c_str(), mode) == 0) {
    return {};
  }
  if (errno == ENOENT && path.has_parent_path() && path.parent_path() != path) {
    QUAD_TRY(make_folders(path.parent_path(), mode));
    if (::mkdir(path.c_str(), mode) == 0) {
      return {};
    }
  }
  const int failure = errno;
  struct stat info {};
  if (failure == EEXIST && ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return {};
  }
  return errno_error(fmt::format("Cannot make the folder {}", path.string()), failure);
}

Status sync_folder(const std::filesystem::path& path) {
  const std::string name = path.empty() ? "." : path.string();
  const UniqueFd fd(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) {
    return errno_error(fmt::format("Cannot sync the folder {}", name), errno);
  }
  return {};
}

}  // namespace quad
